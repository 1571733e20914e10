"""A run beside a reference, phase by phase (no paper's figure), and the same as a table."""

import matplotlib.style
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.special import stdtr

from phasejax.analysis.comparison import ROUNDING
from phasejax.figures.style import STYLE_SHEET, TWO_COLUMNS, edges, new_figure

_LIMIT = 5
"""Errors beyond which colours no longer change."""


def deviations(comparison: xr.Dataset) -> Figure:
    """Differences to the reference in units of their errors: a map a phase, observables against training length.

    Args:
        comparison: as `phasejax.analysis.comparison.compare` gives it.
    """
    with matplotlib.style.context(STYLE_SHEET):
        comparison = comparison.isel(step=np.flatnonzero(comparison.step > 0))
        names, phases = comparison.observable.values, comparison.phase.values
        figure, axes = new_figure(TWO_COLUMNS, 1.1 + 0.16 * len(names), columns=len(phases), squeeze=False, sharey=True)
        x, y = edges(comparison.step.values), np.arange(len(names) + 1) - 0.5
        for ax, phase in zip(axes[0], phases, strict=True):
            shown = comparison.deviation.sel(phase=phase).transpose("observable", "step").values
            mesh = ax.pcolormesh(x, y, shown, cmap="RdBu_r", vmin=-_LIMIT, vmax=_LIMIT, rasterized=True)
            ax.set_facecolor("0.85")  # where there is no number
            ax.set(
                xscale="log",
                xlabel="SGD steps",
                ylim=(y[-1], y[0]),
                title=f"{phase}, {int(comparison.cells.sel(phase=phase))} cells",
            )
            ax.set_yticks(range(len(names)), names)
            ax.tick_params("y", length=0)
        figure.colorbar(mesh, ax=axes, label="difference / error", extend="both")
        figure.suptitle(heading(comparison), fontsize=8)
        return figure


def heading(comparison: xr.Dataset) -> str:
    """What is compared, in words."""
    others = f" ({comparison.left_out} more left out)" if comparison.left_out else ""
    how = f"{comparison.seeds} seeds that both have, one by one{others}"
    if not comparison.paired:
        how = f"{comparison.seeds} seeds with the reference's {comparison.reference_seeds}"
    return f"this run and the reference, up to step {int(comparison.step[-1]):,}: {how}"


def table(comparison: xr.Dataset) -> str:
    """The comparison at its last record, a line for each phase and observable, and how many lie far out."""
    last = comparison.isel(step=-1)
    columns = f"{'this run':>10}{'reference':>11}{'difference':>12}{'error':>9}{'in errors':>11}{'p':>9}"
    lines = [f"At step {int(last.step):,}; {heading(comparison)}.", f"{'phase':13}{'observable':23}{columns}"]
    for phase in last.phase.values:
        for name in last.observable.values:
            at = last.sel(phase=phase, observable=name)
            ours, theirs, difference, error, far, p = (
                float(at[key]) for key in ("run", "reference", "difference", "error", "deviation", "p_value")
            )
            line = f"{phase:13}{name:23}{ours:10.3f}{theirs:11.3f}{difference:+12.4f}{error:9.4f}"
            lines.append(line + (f"{far:+11.1f}{p:9.2g}" if np.isfinite(far) else ""))
    beyond = 2 * stdtr(last.freedom, -2.0)
    known = np.isfinite(last.deviation.values)
    far = int((np.abs(last.deviation.values[known]) > 2).sum())
    lines.append(f"{far} of {known.sum()} numbers lie more than two errors from the reference's, where chance alone puts "
                 f"{beyond.values[known].sum():.1f}; the least p is {np.nanmin(last.p_value, initial=1):.2g}.")  # fmt: skip
    if comparison.paired and (np.abs(last.difference) < 3 * ROUNDING).all():
        lines.append("They are the same students: the differences are how the reference is rounded.")
    return "\n".join(lines)
