"""What is drawn of it."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasejax.analysis.run import layer, member
from phasejax.analysis.spectrum import GOE_RATIO, spacing_ratio
from phasejax.analysis.statistics import bootstrap, nearest, sound
from phasejax.analysis.theory import Coefficients, integrate, laguerre, stationary_variance
from phasejax.figures.style import (
    ONE_COLUMN,
    TWO_COLUMNS,
    cell_label,
    figure,
    label_cells,
    new_figure,
    temperature_axis,
    training_length,
)
from phasejax.studies.theory.levels import (
    KICKED,
    WHOLE,
    accompanied,
    displacement,
    expected_variance,
    growth,
    learning_rate,
    moves,
    predicted,
    ratio,
    stability,
    standard_levels,
    trace,
    variance,
    width,
)

_TIME = r"$\epsilon t$"
_ORDERS = {"iid": ("C0", "o"), "cyclic": ("C1", "s")}
_PARTS = {
    "drift": ("drift $K$", "C0"),
    "ito": ("Itô", "C1"),
    "coulomb": ("Coulomb", "C2"),
    "finite_step": ("finite step", "C3"),
}
_READINGS = {"second order": ("black", "o"), "without Itô": ("C1", "^"), "the paper's Eq 4.8": ("C2", "v")}
_LEVELS, _COLOURS = (0, 6, 10, 13, 14, 15), ("C6", "C4", "C3", "C2", "C1", "C0")
"""Of the sixteen, those that are drawn."""
_RESAMPLES = 200


def _with_errors(ax: Axes, along: xr.DataArray, replicates: xr.DataArray, colour: str, marker: str, label: str) -> None:
    """Points with bootstrap errors; `replicates` is (resample, along)."""
    y = replicates.transpose("resample", ...)
    ax.errorbar(along, y[0], y[1:].std("resample"), color=colour, marker=marker, markersize=3, capsize=1.5, linewidth=0.8,
                label=label)  # fmt: skip


def _means(run: xr.Dataset, values: Any) -> Any:
    return values.weighted(bootstrap(run, _RESAMPLES)).mean("seed")


@figure(
    needs=[],
    caption=(
        "Growth of the spectrum's width and trace, measured, and from the levels' equation of motion, whole and approximated"
    ),
    over="study",
)
def motion(tree: xr.DataTree, *, temperature: float = 0.5) -> Figure:
    """Width and trace of X against the sum of the parts of its levels' motion, step by step.

    Args:
        tree: the study.
        temperature: of the first panel.
    """
    run = member(tree, "steps_iid").isel(sigma_w=0)
    figure, axes = new_figure(TWO_COLUMNS, 2.8, columns=3)
    cell = run.isel(temperature=nearest(run.temperature, temperature))
    moved, parts = (width(of(cell, KICKED)).mean("seed") for of in (displacement, predicted))
    time = (parts.step * learning_rate(cell)).values
    for part, (label, colour) in _PARTS.items():
        axes[0].plot(time, parts.sel(part=part), color=colour, linewidth=0.8, label=label)
    axes[0].plot(time, parts.sel(part=list(WHOLE)).sum("part"), color="black", label="their sum")
    axes[0].plot(time[::12], moved[::12], "ko", markersize=3, markerfacecolor="white", label="measured")
    axes[0].set(xlabel=_TIME, ylabel=rf"growth of $x_N - x_1$ from step {KICKED}", title=cell_label(cell))
    axes[0].set_ylim(top=1.6 * float(moved[-1]))
    axes[0].legend(loc="upper left", ncols=2, columnspacing=1, handlelength=1.2)

    lines = [("iid", reading, look) for reading, look in _READINGS.items()]
    lines.insert(1, ("cyclic", "second order", ("C3", "s")))
    for ax, (of, name) in zip(axes[1:], ((width, "width"), (trace, "trace")), strict=True):
        for order, reading, look in lines:
            moving = moves(member(tree, f"steps_{order}").isel(sigma_w=0))
            found = ratio(_means(moving, growth(moving, of)), reading)
            _with_errors(ax, moving.temperature, found, *look, reading if order == "iid" else f"{reading}, {order}")
        ax.axhline(1, color="0.6", linewidth=0.6)
        ax.set(xscale="log", xlabel=temperature_axis(run)[1], ylabel=f"growth of {name}, predicted / measured",
               title=cell_label(run))  # fmt: skip
        label_cells(ax.xaxis, moving.temperature.values)
    axes[1].set_ylim(0.5, 4)
    axes[1].legend(loc="upper left")
    figure.suptitle(training_length(run), fontsize=8)
    return figure


@figure(
    needs=[],
    caption="Levels of students, and of companions that move by the Dyson process with the students' own coefficients",
    over="study",
)
def companions(tree: xr.DataTree) -> Figure:
    """Levels against time: lines and bands, median and 16-84 % of the students; dashes and dots, the same of companions."""
    run = member(tree, "companions")
    figure, axes = new_figure(TWO_COLUMNS, 2.7, columns=run.sizes["temperature"])
    for k, ax in enumerate(axes):
        cell = run.isel(temperature=k)
        process, paths = accompanied(cell)
        for level, colour in zip(_LEVELS, _COLOURS, strict=True):
            low, middle, high = np.quantile(process.levels[..., level], (0.16, 0.5, 0.84), axis=1)
            ax.fill_between(process.times, low, high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(process.times, middle, color=colour, linewidth=0.8, label=f"$x_{{{level + 1}}}$")
            low, middle, high = np.quantile(paths[..., level], (0.16, 0.5, 0.84), axis=1)
            ax.plot(process.times, middle, "--", color=colour, linewidth=1.2)
            for end in (low, high):
                ax.plot(process.times, end, ":", color=colour, linewidth=0.8)
        ax.set(yscale="log", xlabel=_TIME, title=cell_label(cell))
    axes[0].set_ylabel(r"levels $x_i$ of $WW^T$")
    axes[0].legend(ncols=2, handlelength=1, loc=(0.1, 0.24), fontsize=6)
    figure.suptitle(training_length(run), fontsize=8)
    return figure


@figure(
    needs=[],
    caption="A matrix that learns noise alone: its levels and the Laguerre process; variance of its entries against T",
    over="study",
)
def noise_alone(tree: xr.DataTree) -> Figure:
    """Levels against time in both orders, with the Laguerre process; the final variance of W against its closed forms."""
    figure, axes = new_figure(TWO_COLUMNS, 2.6, columns=3)
    runs = {order: member(tree, f"linear_{order}") for order in _ORDERS}
    scale = standard_levels(20_000)
    inputs = layer(runs["iid"]).inputs

    def process(levels: np.ndarray, _: float) -> Coefficients:
        return laguerre(levels, inputs, 1.0, 1.0)

    for ax, (order, run) in zip(axes, runs.items(), strict=False):
        cell = run.isel(temperature=0)
        steps, times = np.flatnonzero(run.step.values >= 8), run.step.values * float(learning_rate(run)[0])
        levels = sound(cell, cell.eigenvalues).transpose("step", "seed", "level").values
        paths = integrate(levels[0], process, float(cell.temperature), times, times[-1] / 2000, np.random.default_rng(0))
        exact = np.atleast_1d(expected_variance(run).isel(temperature=0).squeeze())[:, None] * scale
        for level in range(levels.shape[-1]):
            colour = f"C{level}"
            low, high = np.quantile(levels[:, :, level], (0.16, 0.84), axis=1)[:, steps]
            ax.fill_between(times[steps], low, high, color=colour, alpha=0.25, linewidth=0)
            lines = {"students": (levels[:, :, level].mean(1), "-", colour), "closed form": (exact[:, level], ":", "black"),
                     "Laguerre process": (paths[:, :, level].mean(1), "--", colour)}  # fmt: skip
            for name, (mean, style, shade) in lines.items():
                ax.plot(times[steps], mean[steps], style, color=shade, linewidth=0.9, label=None if level else name)
        ax.set(xscale="log", yscale="log", xlabel=_TIME, title=f"{order}, {cell_label(cell.drop_vars('inverse_sigma_w'))}")
        ax.set_ylim(exact[steps, 0].min() / 3, 15 * exact[-1, -1])
    axes[0].set_ylabel("levels $x_i$ of $WW^T$")
    axes[1].legend(loc="upper left")

    ax, grid = axes[2], np.geomspace(2**-11, 0.1, 200)
    run = runs["iid"]
    s, rate = (float((of / run.temperature)[0]) * grid for of in (stability(run), learning_rate(run)))
    ax.plot(grid, stationary_variance(grid, 1.0, 1.0, s) / grid, color="black", label=r"$Tv/\lambda(2 - s)$")
    ax.plot(grid, stationary_variance(grid, 1.0, 1.0, rate) / grid, "k--", label=r"$Tv/\lambda(2 - \epsilon\lambda)$")
    ax.axhline(0.5, color="0.6", linestyle=":", label=r"$Tv/2\lambda$")
    for order, look in _ORDERS.items():
        found = _means(runs[order], variance(runs[order]).isel(step=-1).squeeze()) / runs[order].temperature
        _with_errors(ax, runs[order].temperature, found, *look, order)
    ax.set(xscale="log", yscale="log", xlabel=temperature_axis(run)[1], ylabel=r"variance of $W_{ij}$ over $T$")
    ax.legend()
    figure.suptitle(training_length(run), fontsize=8)
    return figure


@figure(
    needs=[], caption="Spacing ratio of the levels in the phases against the Gaussian orthogonal ensemble's", over="study"
)
def spacing_ratios(tree: xr.DataTree) -> Figure:
    """Mean ratio of neighbouring gaps against training length, with errors over seeds."""
    figure, ax = new_figure(ONE_COLUMN, 2.6)
    for order, style in (("iid", "-"), ("cyclic", ":")):
        run = member(tree, f"phases_{order}")
        ratio = sound(run, spacing_ratio(run))
        cells = [(t, s) for t in range(run.sizes["temperature"]) for s in range(run.sizes["sigma_w"])]
        for number, (t, s) in enumerate(cells):
            values = ratio.isel(temperature=t, sigma_w=s)
            time = np.where(run.step == 0, 0.3, run.step)
            mean, error = values.mean("seed"), values.std("seed", ddof=1) / np.sqrt(values.count("seed"))
            label = cell_label(run.isel(temperature=t, sigma_w=s)) if order == "iid" else None
            ax.plot(time, mean, style, color=f"C{number}", linewidth=0.8, label=label)
            if order == "iid":
                ax.fill_between(time, mean - error, mean + error, color=f"C{number}", alpha=0.2, linewidth=0)
    ax.axhline(GOE_RATIO, color="black", linestyle="--", linewidth=0.8)
    ax.annotate("GOE", (1, GOE_RATIO), (-3, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right")
    ax.set(xscale="log", xlabel="SGD steps", ylabel=r"spacing ratio $\tilde r$", ylim=(0.3, 0.6))
    ax.legend(fontsize=6, ncols=2, loc="lower left")
    figure.suptitle(training_length(run), fontsize=8)
    return figure
