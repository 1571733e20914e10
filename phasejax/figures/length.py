"""The phase diagram as a function of training length: its lines, a panel per decade, an animation (no paper's figure)."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.animation import FuncAnimation
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from phasejax.analysis import boundaries
from phasejax.analysis.length import SLICE_INVERSE_SIGMA, SLICE_TEMPERATURE, against_training
from phasejax.analysis.run import activation
from phasejax.analysis.spectrum import memory
from phasejax.analysis.statistics import nearest, sound, summary
from phasejax.figures.boundary import add_legend, draw_contours, has_boundary
from phasejax.figures.maps import draw_map
from phasejax.figures.style import (
    FORGOTTEN,
    INVERSE_SIGMA,
    ONE_COLUMN,
    ONE_SIGMA,
    TEST_LOSS,
    TWO_COLUMNS,
    Look,
    NotDrawable,
    cell_label,
    figure,
    new_figure,
    temperature_axis,
    training_length,
)


def decades(dataset: xr.Dataset) -> list[int]:
    """Positions of the records nearest to 1, 10, 100 ... steps, and of the last."""
    steps = dataset.step.values
    if steps[-1] == 0:
        raise NotDrawable("before the first step there is no training")
    trained = np.flatnonzero(steps > 0)
    powers = 10.0 ** np.arange(np.floor(np.log10(steps[-1])) + 1)
    return sorted({int(trained[nearest(steps[trained], power)]) for power in powers} | {len(steps) - 1})


class Lengths(NamedTuple):
    """What is drawn of the phase diagram at each of several steps."""

    losses: xr.DataArray
    """Test losses of sound students, (step, axis, sigma_w, seed)."""
    limits: tuple[float, float] | None
    """Of the colours, the same at all steps."""
    lines: list[tuple[xr.DataArray, float, Look, str]]
    """Values (step, temperature, sigma_w), the level at which they have a line, its look and its label."""

    def draw(self, ax: Axes, k: int) -> QuadMesh:
        """Draw the k-th step."""
        mesh = draw_map(ax, self.losses.isel(step=k), scale="log", limits=self.limits)
        for values, level, look, label in self.lines:
            draw_contours(ax, values.isel(step=k), level, look, label)
        return mesh


def lengths(dataset: xr.Dataset, reading: str) -> Lengths:
    """The loss, and the lines where the run has what they need."""
    losses = sound(dataset, dataset.test_loss).load()
    means = losses.mean("seed").values
    means = means[means > 0]
    lines: list[tuple[xr.DataArray, float, Look, str]] = []
    if "temperature" in dataset.coords:
        lines = [(summary(sound(dataset, memory(dataset)), "mean")[0].load(), 0.5, FORGOTTEN, "memory $C = 1/2$")]
        if has_boundary(dataset):
            share = boundaries.fraction(dataset, reading).fraction
            lines.append((share, boundaries.SIGMAS[0], ONE_SIGMA, f"68 % converged ({reading})"))
    return Lengths(losses, (float(means.min()), float(means.max())) if means.size else None, lines)


_JAMMING_LINES = {
    "memory_line": "memory $G = 1/2$",
    "halfway_line": "log loss halfway",
    "learnt_line": "loss a tenth of its start",
}


@figure(
    needs=["test_loss", "G_t0", "temperature", "sigma_w"],
    caption=(
        "How much training does the diagram need? T_c, three readings of the jamming line and the lowest mean test loss "
        "against training length; crosses are the cell of the lowest loss, bands 68 % of a bootstrap over seeds"
    ),
)
def training_needed(dataset: xr.Dataset, *, reading: str = "drift") -> Figure:
    """How much training the diagram needs: T_c, jamming line, and the lowest loss with its cell, against t from 10 on."""
    if min(dataset.sizes["temperature"], dataset.sizes["sigma_w"]) < 2:
        raise NotDrawable("a line between cells needs two of them along either axis")
    if int(dataset.step[-1]) < 10:
        raise NotDrawable("it starts at 10 steps")
    found = against_training(dataset, reading, has_boundary(dataset))
    found = found.isel(step=np.flatnonzero(found.step >= 10))
    column = dataset.isel(sigma_w=nearest(dataset.inverse_sigma_w, SLICE_INVERSE_SIGMA))
    row = dataset.isel(temperature=nearest(dataset.temperature, SLICE_TEMPERATURE))
    panels = (
        (
            f"transition at {cell_label(column)}",
            temperature_axis(dataset)[1],
            {"T_c": f"68 % converged ({reading})"},
            "lowest_T",
        ),
        (f"jamming at {cell_label(row)}", INVERSE_SIGMA, _JAMMING_LINES, "lowest_inverse_sigma_w"),
        ("lowest of the plane", f"mean {TEST_LOSS}", {"lowest_loss": "lowest loss"}, ""),
    )
    figure, axes = new_figure(TWO_COLUMNS, 3.2, columns=3)
    for ax, (title, label, lines, cell) in zip(axes, panels, strict=True):
        for name, words in lines.items():
            if name in found:
                centre, low, high = (found[name].sel(bound=bound) for bound in ("centre", "low", "high"))
                (line,) = ax.plot(found.step, centre, label=words)
                ax.fill_between(found.step, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        if cell:
            place = found[cell].sel(bound="centre")
            ax.plot(found.step, place, "x", color="black", markersize=3, label="cell of the lowest loss")
        ax.set(xscale="log", yscale="log", xlabel="SGD steps", ylabel=label, title=title)
    if activation(dataset) == "tanh":
        paper = boundaries.PAPER_JAMMING_LINE
        axes[1].axhline(paper, color="0.4", linestyle="--", linewidth=0.8, label=r"$\sqrt{2}$ (paper)")
    for ax in axes:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), handlelength=1.4)
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure


@figure(
    needs=["test_loss", "G_t0", "G_00", "G_tt", "sigma_w"],
    caption="The phase diagram against training length, a panel a decade",
)
def against_length(dataset: xr.Dataset, *, reading: str = "drift") -> Figure:
    """Mean test loss in the plane after each decade of steps, with the 68 % line and the line C = 1/2."""
    positions = decades(dataset)
    rows = -(-len(positions) // 3)
    figure, axes = new_figure(TWO_COLUMNS, 0.9 + 1.9 * rows, rows, 3, squeeze=False)
    drawn = lengths(dataset.isel(step=positions), reading)
    for k, ax in enumerate(axes.flat[: len(positions)]):
        mesh = drawn.draw(ax, k)
        ax.set_title("\n".join(filter(None, [f"step {int(drawn.losses.step[k]):,}", ax.get_title()])))
        ax.label_outer()
    for ax in axes.flat[len(positions) :]:
        ax.set_axis_off()
    figure.colorbar(mesh, ax=axes, label=f"mean {TEST_LOSS}")
    add_legend(figure)
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure


@figure(
    needs=["test_loss", "G_t0", "G_00", "G_tt", "sigma_w"],
    caption="The same record by record",
)
def along_training(dataset: xr.Dataset, *, reading: str = "drift") -> FuncAnimation:
    """The same as an animation, a frame per record."""
    decades(dataset)
    drawn = lengths(dataset, reading)
    figure, ax = new_figure(ONE_COLUMN, 3.1)
    last = dataset.sizes["step"] - 1
    figure.colorbar(drawn.draw(ax, last), ax=ax, label=f"mean {TEST_LOSS}")
    add_legend(figure)

    def draw(frame: int) -> list[Artist]:
        # Not ax.clear(): making its ticks anew would take longer than all the rest.
        for artist in [*ax.collections, *ax.lines]:
            artist.remove()
        drawn.draw(ax, frame)
        ax.set_title("\n".join([ax.get_title(), training_length(dataset, int(dataset.step[frame]))]))
        return [ax]

    # Lay everything out once, with both lines of the title, so that nothing jumps between frames.
    draw(last)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")

    return FuncAnimation(figure, draw, frames=dataset.sizes["step"], interval=300)
