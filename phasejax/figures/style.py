"""What all figures share: how one is declared, style sheet, sizes, axes, colours, looks of lines, and words."""

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Literal, NamedTuple, Protocol, cast

import matplotlib.style
import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axis import Axis as TickAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from phasejax.analysis.boundaries import SIGMAS
from phasejax.analysis.run import LEVEL_DYNAMICS, NotRecordedError, each, grid_axis, layer, require, settings, until

ONE_COLUMN, TWO_COLUMNS = 3.375, 7.0
"""Widths of a figure in inches."""

STYLE_SHEET = str(resources.files("phasejax.figures") / "phasejax.mplstyle")
ONE_LEVEL = "the last trained layer has a single node, and one level has no spacing"
"""Why some figures cannot be drawn."""

# What is on the axes and above the maps.
INVERSE_SIGMA = r"$1/\sigma_W$"
TEST_LOSS = r"test loss $\mathcal{L}$"
HALF = r" $= \frac{1}{2}\langle(y - \hat{y})^2\rangle$"
MEMORY = r"memory $G(t_f, 0)$"
ALIGNMENT = r"alignment $h\cdot\phi/\|h\|\|\phi\|$"
RATE = r"rate $\overline{\lambda}$ per epoch"
TRAINING_LOSS = r"training loss $\mathcal{L}$"
GRADIENT = r"gradient $\|\nabla\mathcal{L}\|$"

Scale = Literal["linear", "log", "signed"]
Over = Literal["run", "study"]
Panel = tuple[str, Callable[[xr.Dataset], Any]]
Look = tuple[str, str]
"""Colour and style of a line."""

# The fractions of converged students, dimmest first as in the paper.
CONVERGED: dict[float, Look] = dict(zip(SIGMAS, (("0.6", "-."), ("0.8", "--"), ("1.0", "-")), strict=True))
ONE_SIGMA: Look = ("1.0", "-.")
"""The first of them where it is drawn alone."""
FORGOTTEN: Look = ("1.0", ":")
"""Where the memory C is 1/2."""
PAPER_LINE: Look = ("1.0", "--")
MEASURED_LINE: Look = ("1.0", ":")
"""The jamming line."""
# Variances of the pre-activations below, at and above the transition of tanh's density.
VARIANCES: dict[float, Look] = {0.125: ("C0", "-"), 0.5: ("C2", "--"), 4.0: ("C1", "-.")}


class NotDrawable(Exception):
    """A figure that makes no sense for a run; the message says why, as the rest of a sentence after "skipped: "."""


class SkippedWarning(UserWarning):
    """A panel that cannot be drawn, and why."""


class Draw(Protocol):
    """A declared figure: a function of a run, or a study's tree, up to `step` if that is given, and of its own options."""

    __name__: str
    caption: str
    """What it shows, a sentence."""
    number: int | None
    """The paper's, if it is the paper's."""
    over: Over

    def __call__(self, data: Any, *, step: int | None = None, **options: Any) -> Any: ...  # noqa: D102


def figure(
    *, needs: Sequence[str], caption: str, number: int | None = None, over: Over = "run"
) -> Callable[[Callable[..., Any]], Draw]:
    """Declare a figure, above a function of a run's Dataset, or a study's DataTree: a matplotlib Figure or an animation.

    The function draws with the style sheet, from runs that have what it needs, and sees the records up to the step asked
    for, with every axis ascending. It raises `NotDrawable` for a run whose experiment does not define what it needs or was
    not asked to record it, and `RunError` if only the file lacks it.

    Args:
        needs: variables or coordinates, by their names where a single layer is trained. With sigma_w the figure is of the
            paper's plane.
        caption: what it shows, a sentence.
        number: the paper's, if it is the paper's.
        over: what it is a function of: a run, and of every member of a study in its turn, or a study with all its members.
    """

    def decorate(draw: Callable[..., Any]) -> Draw:
        @functools.wraps(draw)
        def styled(data: Any, *, step: int | None = None, **options: Any) -> Any:
            seen = _seen(data, needs, step) if over == "run" else each(data, lambda run: _seen(run, needs, step))
            try:
                with matplotlib.style.context(STYLE_SHEET):
                    return draw(seen, **options)
            except NotRecordedError as reason:
                raise _without(reason) from None

        own = inspect.signature(draw)
        asked = inspect.Parameter("step", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=int | None)
        first, *others = own.parameters.values()
        signature = own.replace(parameters=[first, asked, *others])
        declared = {"caption": caption, "number": number, "over": over, "__signature__": signature}
        return cast(Draw, vars(styled).update(declared) or styled)

    return decorate


def _seen(dataset: xr.Dataset, needs: Sequence[str], step: int | None) -> xr.Dataset:
    """A run as a figure sees it, if it has what it needs."""
    drawable(dataset, *needs)
    return until(dataset, step)


def drawable(dataset: xr.Dataset, *needs: str) -> None:
    """Raise `NotDrawable` if a run does not define what is needed, or was not asked to record it."""
    optimizer = settings(dataset)["sgd"]["optimizer"]
    if "temperature" in needs and optimizer != "sgd":
        raise NotDrawable(f"the run was trained with {optimizer}, which defines no temperature")
    if {"converged", *LEVEL_DYNAMICS} & set(needs) and layer(dataset).nodes < 2:
        raise NotDrawable(ONE_LEVEL)
    try:
        require(dataset, *needs)
    except NotRecordedError as reason:
        raise _without(reason) from None


def _without(reason: NotRecordedError) -> NotDrawable:
    return NotDrawable(str(reason).rstrip("."))


def panels(dataset: xr.Dataset, wanted: Mapping[str, Panel]) -> dict[str, Any]:
    """What the panels of a figure show, by their labels; one that cannot be drawn is left out, with a warning that says why.

    Args:
        dataset: a run.
        wanted: by label, what a panel needs and a function from the run to what it shows.

    Raises:
        NotDrawable: none can be drawn.
    """
    found, reasons = {}, {}
    for label, (needs, show) in wanted.items():
        try:
            drawable(dataset, *needs.split())
            found[label] = show(dataset)
        except NotDrawable as reason:
            reasons[str(reason)] = None
    if not found:
        raise NotDrawable("; ".join(reasons))
    for reason in reasons:
        warnings.warn(f"a panel is left out: {reason}", SkippedWarning, stacklevel=3)
    return found


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


def in_powers_of_two(axis: TickAxis) -> None:
    """Label an axis as the paper writes its hyperparameters."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"${power_of_two(value)}$" if value > 0 else ""))


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
    count = f"{step / steps_per_epoch:,g}" if steps_per_epoch else ""
    epochs = f" ({count} epoch{'s' * (count != '1')})" if count else ""
    seeds = dataset.sizes["seed"]
    return f"{step:,} step{'s' * (step != 1)}{epochs}, {seeds} seed{'s' * (seeds != 1)}"


class Axis(NamedTuple):
    """One side of a map."""

    coordinate: str
    """What is drawn along it: 1/sigma_w for sigma_w."""
    values: np.ndarray
    """Ascending."""
    label: str
    scale: str
    """log or linear."""

    @property
    def edges(self) -> np.ndarray:
        """Of the cells."""
        return edges(self.values, self.scale == "log")


def axis_of(values: xr.Dataset | xr.DataArray, name: str) -> Axis:
    """An axis of the grid as it is drawn; the paper's own are logarithmic, and another is if its values look like it."""
    coordinate = "inverse_sigma_w" if name == "sigma_w" else name
    numbers = np.sort(values[coordinate].values)
    if name == "sigma_w":
        return Axis(coordinate, numbers, INVERSE_SIGMA, "log")
    if name in ("temperature", "learning_rate"):
        return Axis(coordinate, numbers, temperature_axis(values)[1], "log")
    label = str(values[name].attrs.get("long_name", "")) or name.replace("_", " ")
    return Axis(coordinate, numbers, label, "log" if geometric(numbers) else "linear")


def geometric(values: np.ndarray) -> bool:
    """Whether ascending values are positive, span a factor of three, and have more even ratios than differences."""
    if values[0] <= 0 or values[-1] <= 3 * values[0]:
        return False
    uneven = [np.std(steps) / np.mean(steps) for steps in (np.diff(np.log(values)), np.diff(values))]
    return bool(uneven[0] <= uneven[1])


def edges(centres: np.ndarray, log: bool = True) -> np.ndarray:
    """Edges of the cells around values on a logarithmic axis, or a linear one: (n + 1,) for (n,)."""
    at = np.log(np.asarray(centres, float)) if log else np.asarray(centres, float)
    if at.size == 1:
        around = at[0] + np.array([-0.5, 0.5]) * np.log(2)
    else:
        middles = (at[1:] + at[:-1]) / 2
        around = np.concatenate([[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]])
    return np.exp(around) if log else around


def label_cells(axis: TickAxis, values: np.ndarray) -> None:
    """Mark the values of the grid on a linear axis, and on a logarithmic one that is too short for decades."""
    if axis.get_scale() == "linear" or values.max() < 10 * values.min():
        shown = values[:: -(-values.size // 4)]
        label = power_of_two if axis.get_scale() == "log" else "{:g}".format
        axis.set_major_locator(FixedLocator(shown.tolist()))
        axis.set_major_formatter(FixedFormatter([f"${label(float(value))}$" for value in shown]))
        axis.set_minor_locator(NullLocator())


def disorder_colours(inverse_sigma: np.ndarray) -> ScalarMappable:
    """Colours for lines of different 1/sigma_W, and their colour bar."""
    ends = np.sort(edges(np.sort(inverse_sigma)))[[0, -1]]
    # The last tenth of viridis is too pale for a line on white.
    pale = ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))
    return ScalarMappable(LogNorm(*ends), pale)


def colours(drawn: np.ndarray, scale: Scale, limits: tuple[float, float] | None = None) -> dict[str, Any]:
    """Norm and colour map for values on a scale, as keywords."""
    shown = drawn[np.isfinite(drawn) & ((drawn > 0) | (scale != "log"))]
    if limits is None and not shown.size:
        return {}
    low, high = limits or (float(shown.min()), float(shown.max()))
    if scale == "log":
        return {"norm": LogNorm(low, high)}
    if scale == "signed":
        extent = max(abs(low), abs(high)) or 1.0
        return {"norm": TwoSlopeNorm(0, -extent, extent), "cmap": "RdBu_r"}
    return {"norm": Normalize(low, high)}
