"""A study as a folder: `study.toml`, what is run; `figures.py`, what is drawn of it; `claims.py`, what is said of it.

The last two may be missing. Reading a study of one's own runs its Python files, each of which is known by its name in
`study.toml` too, as with `--use`; those of the package's are known there by their full names, as
`phasejax.studies.jamming.observables`. Nothing else makes code of a file.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import xarray as xr

from phasejax import names
from phasejax.analysis.run import RunError, members
from phasejax.checks import ExperimentError
from phasejax.claims import Claim, check, write
from phasejax.explorer import EXPLORER, explore
from phasejax.figures import draw_all, page
from phasejax.figures.style import Draw
from phasejax.files.durable import staged
from phasejax.progress import doing
from phasejax.studies.study import Study

_HOME = resources.files("phasejax.studies")
BUILT_IN = tuple(sorted(str(one.name) for one in _HOME.iterdir() if (one / "study.toml").is_file()))
"""Studies that come with the package."""


class StudyFolder(NamedTuple):
    """A study, with what is drawn and said of it."""

    name: str
    study: Study
    figures: tuple[Draw, ...]
    claims: tuple[Claim, ...]

    @property
    def title(self) -> str:
        """The question, or the name where none is asked."""
        return self.study.question or self.name


def read_study(name: str | Path) -> StudyFolder:
    """A study that comes with the package, by name, or one in a folder.

    Raises:
        ExperimentError: there is none, or its study.toml is wrong.
    """
    if str(name) in BUILT_IN:
        home = _HOME / str(name)
        stems = sorted(
            str(one.name)[:-3] for one in home.iterdir() if one.name.endswith(".py") and one.name != "__init__.py"
        )
        modules = {stem: names.known(importlib.import_module(f"phasejax.studies.{name}.{stem}")) for stem in stems}
        study = Study.from_toml((home / "study.toml").read_text("utf-8"), f"study {name}")
        return StudyFolder(str(name), study, *_drawn_and_said(modules))
    folder = Path(name)
    if not (folder / "study.toml").is_file():
        raise ExperimentError(
            f"study {str(name)!r} is not possible: give {', '.join(BUILT_IN)}, or a folder with a study.toml."
        )
    with _importable(folder):
        modules = {path.stem: names.use(path, instead=True) for path in sorted(folder.glob("*.py"))}
    return StudyFolder(folder.resolve().name, Study.read(folder / "study.toml"), *_drawn_and_said(modules))


def report(
    data: xr.Dataset | xr.DataTree,
    folder: str | Path,
    figures: tuple[Draw, ...],
    claims: tuple[Claim, ...],
    title: str = "",
    *,
    step: int | None = None,
    reading: str = "drift",
    explored: bool = False,
) -> list[Path]:
    """Draw figures of a run or a study, judge claims, and write one page: all of it, or nothing.

    Args:
        data: a run, or the tree of a study; a figure over runs is drawn for each member, in a folder of its name if there
            are several.
        folder: where the files go.
        figures: what is drawn.
        claims: what is judged.
        title: of the page; the run's length if empty.
        step: the record to look at; the last if None.
        reading: of the convergence criterion.
        explored: with an explorer's page beside it, if that is installed; else the page links to one that is there.

    Returns:
        The files written, the page last.

    Raises:
        ExperimentError: the step was not recorded.
        RunError: none of the figures can be drawn, or a file lacks what its experiment records.
        StoreError: the folder cannot be written to.
    """
    verdicts = check(data, claims, step)
    runs = members(data)
    if not title:
        title = f"Phases of SGD: {max(int(run.step[-1]) for run in runs.values()) if step is None else step:,} steps"
    with staged(Path(folder)) as temporary:
        drawn, reasons = [], []
        for whose, of, part in _parts(data, runs, figures):
            try:
                drawn += draw_all(of, temporary / whose, part, step=step, reading=reading) if part else []
            except RunError as reason:
                reasons.append(str(reason))
        if figures and not drawn:
            raise RunError(" ".join(dict.fromkeys(reasons)))
        for reason in reasons:
            print(reason, file=sys.stderr)
        files = [*drawn, *(write(verdicts, data, temporary, step) if claims else ())]
        if explored:
            try:
                with doing("explorer"):
                    files.append(explore(data).save(temporary / EXPLORER))
            except ExperimentError as reason:  # it is not installed
                print(reason, file=sys.stderr)
        there = EXPLORER if any((place / EXPLORER).exists() for place in (temporary, Path(folder))) else ""
        files.append(page.index_page(temporary, data, verdicts, drawn, figures, title, step, there))
        return [Path(folder) / path.relative_to(temporary) for path in files]


def _parts(data: Any, runs: dict[str, xr.Dataset], figures: tuple[Draw, ...]) -> Iterator[tuple[str, Any, list[Draw]]]:
    """Folder, run or tree, and the figures that are of it."""
    if isinstance(data, xr.DataTree):
        yield "", data, [draw for draw in figures if draw.over == "study"]
    for name, run in runs.items():
        yield name if len(runs) > 1 else "", run, [draw for draw in figures if draw.over == "run"]


def _drawn_and_said(modules: dict[str, ModuleType]) -> tuple[tuple[Draw, ...], tuple[Claim, ...]]:
    """What the files of a study declare."""
    figures = _declared(modules.get("figures"), "FIGURES", _is_figure)
    return figures, _declared(modules.get("claims"), "CLAIMS", _is_claim)


def _declared(module: ModuleType | None, name: str, declared: Callable[[ModuleType, Any], bool]) -> tuple[Any, ...]:
    """What a file declares, in its order; a tuple FIGURES or CLAIMS of it says otherwise."""
    if hasattr(module, name):
        return tuple(getattr(module, name))
    return tuple(value for value in vars(module).values() if declared(module, value)) if module else ()


def _is_figure(module: ModuleType, value: Any) -> bool:
    return callable(value) and hasattr(value, "caption") and value.__module__ == module.__name__


def _is_claim(_: ModuleType, value: Any) -> bool:
    return isinstance(value, Claim)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the files of a folder import each other."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
