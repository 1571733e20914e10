"""What is drawn of it."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasejax.analysis.run import members
from phasejax.analysis.spectrum import GOE_RATIO, spacing_ratio
from phasejax.analysis.statistics import bootstrap, nearest, sound
from phasejax.analysis.theory import integrate, laguerre, stationary_variance
from phasejax.figures.style import (
    INVERSE_SIGMA,
    ONE_COLUMN,
    TWO_COLUMNS,
    NotDrawable,
    cell_label,
    figure,
    new_figure,
    power_of_two,
    temperature_axis,
    training_length,
)
from phasejax.studies.theory.levels import (
    READINGS,
    WHOLE,
    Companions,
    displacement,
    expected_variance,
    in_words,
    learning_rate,
    predicted,
    spread,
    stability,
    standard_levels,
    trace,
    variance,
)

_TIME = r"$\epsilon t$"
_ORDERS = {"iid": ("C0", "o"), "cyclic": ("C1", "s")}
_PARTS = {
    "drift": ("drift $K$", "C0"),
    "ito": ("Itô", "C1"),
    "coulomb": ("Coulomb", "C2"),
    "finite_step": ("finite step", "C3"),
}
_RESAMPLES = 200


def _member(tree: xr.DataTree, name: str) -> xr.Dataset:
    found = members(tree)
    if name not in found:
        raise NotDrawable(f"the study has no records of the member {name} yet")
    return found[name]


def _with_errors(ax: Axes, along: xr.DataArray, replicates: xr.DataArray, colour: str, marker: str, label: str) -> None:
    """Points with bootstrap errors; `replicates` is (resample, along)."""
    y = replicates.transpose("resample", ...)
    ax.errorbar(along, y[0], y[1:].std("resample"), color=colour, marker=marker, markersize=3, capsize=1.5, linewidth=0.8,
                label=label)  # fmt: skip


def _means(run: xr.Dataset, values: xr.DataArray) -> xr.DataArray:
    return values.weighted(bootstrap(run, _RESAMPLES)).mean("seed")


@figure(
    needs=[],
    caption=(
        "Growth of the spectrum's width in 200 steps, measured and from the equation of motion; what its approximations predict"
    ),
    over="study",
)
def motion(tree: xr.DataTree, *, temperature: float = 0.5) -> Figure:
    """Width and trace of X against the sum of the parts of its levels' motion, step by step.

    Args:
        tree: the study.
        temperature: of the first panel.
    """
    run = _member(tree, "steps_iid")
    figure, axes = new_figure(TWO_COLUMNS, 2.5, columns=3)
    cell = run.sel(temperature=[temperature], method="nearest").isel(sigma_w=-1)
    time = (cell.step * learning_rate(cell)[0]).values
    moved, parts = spread(displacement(cell)).mean("seed"), spread(predicted(cell)).mean("seed")
    for part, (label, colour) in _PARTS.items():
        axes[0].plot(time, parts.sel(part=part).squeeze(), color=colour, linewidth=0.8, label=label)
    axes[0].plot(time, parts.sel(part=list(WHOLE)).sum("part").squeeze(), color="black", label="sum")
    axes[0].plot(time[::20], moved.squeeze()[::20], "ko", markersize=3, markerfacecolor="white", label="measured")
    axes[0].set(xlabel=_TIME, ylabel=r"growth of $x_N - x_1$", title=cell_label(cell.isel(temperature=0)))
    axes[0].legend()

    looks = {"whole": ("black", "o"), "without Ito": ("C1", "^"), "equally spaced": ("C2", "s")}
    labels = {"whole": "second order", "without Ito": "without Itô", "equally spaced": "the paper's Eq 4.8"}
    here = run.isel(sigma_w=-1)
    moved = _means(run, spread(displacement(here)).isel(step=-1))
    parts = _means(run, spread(predicted(here)).isel(step=-1))
    for reading, look in looks.items():
        _with_errors(axes[1], run.temperature, in_words(parts, reading) / moved, *look, labels[reading])
    axes[1].set(ylabel=r"predicted / measured growth of $x_N - x_1$", title=cell_label(here))
    for order, look in _ORDERS.items():
        of = _member(tree, f"steps_{order}").isel(sigma_w=-1)
        moved = _means(of, trace(displacement(of)).isel(step=-1))
        _with_errors(axes[2], of.temperature, in_words(_means(of, trace(predicted(of)).isel(step=-1)), "whole") / moved, *look,
                     order)  # fmt: skip
    axes[2].set(ylabel=r"predicted / measured growth of tr $X$", ylim=(0, 2))
    for ax in axes[1:]:
        ax.axhline(1, color="0.6", linewidth=0.6)
        ax.set(xscale="log", xlabel=temperature_axis(run)[1])
        ax.legend()
    figure.suptitle(training_length(run), fontsize=8)
    return figure


@figure(
    needs=[],
    caption="Levels of students, and of companions that move by the Dyson process with the students' own coefficients",
    over="study",
)
def companions(tree: xr.DataTree, *, temperatures: tuple[float, ...] = (0.03125, 0.125, 0.5)) -> Figure:
    """Levels against time: lines and bands, mean and 16-84 % of the students; dashes and dots, the same of companions."""
    run = _member(tree, "steps_iid").isel(sigma_w=-1)
    figure, axes = new_figure(TWO_COLUMNS, 2.7, columns=len(temperatures))
    for ax, temperature in zip(axes, temperatures, strict=True):
        cell = run.sel(temperature=[temperature], method="nearest")
        one = cell.isel(temperature=0)
        process = Companions(cell.isel(temperature=0).assign_coords(temperature=one.temperature))
        every = slice(None, None, 10)
        times = process.times[every]
        paths = integrate(process.levels[0], process, float(one.temperature), times, (times[1] - times[0]) / 20,
                          np.random.default_rng(0))  # fmt: skip
        for level, colour in zip((1, 7, 11, 13, 14, 15), ("C6", "C4", "C3", "C2", "C1", "C0"), strict=True):
            low, mid, high = np.quantile(process.levels[every, :, level], (0.16, 0.5, 0.84), axis=1)
            ax.fill_between(times, low, high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(times, mid, color=colour, linewidth=0.8, label=f"$x_{{{level + 1}}}$")
            low, mid, high = np.quantile(paths[:, :, level], (0.16, 0.5, 0.84), axis=1)
            ax.plot(times, mid, "--", color=colour, linewidth=1.2)
            for end in (low, high):
                ax.plot(times, end, ":", color=colour, linewidth=0.8)
        ax.set(yscale="log", xlabel=_TIME, title=cell_label(one))
    axes[0].set_ylabel(r"levels $x_i$ of $WW^T$")
    axes[-1].legend(ncols=2, handlelength=1)
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
    runs = {order: _member(tree, f"linear_{order}") for order in _ORDERS}
    scale = standard_levels(20_000)
    for ax, (order, run) in zip(axes, runs.items(), strict=False):
        cell = run.isel(temperature=0)
        rate = float(learning_rate(run)[0])
        steps = np.flatnonzero(run.step.values >= 8)
        times = run.step.values * rate
        levels = sound(run, run.eigenvalues).isel(temperature=0)
        levels = levels.transpose("step", "seed", "level", ...).values.reshape(len(run.step), run.sizes["seed"], -1)
        s, inputs = float(stability(run)[0]), 11
        paths = integrate(levels[0], lambda x, _: laguerre(x, inputs, 1.0, 1.0), float(cell.temperature), times,
                          times[-1] / 2000, np.random.default_rng(0))  # fmt: skip
        exact = np.atleast_1d(expected_variance(run).isel(temperature=0).squeeze())[:, None] * scale
        for level in range(levels.shape[-1]):
            colour = f"C{level}"
            low, high = np.quantile(levels[:, :, level], (0.16, 0.84), axis=1)[:, steps]
            ax.fill_between(times[steps], low, high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(times[steps], levels[steps, :, level].mean(1), color=colour, linewidth=0.8)
            ax.plot(times[steps], paths[steps, :, level].mean(1), "--", color=colour, linewidth=1.0)
            ax.plot(times[steps], exact[steps, level], "k:", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlabel=_TIME, title=f"{order}, ${power_of_two(float(cell.temperature))} = T$")
        ax.set_ylim(exact[steps, 0].min() / 3, 3 * exact[-1, -1])
    axes[0].set_ylabel("levels $x_i$ of $WW^T$")

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


@figure(needs=[], caption="Spacing ratio of the levels in the phases against the Gaussian orthogonal ensemble's", over="study")
def spacing_ratios(tree: xr.DataTree) -> Figure:
    """Mean ratio of neighbouring gaps against training length, with errors over seeds."""
    figure, ax = new_figure(ONE_COLUMN, 2.6)
    for order, style in (("iid", "-"), ("cyclic", ":")):
        run = _member(tree, f"phases_{order}")
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
    ax.set(xscale="log", xlabel="SGD steps", ylabel=r"spacing ratio $\tilde r$")
    ax.legend(fontsize=5.5, ncols=2)
    figure.suptitle(training_length(run), fontsize=8)
    return figure


__all__ = ["INVERSE_SIGMA", "READINGS", "companions", "motion", "noise_alone", "spacing_ratios"]
