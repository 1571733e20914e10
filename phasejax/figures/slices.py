"""Loss and gradient along lines through the plane of temperature and disorder (Figs 3, 4)."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasejax.analysis.statistics import Statistic, final, left_out, nearest, summary
from phasejax.figures.style import (
    GRADIENT,
    INVERSE_SIGMA,
    TRAINING_LOSS,
    TWO_COLUMNS,
    NotDrawable,
    cell_label,
    disorder_colours,
    figure,
    label_cells,
    new_figure,
    temperature_axis,
    training_length,
)

ORDERED = 8.0
"""The paper's slice: 1/sigma_W, its smallest sigma_W."""


def draw_with_bars(ax: Axes, along: str, values: xr.DataArray, statistic: Statistic, colour: str = "C0") -> None:
    """Points with error bars along one coordinate, on logarithmic axes; `values` is (..., seed) with one other axis."""
    centre, low, high = summary(values, statistic)
    bars = np.stack([centre - low, high - centre])
    ax.errorbar(
        values[along].values, centre.values, bars, marker="o", markersize=2.5, linewidth=0.8, capsize=1.5, color=colour
    )
    scale_axes(ax, values[along].values, centre.values)


def scale_axes(ax: Axes, along: np.ndarray, drawn: np.ndarray) -> None:
    """Make both axes logarithmic; the upright one only if anything positive is drawn, as matplotlib draws no other."""
    ax.set(xscale="log", yscale="log" if (drawn > 0).any() else "linear")
    label_cells(ax.xaxis, along)


def in_temperature(dataset: xr.Dataset) -> str:
    """Name of the temperature axis, if there is anything to see along it."""
    axis, _ = temperature_axis(dataset)
    if dataset.sizes[axis] < 2:
        raise NotDrawable(f"the run has a single {axis.replace('_', ' ')}")
    if int(dataset.step[-1]) == 0:
        raise NotDrawable("before the first step there is no training loss")
    return axis


@figure(
    needs=["train_loss", "gradient_norm", "sigma_w"],
    caption="Loss and gradient against temperature, one line for each sigma_W",
    number=3,
)
def temperature_slices(dataset: xr.Dataset, *, statistic: Statistic = "median") -> Figure:
    """Fig 3: training loss and gradient at the end against T, a line each sigma_W; both are means over the last epoch."""
    axis = in_temperature(dataset)
    figure, axes = new_figure(TWO_COLUMNS, 2.7, columns=2)
    mappable = disorder_colours(dataset.inverse_sigma_w.values)
    quantities = {TRAINING_LOSS: final(dataset, dataset.train_loss), GRADIENT: final(dataset, dataset.gradient_norm)}
    for ax, (label, values) in zip(axes, quantities.items(), strict=True):
        centre = summary(values, statistic)[0]
        for k, inverse_sigma in enumerate(dataset.inverse_sigma_w.values):
            colour = mappable.to_rgba(inverse_sigma)
            ax.plot(dataset[axis], centre.isel(sigma_w=k), marker="o", markersize=2, linewidth=0.8, color=colour)
        scale_axes(ax, dataset[axis].values, centre.values)
        ax.set(xlabel=temperature_axis(dataset)[1], ylabel=f"{statistic} {label}")
    label_cells(figure.colorbar(mappable, ax=axes, label=INVERSE_SIGMA).ax.yaxis, dataset.inverse_sigma_w.values)
    figure.suptitle(heading(dataset, *quantities.values()), fontsize=8)
    return figure


@figure(
    needs=["train_loss", "gradient_norm", "full_gradient_norm", "sigma_w"],
    caption=(
        "Loss and gradient along the temperature axis at the smallest sigma_W; gradient at the start against 1/sigma_W"
    ),
    number=4,
)
def ordered_slice(dataset: xr.Dataset, *, statistic: Statistic = "median") -> Figure:
    """Fig 4: training loss and gradient against T at 1/sigma_W = 8, and the initial gradient against 1/sigma_W.

    On a grid without 1/sigma_W = 8 the nearest there is. The initial gradient is that of the whole training set at fixed W,
    which is the same at every T.
    """
    axis = in_temperature(dataset)
    figure, axes = new_figure(TWO_COLUMNS, 2.4, columns=3)
    here = dataset.isel(sigma_w=nearest(dataset.inverse_sigma_w, ORDERED))
    quantities = {TRAINING_LOSS: final(here, here.train_loss), GRADIENT: final(here, here.gradient_norm)}
    for ax, (label, values) in zip(axes, quantities.items(), strict=False):
        draw_with_bars(ax, axis, values, statistic)
        ax.set(xlabel=temperature_axis(dataset)[1], ylabel=f"{statistic} {label}", title=cell_label(here))
    coldest = dataset.isel({axis: 0})
    initial = coldest.full_gradient_norm.isel(step_ends=0)
    initial = initial.where(np.isfinite(initial))
    draw_with_bars(axes[2], "inverse_sigma_w", initial, statistic)
    axes[2].set(xlabel=INVERSE_SIGMA, ylabel=f"{statistic} initial {GRADIENT}", title=f"{cell_label(coldest)}, step 0")
    figure.suptitle(heading(dataset, *quantities.values()), fontsize=8)
    return figure


def heading(dataset: xr.Dataset, *values: xr.DataArray) -> str:
    """The training length, and how many students are missing from what is drawn."""
    return "; ".join(filter(None, [training_length(dataset), left_out(*values)]))
