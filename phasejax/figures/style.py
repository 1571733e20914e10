"""What all figures share: the style sheet, sizes, labels of axes, and the words for a training length."""

import functools
import math
from collections.abc import Callable
from importlib import resources
from typing import Any

import matplotlib.style
import xarray as xr
from matplotlib.figure import Figure

ONE_COLUMN, TWO_COLUMNS = 3.375, 7.0
"""Widths of a figure in inches."""

INVERSE_SIGMA = r"$1/\sigma_W$"


def house_style(draw: Callable[[xr.Dataset], Figure]) -> Callable[[xr.Dataset], Figure]:
    """Decorate a figure function so that everything in it is drawn with the style sheet."""

    @functools.wraps(draw)
    def styled(dataset: xr.Dataset) -> Figure:
        with matplotlib.style.context(str(resources.files("phasejax.figures") / "phasejax.mplstyle")):
            return draw(dataset)

    return styled


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """A figure that belongs to no window, and its row of axes (a single one for one column)."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, columns)


def power_of_two(value: float) -> str:
    """A number for a label, as the paper writes its hyperparameters: 2^-5 rather than 0.03125, but 8 and 4 as they are."""
    exponent = math.log2(value)
    return f"2^{{{exponent:.0f}}}" if exponent < -1 and exponent == round(exponent) else f"{value:g}"


def temperature_axis(dataset: xr.Dataset) -> tuple[str, str]:
    """Name and label of the axis along which the learning rate grows."""
    if "temperature" in dataset.dims:
        return "temperature", r"$T = \epsilon/|\mathcal{B}|$"
    return "learning_rate", r"learning rate $\epsilon$"


def training_length(dataset: xr.Dataset, step: int) -> str:
    """The words for "after so many steps" that stand on every figure."""
    steps_per_epoch = next((int(s) / float(e) for s, e in zip(dataset.step, dataset.epoch, strict=True) if e > 0), None)
    epochs = f" ({step / steps_per_epoch:,g} epochs)" if steps_per_epoch else ""
    return f"{step:,} steps{epochs}, {dataset.sizes['seed']} seeds"
