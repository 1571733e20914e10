"""Loss and its variances against T / T_0 for networks of several sizes, and what the spread of T_0 alone would give."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasejax.analysis.stability import stability_edge
from phasejax.analysis.statistics import bootstrap, independent
from phasejax.figures.style import TEST_LOSS, TWO_COLUMNS, figure, in_powers_of_two, new_figure, training_length
from phasejax.studies.finite_size.numbers import by_size, disconnected, losses, parts, rescaled

_RATIOS = tuple(np.exp2(np.arange(-2, 11) / 2))


def _with_error(ax: Axes, x: np.ndarray, resampled: xr.DataArray, **look: object) -> None:
    """A line with the range of a bootstrap over teachers."""
    there = np.isfinite(resampled.values[0])
    centre, *others = resampled.values[:, there]
    low, high = np.quantile(others, [0.16, 0.84], axis=0)
    (line,) = ax.plot(x[there], centre, linewidth=1, **look)  # pyright: ignore[reportArgumentType]
    ax.fill_between(x[there], low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def smooth_curve(run: xr.Dataset) -> xr.DataArray:
    """The variance of log10 L between teachers at each T, were it one curve of T / T_0 for all: that of T_0 alone."""
    values, edge = losses(run).isel(step=-1), np.log2(stability_edge(run))
    curve = rescaled(run, _RATIOS).isel(step=-1).mean("seed")
    at = np.log2(run.temperature) - edge
    there = curve.notnull().values
    shifted = xr.apply_ufunc(lambda x: np.interp(x, np.log2(_RATIOS)[there], curve.values[there]), at)
    return shifted.where(values.notnull()).var("seed")


@figure(
    needs=["test_loss", "teacher_sharpness", "teacher_noise_sharpness"],
    over="study",
    caption=(
        "Mean log10 of the test loss against T / T_0 for several sizes of the trained layer; its variance among students of "
        "one teacher (connected) and between teachers (disconnected), there; and its variance between teachers against T "
        "itself, beside what one smooth curve and the spread of T_0 alone would give (dotted). Bands are 68 % of a "
        "bootstrap over teachers"
    ),
)
def sizes(tree: xr.DataTree) -> Figure:
    """Mean and variances of the logarithm of the loss, by size."""
    runs = by_size(tree)
    figure, axes = new_figure(TWO_COLUMNS, 2.6, columns=4)
    colours = colormaps["viridis"](np.linspace(0, 0.85, len(runs)))
    for colour, (nodes, run) in zip(colours, runs.items(), strict=True):
        found = parts(rescaled(run, _RATIOS).isel(step=-1))
        means = found.weighted(bootstrap(found, 200)).mean("seed").transpose("resample", ...)
        x, look = np.array(_RATIOS), {"color": colour, "label": f"$n_2 = {nodes}$"}
        _with_error(axes[0], x, means.of_teacher, **look)
        _with_error(axes[1], x, means.connected, **look)
        _with_error(axes[2], x, disconnected(means), **look)
        plain = parts(losses(run).isel(step=-1))
        whole = plain.weighted(bootstrap(plain, 200)).mean("seed").transpose("resample", ...)
        _with_error(axes[3], run.temperature.values, disconnected(whole), **look)
        axes[3].plot(run.temperature, smooth_curve(run), ":", color=colour, linewidth=1)
    labels = (rf"$\log_{{10}}$ {TEST_LOSS}", "connected variance", "disconnected variance", "disconnected variance")
    for ax, label in zip(axes, labels, strict=True):
        ax.set_xscale("log", base=2)
        in_powers_of_two(ax.xaxis)
        ax.set(xlabel="$T$" if ax is axes[3] else "$T/T_0$", ylabel=label)
    for ax in axes[1:]:
        ax.set_ylim(bottom=0)
    axes[0].legend(fontsize=6)
    run = next(iter(runs.values()))
    students = run.sizes["seed"] // independent(run)
    words = f"{training_length(run).partition(',')[0]},{training_length(run).partition(',')[2].rpartition(',')[0]}"
    figure.suptitle(f"{words}, {independent(run)} teachers of {students} students", fontsize=8)
    return figure
