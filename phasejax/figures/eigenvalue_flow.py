"""Eigenvalues of X = W W^T: where they start, and how they flow during training (Fig 6)."""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from phasejax.analysis.boundaries import PAPER_JAMMING_LINE
from phasejax.analysis.run import activation, layer, settings
from phasejax.analysis.spectrum import layer_sigma_w, marchenko_pastur, marchenko_pastur_edges
from phasejax.analysis.statistics import left_out, nearest, sound
from phasejax.figures.style import (
    ONE_COLUMN,
    TWO_COLUMNS,
    NotDrawable,
    cell_label,
    figure,
    new_figure,
    temperature_axis,
    training_length,
)

# The paper's cells: temperature (or learning rate) and 1/sigma_W.
PHASES = {"ordered": (2**-5, 8), "paramagnetic": (4, 8), "jammed": (2**-5, 2**-8)}


def lies_in(phase: str, cell: xr.Dataset) -> bool:
    """Whether a cell is on the phase's side of the paper's lines T = 1 and 1/sigma_W = sqrt 2, for tanh and SGD."""
    if activation(cell) != "tanh" or "temperature" not in cell.coords:
        return False
    place = (float(cell.temperature), float(cell.inverse_sigma_w))
    lines = (1.0, PAPER_JAMMING_LINE)
    return all((at > line) == (own > line) for at, own, line in zip(place, PHASES[phase], lines, strict=True))


def draw_flow(ax: Axes, cell: xr.Dataset, own: str, phase: str) -> None:
    """The eigenvalues of a layer in one cell, that of the phase or the nearest there is."""
    steps = cell.step.values
    # Time starts at 0 on a logarithmic axis: draw the initial state where step 1/5 would be.
    time = np.where(steps == 0, 0.2, steps)
    found = sound(cell, cell["eigenvalues" + own])
    levels = found.transpose(..., "seed", "step").values
    count = levels.shape[0]
    # The fewer the lines, the stronger.
    strength = 1 / np.sqrt(levels.shape[1])
    look = {"linewidths": np.clip(3 * strength, 0.3, 0.8), "alpha": np.clip(3.5 * strength, 0.35, 0.9)}
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))
    for colour, seeds in zip(colours, levels, strict=True):
        paths = [np.column_stack([time, path]) for path in np.where(seeds > 0, seeds, np.nan)]
        ax.add_collection(LineCollection(paths, colors=[colour], rasterized=True, **look))
    targets = cell["target_eigenvalues" + own].mean("seed").values
    low, high = np.nanmin(levels[levels > 0], initial=np.inf), np.nanmax(levels, initial=0)
    if phase == "ordered":  # the one phase that flows towards the teacher: show where to
        high = max(high, targets.max())
    for target in targets[(targets > low) & (targets <= high)]:
        ax.axhline(target, color="black", linestyle="--", linewidth=0.4)
    ax.set(xscale="log", yscale="log" if high > 0 else "linear", xlim=(0.15, time[-1] * 1.3), xlabel="SGD steps")
    if high > 0:
        ax.set_ylim(low / 1.5, high * 1.5)
    decades = np.arange(0, np.log10(max(time[-1], 1)) + 0.01, dtype=int)
    ax.set_xticks([0.2, *(10.0**decades)], ["0", *(f"$10^{{{k}}}$" for k in decades)])
    lost = left_out(found.isel(step=-1).isel({"level" + own: 0}))
    ax.set_title("\n".join(filter(None, [phase if lies_in(phase, cell) else "", cell_label(cell), lost])))


@figure(
    needs=["eigenvalues", "target_eigenvalues", "sigma_w"],
    caption="Flow of all students' eigenvalues in the three phases; dashed, the teachers' mean eigenvalues",
    number=6,
)
def eigenvalue_flow(dataset: xr.Dataset) -> Figure:
    """Fig 6: eigenvalues of all students against time in the three phases; dashed, the teachers' mean eigenvalues.

    On a grid without the paper's cells the nearest ones are drawn, without the name of a phase they do not lie in. A
    row for each trained layer. A line ends where its student diverges.
    """
    axis = temperature_axis(dataset)[0]
    flows = [str(name) for name in dataset.data_vars if str(name).startswith("eigenvalues") and f"target_{name}" in dataset]
    owns = [name.removeprefix("eigenvalues") for name in flows]
    figure, axes = new_figure(TWO_COLUMNS, 0.4 + 2.4 * len(owns), len(owns), len(PHASES), squeeze=False)
    for row, own in zip(axes, owns, strict=True):
        for ax, (phase, (temperature, inverse_sigma)) in zip(row, PHASES.items(), strict=True):
            cell = dataset.isel(
                {axis: nearest(dataset[axis], temperature), "sigma_w": nearest(dataset.inverse_sigma_w, inverse_sigma)}
            )
            draw_flow(ax, cell, own, phase)
        which = f"layer {own.removeprefix('_')}: " if len(owns) > 1 else ""
        row[0].set_ylabel(f"{which}eigenvalues $x_i$ of $WW^T$")
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure


@figure(
    needs=["eigenvalues", "sigma_w"],
    caption="Eigenvalues of all students at the start against the Marchenko-Pastur density",
)
def initial_spectrum(dataset: xr.Dataset) -> Figure:
    """Eigenvalues of all students at step 0 in units of sigma_W^2, against the Marchenko-Pastur density (Eq 4.2)."""
    if "kind" in settings(dataset)["network"]:
        raise NotDrawable("a network of one's own need not start from Gaussian matrices")
    own, axis = layer(dataset), temperature_axis(dataset)[0]
    ratio = own.nodes / own.inputs
    if ratio > 1:
        raise NotDrawable("the last trained layer widens, and its zero eigenvalues have no density")
    # Every cell starts from the same draws.
    initial = dataset["eigenvalues" + own.suffix].isel({"step": 0, axis: 0, "sigma_w": 0})
    x = (initial / layer_sigma_w(dataset)[0] ** 2).values.ravel()
    _, high = marchenko_pastur_edges(1.0, ratio)
    bins = np.linspace(0, max(high, x.max()), int(np.clip(np.sqrt(x.size), 8, 60)))
    line = np.linspace(0, high * 1.05, 500)

    figure, ax = new_figure(ONE_COLUMN, 2.6)
    ax.hist(x, bins, density=True, color="C5", label=f"{x.size:,} eigenvalues")
    ax.plot(line, marchenko_pastur(line, 1.0, ratio), color="black", label=f"Marchenko-Pastur, $r = {ratio:g}$")
    ax.set(xlabel=r"$x_i(0)/\sigma_W^2$", ylabel="density", xlim=(0, None))
    ax.legend()
    figure.suptitle(training_length(dataset, 0), fontsize=8)
    return figure
