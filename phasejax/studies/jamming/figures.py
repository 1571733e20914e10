"""What is drawn of it."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from phasejax.analysis.run import member
from phasejax.analysis.statistics import bootstrap
from phasejax.figures.style import (
    TWO_COLUMNS,
    disorder_colours,
    figure,
    new_figure,
    power_of_two,
    training_length,
)
from phasejax.studies.jamming.relaxation import (
    AGED,
    CLOCKS,
    DISORDER,
    SATURATED,
    TEMPERATURE,
    YOUNG,
    ageing_exponent,
    at_temperature,
    cell,
    correlation,
    series,
)

RESAMPLES = 200
NEEDS = ("test_loss", "G_t0", "G_00", "G_tt", "eigenvalues")
SLICE = f"$T = {power_of_two(TEMPERATURE)}$"


def _draw_times(ax: Axes, run: xr.Dataset, clock: str, **look: Any) -> xr.DataArray:
    """eps t* of a run at one temperature against sigma_W, with its errors; returns its logarithm."""
    falls = series(run)[CLOCKS[clock].variable]
    times = CLOCKS[clock].time(falls.weighted(bootstrap(falls, RESAMPLES)).mean("seed"))
    centre, errors = times.isel(resample=0), times.isel(resample=slice(1, None)).std("resample")
    low, high = 10**centre - 10 ** (centre - errors), 10 ** (centre + errors) - 10**centre
    ax.errorbar(times.sigma_w, 10**centre, (low, high), linewidth=0.7, **look)
    return centre


def _guide(ax: Axes, times: xr.DataArray, slope: int) -> None:
    """A line of a slope below the last of the times."""
    times = times.sortby("sigma_w")
    known = np.flatnonzero(times.notnull())
    if known.size:
        x, last = times.sigma_w.values, known[-1]
        height = 0.3 * 10 ** float(times[last]) * (x / x[last]) ** slope
        first, middle = last // 2, (last + last // 2) // 2
        ax.plot(x[first : last + 1], height[first : last + 1], color="0.6", linewidth=0.8, zorder=0)
        ax.annotate(rf"$\sigma_W^{slope}$", (x[middle] * 1.2, height[middle] * 0.8), color="0.4", va="top")


def _draw_series(ax: Axes, run: xr.Dataset, colour: ScalarMappable, z: int = 0, **look: Any) -> None:
    """The loss of a run at one temperature against eps t / sigma_W^z, a line a sigma_W."""
    loss = series(run).loss.mean("seed")
    for index, sigma in enumerate(run.sigma_w.values):
        if z == 0 or sigma >= SATURATED:
            one = loss.isel(sigma_w=index, step=np.flatnonzero(loss.step > 0))
            ax.plot(one.step * run.learning_rate / sigma**z, 10**one, color=colour.to_rgba(1 / sigma), **look)


@figure(
    needs=NEEDS,
    caption=(
        "Learning from large initial weights takes a power of sigma_W longer. Left: test loss over its start against eps t, "
        "with noise (lines) and without (dashed). Centre, right: the time in which it falls to a half, and to a tenth, "
        "against sigma_W, for all temperatures, the paper's cyclic order, 16 times the data, and the flow; bars are a "
        "bootstrap over seeds"
    ),
    over="study",
)
def relaxation(tree: xr.DataTree) -> Figure:
    """The loss against time, and relaxation times against sigma_W, of all members."""
    iid, *others = (member(tree, name) for name in ("iid", "cyclic", "data", "flow"))
    cyclic, data, flow = map(at_temperature, others)
    drawn, axes = new_figure(TWO_COLUMNS, 3.0, columns=3)
    colour = disorder_colours(iid.inverse_sigma_w.values)
    _draw_series(axes[0], at_temperature(iid), colour, linewidth=0.8)
    _draw_series(axes[0], flow, colour, linewidth=0.8, linestyle="--")
    axes[0].set(xscale="log", yscale="log", xlabel=r"$\epsilon t$", ylabel=r"$\mathcal{L}(t)/\mathcal{L}(0)$",
                title=f"{SLICE}, flow dashed")  # fmt: skip
    drawn.colorbar(colour, ax=axes[0], label=r"$1/\sigma_W$", location="bottom")
    for ax, clock, slope in zip(axes[1:], ("half", "tenth"), (2, 3), strict=True):
        for k, mark in zip(range(iid.sizes["temperature"]), "os^vD", strict=False):
            words = f"iid, $T = {power_of_two(float(iid.temperature[k]))}$"
            _draw_times(ax, iid.isel(temperature=k), clock, fmt=f"{mark}-", markersize="2.5", label=words)
        _draw_times(ax, cyclic, clock, fmt="x:", markersize="4", color="0.3", label=f"cyclic, {SLICE}")
        times = _draw_times(ax, data, clock, fmt="+:", markersize="5", color="C5", label=f"more data, {SLICE}")
        _draw_times(ax, flow, clock, fmt="k*--", markersize="4", label="flow")
        _guide(ax, times, slope)
        ax.axvline(SATURATED, color="0.85", linewidth=0.6, zorder=0)
        ax.set(xscale="log", yscale="log", xlabel=r"$\sigma_W$", title=CLOCKS[clock].words)
        ax.set(ylabel=r"$\epsilon t^*$", xlim=(1, 400))
    legend = axes[1].legend(loc="upper left", bbox_to_anchor=(-0.1, -0.2), ncols=3, fontsize=6.5)
    legend.set_in_layout(False)  # there is room beside the colour bar
    drawn.suptitle(training_length(iid), fontsize=8)
    return drawn


@figure(
    needs=["kept_features", *NEEDS],
    caption=(
        "Left and centre: ageing, C(t, t_w) against (t - t_w) / t_w, a line a waiting time (grey: nodes still turn), "
        "with noise and in the flow. Right: the loss against eps t / sigma_W^2 of all saturated students, with noise "
        "(lines), without (dashed), and with 16 times the data (dotted)"
    ),
    over="study",
)
def ageing(tree: xr.DataTree) -> Figure:
    """Two-time correlations with and without noise, and the collapse of the loss."""
    runs = {name: member(tree, name) for name in ("iid", "flow", "data")}
    drawn, axes = new_figure(TWO_COLUMNS, 3.0, columns=3)
    for ax, (name, run) in zip(axes[:2], runs.items(), strict=False):
        means = correlation(cell(run)).mean("seed")
        waiting = means.waited.values[means.waited.values > 0][:-1]
        rate = float(means.learning_rate)
        pale = ListedColormap(colormaps["plasma"](np.linspace(0, 0.9, 256)))
        colour = ScalarMappable(LogNorm(YOUNG, rate * waiting[-1]), pale)
        for waited in waiting:
            later = means.sel(waited=waited).isel(step=np.flatnonzero(means.step > waited))
            look = colour.to_rgba(rate * waited) if rate * waited >= YOUNG else "0.85"
            ax.plot((later.step - waited) / waited, later, color=look, linewidth=0.8)
        ax.axhline(AGED, color="0.7", linewidth=0.6, zorder=0)
        words = {"iid": f"iid, {SLICE}", "flow": "flow"}[name]
        mu = float(ageing_exponent(means))
        ax.set(xscale="log", xlabel="$(t - t_w)/t_w$", ylabel="$C(t, t_w)$", ylim=(0.68, 1.01),
               title=rf"{words}, $\sigma_W = {DISORDER:g}$, $\mu = {mu:.2f}$")  # fmt: skip
        drawn.colorbar(colour, ax=ax, label=r"$\epsilon t_w$", location="bottom")
    disorder = disorder_colours(runs["iid"].inverse_sigma_w.values)
    _draw_series(axes[2], at_temperature(runs["iid"]), disorder, 2, linewidth=0.8)
    _draw_series(axes[2], at_temperature(runs["flow"]), disorder, 2, linewidth=0.8, linestyle="--")
    _draw_series(axes[2], at_temperature(runs["data"]), disorder, 2, linewidth=1.0, linestyle=":")
    axes[2].set(xscale="log", yscale="log", xlabel=r"$\epsilon t/\sigma_W^2$", ylabel=r"$\mathcal{L}(t)/\mathcal{L}(0)$",
                title="flow dashed, more data dotted")  # fmt: skip
    drawn.colorbar(disorder, ax=axes[2], label=r"$1/\sigma_W$", location="bottom")
    drawn.suptitle(training_length(runs["iid"]), fontsize=8)
    return drawn
