"""The figures: one function each, Dataset in, matplotlib Figure out. Nothing here knows how a run was made."""

import inspect
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import xarray as xr
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from phasejax.analysis.run import RunError
from phasejax.experiment import refuse
from phasejax.figures.style import STYLE_SHEET, Draw, NotDrawable, SkippedWarning, file_name
from phasejax.progress import counted, say

__all__ = ["STYLE_SHEET", "NotDrawable", "chosen", "draw_all", "file_name", "save"]


def chosen(only: Sequence[int | str], figures: Sequence[Draw]) -> list[Draw]:
    """Those of the figures that are given by number or name.

    Raises:
        ExperimentError: there is no such figure, or none is named.
    """
    named = {file_name(draw): draw for draw in figures}
    ordered = sorted(figures, key=lambda draw: draw.number or math.inf)
    there = f"there are figures {', '.join(str(draw.number or draw.__name__) for draw in ordered)}"
    if not only:
        raise refuse("only", "", there)
    names = [str(name) if str(name) in named else f"fig{name}" for name in only]
    for name, given in zip(names, only, strict=True):
        if name not in named:
            raise refuse("only", given, there)
    return [named[name] for name in dict.fromkeys(names)]


def draw_all(
    data: xr.Dataset | xr.DataTree,
    folder: str | Path,
    figures: Sequence[Draw],
    *,
    step: int | None = None,
    reading: str = "drift",
) -> list[Path]:
    """Draw figures, then save each as PDF and PNG, or GIF where it moves; one that makes no sense for the run is skipped.

    Args:
        data: a run, or for figures over a study its tree.
        folder: where `fig2.pdf` and the like go; it is made if needed.
        figures: what to draw.
        step: the record to draw; the last if None.
        reading: of the convergence criterion.

    Returns:
        The files written. What was skipped, and why, is said on standard error.

    Raises:
        ExperimentError: no such record.
        RunError: the run lacks a variable, or none of the figures makes sense for it. Nothing is written then.
    """
    # It finds matplotlib's own fonts too old, at every PDF.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    drawn, skipped = {}, []
    with counted("figures", 2 * len(figures)) as shown:
        for draw in figures:
            name = file_name(draw)
            options: dict[str, Any] = {"reading": reading} if "reading" in inspect.signature(draw).parameters else {}
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always", SkippedWarning)
                    drawn[name] = draw(data, step=step, **options)
            except NotDrawable as reason:
                skipped.append(f"{name} is skipped: {reason}")
                shown.update()
            shown.update()
            for one in said:
                if issubclass(one.category, SkippedWarning):
                    skipped.append(f"{name}: {one.message}")
                else:
                    warnings.showwarning(one.message, one.category, one.filename, one.lineno)
        if not drawn:
            raise RunError(f"Nothing is left to draw: {'; '.join(skipped)}.")
        Path(folder).mkdir(parents=True, exist_ok=True)
        files = {}
        for name, written in _save_all({Path(folder) / name: figure for name, figure in drawn.items()}):
            files[name.name] = written
            shown.update()
    for reason in skipped:
        say(f"{reason}.")
    return [path for name in drawn for path in files[name]]


_INHERITED: dict[Path, Figure] = {}
"""What a forked process is to save."""


def _save_all(drawn: dict[Path, Figure | FuncAnimation]) -> Iterator[tuple[Path, list[Path]]]:
    """Save figures under their paths, as many at a time as there are cores, and say of each when it is done.

    A PDF takes ten times as long to write as its figure to draw. A fork inherits the figures, which could not be sent to
    another process. JAX's threads do not survive a fork: beside it, or where forks are not safe at all, one process does it.
    """
    moving = {path: figure for path, figure in drawn.items() if isinstance(figure, FuncAnimation)}
    still = {path: figure for path, figure in drawn.items() if not isinstance(figure, FuncAnimation)}
    if sys.platform != "linux" or "jax" in sys.modules or len(drawn) == 1:
        yield from ((path, save(figure, path)) for path, figure in drawn.items())
        return
    processes = min(len(os.sched_getaffinity(0)), max(len(still), 1))
    with ProcessPoolExecutor(processes, get_context("fork"), _INHERITED.update, (still,)) as pool:
        # The largest first, so that no process is left alone with it.
        largest = sorted(still, key=lambda path: len(still[path].axes), reverse=True)
        waiting = {pool.submit(_save_inherited, path): path for path in largest}
        yield from ((path, save(figure, path)) for path, figure in moving.items())  # in the meantime
        yield from ((waiting[done], done.result()) for done in as_completed(waiting))


def _save_inherited(path: Path) -> list[Path]:
    return save(_INHERITED[path], path)


class _OneCanvas(PillowWriter):
    """Takes every frame as it was drawn, in one canvas; savefig, which matplotlib's own calls, would draw it twice more."""

    def setup(self, fig: Figure, outfile: Any, dpi: float | None = None) -> None:
        super().setup(fig, outfile, dpi)
        fig.set_dpi(self.dpi)
        self._canvas = FigureCanvasAgg(fig)

    def grab_frame(self, **_: Any) -> None:
        self._frames.append(Image.fromarray(np.array(self._canvas.buffer_rgba())).convert("RGB"))  # pyright: ignore


def save(figure: Figure | FuncAnimation, path: str | Path) -> list[Path]:
    """Save a figure as PDF and PNG, an animation as GIF, under a path without its suffix; returns the files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(STYLE_SHEET):
        if isinstance(figure, FuncAnimation):
            figure.save(path.with_suffix(".gif"), _OneCanvas(fps=3), dpi=150)
            return [path.with_suffix(".gif")]
        files = [path.with_suffix(f".{kind}") for kind in ("pdf", "png")]
        figure.savefig(files[1])
        # One layout serves both: finding it takes as long as drawing.
        engine = figure.get_layout_engine()
        figure.set_layout_engine("none")
        figure.savefig(files[0])
        figure.set_layout_engine(engine)
        return files
