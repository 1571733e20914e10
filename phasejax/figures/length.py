"""The phase diagram as a function of training length: a panel per decade, and an animation (no paper's figure)."""

import numpy as np
import xarray as xr
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from phasejax import boundaries
from phasejax.figures.boundary import CONVERGED, draw_contours, key
from phasejax.figures.ensemble import nearest, sound, summary, until
from phasejax.figures.maps import TEST_LOSS, draw_map
from phasejax.figures.style import ONE_COLUMN, TWO_COLUMNS, NotDrawable, house_style, new_figure, training_length
from phasejax.spectrum import memory, suffix

LINES = {0.68: CONVERGED[0.68]}
FORGOTTEN = {0.5: ("1.0", ":")}
MEMORY_LINE = "memory $C = 1/2$"


def decades(dataset: xr.Dataset) -> list[int]:
    """Positions of the records nearest to 1, 10, 100 ... steps, and of the last."""
    steps = dataset.step.values
    if steps[-1] == 0:
        raise NotDrawable("before the first step there is no training")
    trained = np.flatnonzero(steps > 0)
    powers = 10.0 ** np.arange(np.floor(np.log10(steps[-1])) + 1)
    return sorted({int(trained[nearest(steps[trained], power)]) for power in powers} | {len(steps) - 1})


def draw_boundaries(ax: Axes, dataset: xr.Dataset, reading: str) -> list[Line2D]:
    """The 68 % line and the line C = 1/2 of a run's last record, where it has what they need."""
    if "temperature" not in dataset.coords:
        return []
    dataset = dataset.isel(step=[-1])
    drawn = draw_contours(ax, summary(sound(dataset, memory(dataset)), "mean")[0].isel(step=0), FORGOTTEN)
    if "V_S" + suffix(dataset) in dataset:
        drawn += draw_contours(ax, boundaries.fraction(dataset, reading).fraction.isel(step=0), LINES)
    return drawn


@house_style("test_loss", "G_t0", "G_00", "G_tt")
def against_length(dataset: xr.Dataset, *, step: int | None = None, reading: str = "drift") -> Figure:
    """Mean test loss in the plane after each decade of steps, with the 68 % line and the line C = 1/2."""
    dataset = until(dataset, step)
    positions = decades(dataset)
    rows = -(-len(positions) // 3)
    figure, axes = new_figure(TWO_COLUMNS, 0.9 + 1.9 * rows, rows, 3, squeeze=False)
    losses, limits = losses_and_limits(dataset.isel(step=positions))
    for k, (ax, position) in enumerate(zip(axes.flat, positions, strict=False)):
        mesh = draw_map(ax, losses.isel(step=k), scale="log", limits=limits)
        draw_boundaries(ax, dataset.isel(step=[position]), reading)
        ax.set_title("\n".join(filter(None, [f"{int(losses.step[k]):,} steps", ax.get_title()])))
        ax.label_outer()
    for ax in axes.flat[len(positions) :]:
        ax.set_axis_off()
    figure.colorbar(mesh, ax=axes, label=f"mean {TEST_LOSS}")
    add_key(figure, reading)
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure


@house_style("test_loss", "G_t0", "G_00", "G_tt")
def along_training(dataset: xr.Dataset, *, step: int | None = None, reading: str = "drift") -> FuncAnimation:
    """The same as an animation, a frame per record."""
    dataset = until(dataset, step)
    decades(dataset)
    losses, limits = losses_and_limits(dataset)
    figure, ax = new_figure(ONE_COLUMN, 3.1)
    bar = figure.colorbar(draw_map(ax, losses.isel(step=-1), scale="log", limits=limits), ax=ax)
    bar.set_label(f"mean {TEST_LOSS}")
    add_key(figure, reading)

    def draw(frame: int) -> list[Line2D]:
        ax.clear()
        draw_map(ax, losses.isel(step=frame), scale="log", limits=limits)
        figure.suptitle("\n".join([training_length(dataset, int(losses.step[frame])), ax.get_title()]), fontsize=8)
        ax.set_title("")
        return draw_boundaries(ax, dataset.isel(step=[frame]), reading)

    return FuncAnimation(figure, draw, frames=dataset.sizes["step"], interval=300)  # pyright: ignore


def losses_and_limits(dataset: xr.Dataset) -> tuple[xr.DataArray, tuple[float, float] | None]:
    """Test losses of sound students, and the limits of colours that hold the means at all steps."""
    losses = sound(dataset, dataset.test_loss)
    means = losses.mean("seed").values
    means = means[means > 0]
    return losses, (float(means.min()), float(means.max())) if means.size else None


def add_key(figure: Figure, reading: str) -> None:
    """The legend of the two lines, under the figure."""
    looks = {f"68 % converged ({reading})": LINES[0.68], MEMORY_LINE: FORGOTTEN[0.5]}
    figure.legend(handles=key(looks), loc="outside lower center", ncols=2)
