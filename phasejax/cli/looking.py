"""Commands that look at what was trained: status, merge, figures, compare, explore."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import tyro

from phasejax.arguments import parse
from phasejax.cli.refusals import one_sentence
from phasejax.experiment import Reading
from phasejax.progress import doing

if TYPE_CHECKING:
    from phasejax.files.progress import Progress


@dataclass(frozen=True)
class Status:
    """Say how far a run is, or a study."""

    run: tyro.conf.Positional[Path]
    """The run, runs/paper, or the folder of a study."""


@dataclass(frozen=True)
class Merge:
    """Make one file of a run whose slabs of seeds are all finished."""

    run: tyro.conf.Positional[Path]
    """The run, runs/paper."""


@dataclass(frozen=True)
class Figures:
    """Draw the figures of the paper from a netCDF file, and judge its statements."""

    run: tyro.conf.Positional[Path]
    """The file, runs/desk.nc, or the folder of a run that is still being written."""
    only: tuple[str, ...] | None = None
    """Numbers or names of the figures to draw; all of them by default."""
    at_step: int | None = None
    """The record to draw, in SGD steps; the last by default."""
    reading: Reading = "drift"
    """Reading of the convergence criterion."""
    out: Path | None = None
    """Folder for the figures; figures/ and the run's name by default."""


@dataclass(frozen=True)
class Compare:
    """Compare a run with the paper's at its own length, phase by phase, as a table and a picture."""

    run: tyro.conf.Positional[Path]
    """The file, runs/mine.nc, or the folder of a run that is still being written."""
    out: Path | None = None
    """Folder for the picture; figures/ and the run's name by default."""


@dataclass(frozen=True)
class Explore:
    """Write a page to click through a run: its plane at every record, and any two of its cells against time."""

    run: tyro.conf.Positional[Path]
    """The file, runs/desk.nc, the folder of a run that is still being written, or that of a study: its planes at once."""
    out: Path | None = None
    """The page; explore.html among the figures of the run by default."""


def status(argv: Sequence[str]) -> NoReturn:
    """The command `status`: a table with a line a slab of a run, or of each of a study. Arguments as on the command line."""
    with one_sentence():
        out = parse(Status, argv, "status").run
        with doing(f"looking at {out}"):
            from phasejax.files.layout import paths
            from phasejax.files.progress import parts, progress

        folder, _ = paths(out)
        if (folder / "study.toml").is_file():
            _status_of_study(folder)
        else:
            _status_of_run(out, [progress(part) for part in parts(out)])
    sys.exit(0)


def _status_of_run(out: Path, found: "Sequence[Progress]") -> None:
    from phasejax.files.layout import paths, uncovered
    from phasejax.files.reading import read_experiment

    folder, file = paths(out)
    grid = read_experiment(out).grid
    _show(found)
    if lacking := uncovered(grid.labels, (part.experiment.grid.labels for part in found)):
        print(f"{lacking} of {grid.seeds} seeds have not been begun.")
    elif any(part.idle for part in found):
        print(f"Where nobody is writing, python -m phasejax run --resume {shlex.quote(str(folder))} goes on.")
    elif not file.exists() and all(part.finished for part in found):
        print(f"All are finished: python -m phasejax merge {shlex.quote(str(folder))} makes one file of them.")


def _status_of_study(folder: Path) -> None:
    from phasejax.files.layout import begun
    from phasejax.files.progress import parts, progress
    from phasejax.studies.study import members_in

    members, _ = members_in(folder)
    later = [name for name, member in members.items() if not begun(member)]
    found = [progress(part) for name, member in members.items() if name not in later for part in parts(member)]
    if found:
        _show(found)
    if later:
        print(f"{len(later)} of {len(members)} members have not been begun: {'; '.join(later)}.")
    if later or any(part.idle for part in found):
        print("Where nobody is writing, the command that trains the study goes on.")


def _show(found: "Sequence[Progress]") -> None:
    from phasejax.files.progress import table

    print(table(found))
    if words := next(filter(None, (part.left_out for part in found)), ""):
        print(words)


def merge(argv: Sequence[str]) -> NoReturn:
    """The command `merge`: one file of all slabs. Arguments as on the command line."""
    with one_sentence():
        out = parse(Merge, argv, "merge").run
        with doing(f"looking at {out}"):
            from phasejax.files import slabs

        print(f"Wrote {slabs.merge(out)}.")
    sys.exit(0)


def figures(argv: Sequence[str]) -> NoReturn:
    """The command `figures`: draw from a file. Arguments as on the command line."""
    with one_sentence():
        options = parse(Figures, argv, "figures")
        with doing(f"reading {options.run}"):
            from phasejax.figures import chosen
            from phasejax.files.layout import paths
            from phasejax.files.reading import load_run
            from phasejax.studies import folder

            out, paper = options.out or Path("figures") / paths(options.run)[0].name, folder.read_study("paper")
            drawn = paper.figures if options.only is None else tuple(chosen(options.only, paper.figures))
            run = load_run(options.run)
        for path in folder.report(run, out, drawn, paper.claims, step=options.at_step, reading=options.reading):
            print(path)
    sys.exit(0)


def compare(argv: Sequence[str]) -> NoReturn:
    """The command `compare`: a run beside the reference. Arguments as on the command line."""
    with one_sentence():
        options = parse(Compare, argv, "compare")
        with doing(f"comparing {options.run}"):
            from phasejax.analysis import comparison
            from phasejax.figures import save
            from phasejax.figures.comparison import deviations, table
            from phasejax.files.layout import paths
            from phasejax.files.reading import load_run
            from phasejax.studies.reference import reference

            found = comparison.compare(load_run(options.run), reference("paper"))
        print(table(found))
        for path in save(deviations(found), (options.out or Path("figures") / paths(options.run)[0].name) / "compare"):
            print(path)
    sys.exit(0)


def explore(argv: Sequence[str]) -> NoReturn:
    """The command `explore`: a page to click through a run. Arguments as on the command line."""
    with one_sentence():
        options = parse(Explore, argv, "explore")
        with doing(f"making the page of {options.run}"):
            from phasejax import explorer
            from phasejax.files.layout import paths
            from phasejax.studies.study import open_any

            out = options.out or Path("figures") / paths(options.run)[0].name / explorer.EXPLORER
            page = explorer.explore(open_any(options.run)).save(out)
        print(page)
    sys.exit(0)
