"""The boundaries between the phases, on slices and maps of what they should separate (Fig 8)."""

from typing import get_args

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from phasejax.analysis import boundaries
from phasejax.analysis.run import layer, require, settings, why_not_recorded
from phasejax.analysis.statistics import Statistic, crossings, final, nearest
from phasejax.experiment import Reading
from phasejax.figures.maps import ALIGNMENT_PANEL, MEMORY_PANEL, draw_map, hatch_missing
from phasejax.figures.slices import LOSS_PANEL, ORDERED, draw_with_bars, heading, in_temperature
from phasejax.figures.style import (
    CONVERGED,
    ONE_SIGMA,
    TRAINING_LOSS,
    TWO_COLUMNS,
    Look,
    cell_label,
    figure,
    new_figure,
    panels,
    temperature_axis,
)


def draw_line(ax: Axes, x: np.ndarray, y: np.ndarray, look: Look, label: str) -> None:
    """A line that can be seen on dark and on light colours; the view stays as it is."""
    view = ax.get_xlim(), ax.get_ylim()
    outline = [Stroke(linewidth=2.2, foreground="black"), Normal()]
    colour, style = look
    ax.plot(x, y, color=colour, linestyle=style, linewidth=1.1, path_effects=outline, label=label)
    ax.set(xlim=view[0], ylim=view[1])


def draw_contours(ax: Axes, values: xr.DataArray, level: float, look: Look, label: str) -> None:
    """The lines of one level of values (temperature, sigma_w)."""
    for x, y in boundaries.contours(values, level):
        draw_line(ax, x, y, look, label)


def has_boundary(dataset: xr.Dataset) -> bool:
    """Whether the criterion is defined for a run, and recorded.

    Raises:
        RunError: it is, and the file lacks it all the same.
    """
    if "converged" in dataset:
        return True
    needs = ("temperature", "restoring", "V_S")
    no_temperature = settings(dataset)["sgd"]["optimizer"] != "sgd"
    if no_temperature or layer(dataset).nodes < 2 or any(why_not_recorded(dataset, name) for name in needs):
        return False
    require(dataset, *needs)
    return True


def add_legend(figure: Figure) -> None:
    """One legend under the figure for all the lines in it that have a label, each label once."""
    lines = {str(line.get_label()): line for ax in figure.axes for line in ax.get_lines()}
    shown = {label: line for label, line in lines.items() if not label.startswith("_")}
    if shown:
        figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=3, handlelength=3)


@figure(
    needs=["converged", "temperature", "sigma_w"],
    caption=(
        "Where 68, 95 and 99.7 % of the students have converged: on the slice the 68 % crossing with its bootstrap "
        "interval, and the temperatures of the grid that bracket the other two; on the maps all three lines, where the "
        "legend says which are not resolved by so many seeds. The published figure is the reading released: its two- and "
        "three-sigma lines enclose the ordered corner. Those of drift do not; its K_S is never negative, so that it says "
        "how large the drift is, not that it restores"
    ),
    number=8,
)
def convergence_boundaries(dataset: xr.Dataset, *, reading: str = "drift", statistic: Statistic = "median") -> Figure:
    """Fig 8: where 68, 95 and 99.7 % of the students satisfy Eq 4.15, in the published reading and in another.

    Left, over the training loss on the slice at 1/sigma_W = 8, the 68 % crossing with its bootstrap interval, and the
    temperatures of the grid that bracket the other two; centre and right, all three lines on memory and alignment; a line
    says so that the number of seeds does not resolve.

    Args:
        dataset: a run.
        reading: of the criterion, a row below that of `released`, which the paper drew.
        statistic: of the slice; the maps show means.
    """
    axis = in_temperature(dataset)
    published = ["released"] if reading != "released" and "released" in dataset.reading.values else []
    readings = [*published, reading]
    found = panels(dataset, LOSS_PANEL | MEMORY_PANEL | ALIGNMENT_PANEL)
    loss = found.pop(TRAINING_LOSS, None)
    rows, columns = len(readings), len(found) + (loss is not None)
    figure, axes = new_figure(TWO_COLUMNS, 2.4 * rows + 0.3, rows, columns, squeeze=False)
    resolved = boundaries.resolved(dataset.sizes["seed"])
    for row, one in zip(axes, readings, strict=True):
        share = boundaries.fraction(dataset.isel(step=[-1]), one).fraction.isel(step=0)
        if loss is not None:
            draw_with_bars(row[0], axis, loss.isel(sigma_w=nearest(dataset.inverse_sigma_w, ORDERED)), statistic)
            draw_crossings(row[0], dataset, share, one)
            row[0].set(xlabel=temperature_axis(dataset)[1], ylabel=f"{statistic} {TRAINING_LOSS}")
        maps = row[loss is not None :]
        for ax, (label, (values, _)) in zip(maps, found.items(), strict=True):
            words = f"{one}, as published" if one == "released" else one
            draw_map(ax, final(dataset, values), label=f"mean {label}\n{words}")
            for level, look in CONVERGED.items():
                unless = "" if level in resolved else f", not resolved by {dataset.sizes['seed']} seeds"
                draw_contours(ax, share, level, look, f"{100 * level:g} % converged{unless}")
        for ax in maps[1:]:
            ax.set(ylabel="")  # that of the map beside it
    add_legend(figure)
    lost = () if loss is None else (loss,)
    figure.suptitle(f"{heading(dataset, *lost)}, criterion {' and '.join(readings)}", fontsize=8)
    return figure


def draw_crossings(ax: Axes, dataset: xr.Dataset, share: xr.DataArray, reading: str) -> None:
    """On the slice at 1/sigma_W = 8, where fractions of the students have converged: `share` (temperature, sigma_w)."""
    axis, column = in_temperature(dataset), nearest(dataset.inverse_sigma_w, ORDERED)
    here = dataset.isel(sigma_w=[column])
    found = crossings(share.isel(sigma_w=column), boundaries.SIGMAS[0], axis).dropna("crossing").values.tolist()
    for temperature in found:
        ax.axvline(temperature, color="C1", linestyle="-.")
    interval = boundaries.transition(here, boundaries.SIGMAS[0], reading).isel(sigma_w=0)
    low, high = float(interval.T_c_low), float(interval.T_c_high)
    if np.isfinite(low):
        ax.axvspan(low, high, color="C1", alpha=0.3, linewidth=0)
    ax.set_ylim(top=ax.get_ylim()[1] * 10)
    above = ax.get_xaxis_transform()
    for height, level in zip((0.94, 0.86), boundaries.SIGMAS[1:], strict=True):
        bracket = boundaries.transition(here, level, reading).isel(sigma_w=0)
        ends = [float(bracket.T_below), float(bracket.T_above)]
        if np.isfinite(ends[0]):
            ax.plot(ends, [height] * 2, color="C1", marker="|", markersize=5, transform=above)
            place = (max(ends[1], *found) if found else ends[1], height)  # right of the lines
            ax.annotate(f"{100 * level:g} %", place, (4, 0), above, "offset points", va="center", fontsize=7)
    words = "no 68 % crossing" if not found else "68 % at $T$ = " + ", ".join(f"{t:.2g}" for t in found)
    ax.set_title(f"{cell_label(here.isel(sigma_w=0))}\n{words}")


@figure(
    needs=["restoring", "V_S", "eigenvalues", "temperature", "sigma_w"],
    caption=(
        "The convergence criterion in its four readings: fraction of students converged (top), the same with S(t) in "
        "place of S(0) (centre), and share of students with V_S < 0 (bottom), who may pass for free"
    ),
)
def criterion(dataset: xr.Dataset) -> Figure:
    """The criterion in its four readings: fraction converged by Eq 4.15, and with S(t) for S(0), and share of V_S < 0."""
    last = dataset.isel(step=[-1])
    finite = final(dataset, dataset["V_S" + layer(dataset).suffix].isel(reading=0, drop=True))
    figure, axes = new_figure(TWO_COLUMNS, 5.6, 3, len(get_args(Reading)))
    for column, reading in zip(axes.T, get_args(Reading), strict=True):
        found = boundaries.fraction(last, reading).isel(step=0)
        same_time = boundaries.fraction(last, reading, "current").isel(step=0)
        for ax, shares in zip(column, (found.fraction, same_time.fraction, found.negative_V_S), strict=True):
            mesh = draw_map(ax, shares.expand_dims("seed"), limits=(0, 1))
            hatch_missing(ax, finite)
            ax.label_outer()
        draw_contours(column[0], found.fraction, boundaries.SIGMAS[0], ONE_SIGMA, "68 % converged")
        column[0].set_title(reading)
    for row, label in zip(axes, ("converged, $S(0)$", "converged, $S(t)$", "$V_S < 0$"), strict=True):
        figure.colorbar(mesh, ax=row, label=f"share with {label}" if "<" in label else f"fraction {label}")
    add_legend(figure)
    figure.suptitle(heading(dataset, finite), fontsize=8)
    return figure
