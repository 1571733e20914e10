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
    Panel,
    cell_label,
    disorder_colours,
    figure,
    label_cells,
    new_figure,
    panels,
    temperature_axis,
    training_length,
)

ORDERED = 8.0
"""The paper's slice: 1/sigma_W, its smallest sigma_W."""

INITIAL = f"initial {GRADIENT}"
LOSS_PANEL: dict[str, Panel] = {TRAINING_LOSS: ("train_loss", lambda run: final(run, run.train_loss))}
ENDS: dict[str, Panel] = LOSS_PANEL | {GRADIENT: ("gradient_norm", lambda run: final(run, run.gradient_norm))}
"""Means over the last window of training."""


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
    needs=["sigma_w"],
    caption="Loss and gradient against temperature, one line for each sigma_W",
    number=3,
)
def temperature_slices(dataset: xr.Dataset, *, statistic: Statistic = "median") -> Figure:
    """Fig 3: training loss and gradient at the end against T, a line each sigma_W; both are means over the last epoch."""
    axis = in_temperature(dataset)
    quantities = panels(dataset, ENDS)
    figure, axes = new_figure(TWO_COLUMNS, 2.7, columns=len(quantities), squeeze=False)
    mappable = disorder_colours(dataset.inverse_sigma_w.values)
    for ax, (label, values) in zip(axes[0], quantities.items(), strict=True):
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
    needs=["sigma_w"],
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
    here = dataset.isel(sigma_w=nearest(dataset.inverse_sigma_w, ORDERED))
    coldest = dataset.isel({axis: 0})
    found = panels(dataset, ENDS | {INITIAL: ("full_gradient_norm", lambda _: coldest.full_gradient_norm.isel(step_ends=0))})
    initial = found.pop(INITIAL, None)
    quantities = {label: values.isel(sigma_w=nearest(values.inverse_sigma_w, ORDERED)) for label, values in found.items()}
    figure, axes = new_figure(TWO_COLUMNS, 2.4, columns=len(found) + (initial is not None), squeeze=False)
    for ax, (label, values) in zip(axes[0], quantities.items(), strict=False):
        draw_with_bars(ax, axis, values, statistic)
        ax.set(xlabel=temperature_axis(dataset)[1], ylabel=f"{statistic} {label}", title=cell_label(here))
    if initial is not None:
        ax = axes[0, -1]
        draw_with_bars(ax, "inverse_sigma_w", initial.where(np.isfinite(initial)), statistic)
        ax.set(xlabel=INVERSE_SIGMA, ylabel=f"{statistic} {INITIAL}", title=f"{cell_label(coldest)}, step 0")
    figure.suptitle(heading(dataset, *quantities.values()), fontsize=8)
    return figure


def heading(dataset: xr.Dataset, *values: xr.DataArray) -> str:
    """The training length, and how many students are missing from what is drawn."""
    return "; ".join(filter(None, [training_length(dataset), left_out(*values) if values else ""]))
