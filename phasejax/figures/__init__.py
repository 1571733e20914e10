"""The figures: one function each, Dataset in, matplotlib Figure out. Nothing here knows how a run was made."""

from collections.abc import Callable, Sequence
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from phasejax.experiment import refuse
from phasejax.figures.eigenvalue_flow import eigenvalue_flow
from phasejax.figures.maps import loss_map

NUMBERED: dict[int, Callable[[xr.Dataset], Figure]] = {2: loss_map, 6: eigenvalue_flow}


def draw_all(dataset: xr.Dataset, folder: Path, only: Sequence[int] = ()) -> list[Path]:
    """Draw the paper's figures and save each as PDF and PNG.

    Args:
        dataset: a run.
        folder: where `fig2.pdf` and the like go; it is made if needed.
        only: numbers of the figures; all there are if none are given.

    Returns:
        The files written.

    Raises:
        ExperimentError: there is no figure of a number asked for.
    """
    for number in only:
        if number not in NUMBERED:
            raise refuse("only", number, f"there are figures {', '.join(map(str, NUMBERED))}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number in only or NUMBERED:
        figure = NUMBERED[number](dataset)
        for suffix in ("pdf", "png"):
            path = folder / f"fig{number}.{suffix}"
            figure.savefig(path)
            written.append(path)
    return written
