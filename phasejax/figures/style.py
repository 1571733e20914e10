"""What all figures share: the style sheet, sizes, labels of axes, and the words for a training length."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Protocol, cast

import matplotlib.style
import xarray as xr
from matplotlib.figure import Figure

from phasejax.analysis.run import LEVEL_DYNAMICS, NotRecordedError, grid_axis, layer, require, settings, until

ONE_COLUMN, TWO_COLUMNS = 3.375, 7.0
"""Widths of a figure in inches."""

STYLE_SHEET = str(resources.files("phasejax.figures") / "phasejax.mplstyle")
ONE_LEVEL = "the last trained layer has a single node, and one level has no spacing"
"""Why some figures cannot be drawn."""

INVERSE_SIGMA = r"$1/\sigma_W$"


class NotDrawable(Exception):
    """A figure that makes no sense for a run; the message says why, as the rest of a sentence after "skipped: "."""


class Draw(Protocol):
    """A declared figure: a function of a run, of its records up to `step` if that is given, and of options of its own."""

    __name__: str
    caption: str
    """What it shows, a sentence."""
    number: int | None
    """The paper's, if it is the paper's."""

    def __call__(self, dataset: xr.Dataset, *, step: int | None = None, **options: Any) -> Any: ...  # noqa: D102


def figure(*, needs: Sequence[str], caption: str, number: int | None = None) -> Callable[[Callable[..., Any]], Draw]:
    """Declare a figure, above a function from a run's Dataset to a matplotlib Figure, or an animation.

    The function draws with the style sheet, from runs that have what it needs, and sees the records up to the step asked
    for, with every axis ascending. It raises `NotDrawable` for a run whose experiment does not define what it needs or was
    not asked to record it, and `RunError` if only the file lacks it.

    Args:
        needs: variables or coordinates, by their names where a single layer is trained. With sigma_w the figure is of the
            paper's plane.
        caption: what it shows, a sentence.
        number: the paper's, if it is the paper's.
    """

    def decorate(draw: Callable[..., Any]) -> Draw:
        @functools.wraps(draw)
        def styled(dataset: xr.Dataset, *, step: int | None = None, **options: Any) -> Any:
            optimizer = settings(dataset)["sgd"]["optimizer"]
            if "temperature" in needs and optimizer != "sgd":
                raise NotDrawable(f"the run was trained with {optimizer}, which defines no temperature")
            if set(needs) & set(LEVEL_DYNAMICS) and layer(dataset).nodes < 2:
                raise NotDrawable(ONE_LEVEL)
            try:
                require(dataset, *needs)
            except NotRecordedError as reason:
                raise NotDrawable(str(reason).rstrip(".")) from None
            with matplotlib.style.context(STYLE_SHEET):
                return draw(until(dataset, step), **options)

        own = inspect.signature(draw)
        asked = inspect.Parameter("step", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=int | None)
        first, *others = own.parameters.values()
        signature = own.replace(parameters=[first, asked, *others])
        return cast(Draw, vars(styled).update(caption=caption, number=number, __signature__=signature) or styled)

    return decorate


def file_name(draw: Draw) -> str:
    """What its files are called, and how `only` asks for it: fig and the paper's number, or the function's name."""
    return f"fig{draw.number}" if draw.number else draw.__name__


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure that belongs to no window, and its axes: a single one, a row, or (rows, columns)."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **options)


def power_of_two(value: float) -> str:
    """A number for a label, as the paper writes its hyperparameters: 2^-5 rather than 0.03125, but 8 and 4 as they are."""
    exponent = math.log2(value)
    return f"2^{{{exponent:.0f}}}" if exponent < -1 and exponent == round(exponent) else f"{value:g}"


def temperature_axis(dataset: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """Name and label of the axis along which the learning rate grows."""
    if grid_axis(dataset) == "temperature":
        heavy = "momentum" in dataset.coords and bool((dataset.momentum != 0).any())
        return "temperature", r"$T = \epsilon/|\mathcal{B}|" + (r"(1 - \mu)$" if heavy else "$")
    return "learning_rate", r"learning rate $\epsilon$"


def cell_label(dataset: xr.Dataset | xr.DataArray) -> str:
    """The words for a cell or a slice: its temperature (or learning rate) and 1/sigma_W, where they are single numbers."""
    parts = {"temperature": "T", "learning_rate": r"\epsilon", "inverse_sigma_w": r"1/\sigma_W"}
    if "temperature" in dataset.coords:
        del parts["learning_rate"]
    return ", ".join(
        f"${name} = {power_of_two(float(dataset[coordinate]))}$"
        for coordinate, name in parts.items()
        if coordinate in dataset.coords and dataset[coordinate].ndim == 0
    )


def training_length(dataset: xr.Dataset, step: int | None = None) -> str:
    """The words for "after so many steps" that stand on every figure; the last record if no step is given."""
    step = int(dataset.step[-1]) if step is None else step
    steps_per_epoch = next((int(s) / float(e) for s, e in zip(dataset.step, dataset.epoch, strict=True) if e > 0), None)
    epochs = f" ({step / steps_per_epoch:,g} epochs)" if steps_per_epoch else ""
    seeds = dataset.sizes["seed"]
    return f"{step:,} step{'s' * (step != 1)}{epochs}, {seeds} seed{'s' * (seeds != 1)}"
