"""The figures: one function each, Dataset in, matplotlib Figure out. Nothing here knows how a run was made."""

import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.style
import xarray as xr
from matplotlib.animation import FuncAnimation, PillowWriter

from phasejax.experiment import refuse
from phasejax.figures.boundary import convergence_boundaries
from phasejax.figures.density import feature_density
from phasejax.figures.eigenvalue_flow import eigenvalue_flow, initial_spectrum
from phasejax.figures.ensemble import until
from phasejax.figures.length import against_length, along_training
from phasejax.figures.maps import (
    loss_map,
    memory_and_alignment,
    normalised_memory,
    rate_map,
    seed_variance,
    teacher_overlaps,
)
from phasejax.figures.slices import ordered_slice, temperature_slices
from phasejax.figures.style import STYLE_SHEET, Draw, NotDrawable
from phasejax.figures.summary import phase_diagram

NUMBERED: dict[int, Draw] = {
    1: feature_density,
    2: loss_map,
    3: temperature_slices,
    4: ordered_slice,
    5: memory_and_alignment,
    6: eigenvalue_flow,
    7: rate_map,
    8: convergence_boundaries,
    9: phase_diagram,
}
"""The paper's figures by their numbers."""

NAMED: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (normalised_memory, teacher_overlaps, seed_variance, initial_spectrum, against_length, along_training)
}
"""What the paper has no figure of."""

FIGURES: dict[str, Draw] = {f"fig{number}": draw for number, draw in NUMBERED.items()} | NAMED
"""All of them, by the names of their files."""


def chosen(only: Sequence[int | str]) -> list[str]:
    """Names in `FIGURES` of figures given by number or name; all if none are given.

    Raises:
        ExperimentError: there is no such figure.
    """
    names = [str(name) if str(name) in FIGURES else f"fig{name}" for name in only]
    for name, given in zip(names, only, strict=True):
        if name not in FIGURES:
            raise refuse("only", given, f"there are figures {', '.join(map(str, NUMBERED))} and {', '.join(NAMED)}")
    return names or list(FIGURES)


def draw_all(
    dataset: xr.Dataset, folder: Path, only: Sequence[int | str] = (), *, step: int | None = None, reading: str = "drift"
) -> list[Path]:
    """Draw figures and save each as PDF and PNG, or GIF where it moves; one that makes no sense for the run is skipped.

    Args:
        dataset: a run.
        folder: where `fig2.pdf` and the like go; it is made if needed.
        only: numbers or names of figures; all there are if none are given.
        step: the record to draw; the last if None.
        reading: of the convergence criterion.

    Returns:
        The files written. What was skipped, and why, is said on standard error.

    Raises:
        ExperimentError: there is no such figure, or no such record.
    """
    # It finds matplotlib's own fonts too old, at every PDF.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    names = chosen(only)
    until(dataset, step)
    written = []
    for name in names:
        draw = FIGURES[name]
        options = {"reading": reading} if "reading" in inspect.signature(draw).parameters else {}
        try:
            figure = draw(dataset, step=step, **options)
        except NotDrawable as reason:
            print(f"{name} is skipped: {reason}.", file=sys.stderr)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.style.context(STYLE_SHEET):
            if isinstance(figure, FuncAnimation):
                written.append(folder / f"{name}.gif")
                figure.save(written[-1], PillowWriter(fps=3), dpi=150)
                continue
            for suffix in ("pdf", "png"):
                written.append(folder / f"{name}.{suffix}")
                figure.savefig(written[-1])
    return written
