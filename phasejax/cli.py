"""The command line, `phasejax run` and so on; the options of `run` are an experiment's settings.

Refusals are one sentence on standard error and exit code 2. Neither jax nor xarray is imported before it is needed.
"""

import contextlib
import errno
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro

from phasejax import arguments, names
from phasejax.arguments import parse
from phasejax.checks import ExperimentError, refuse
from phasejax.experiment import PRESETS, Experiment, Reading
from phasejax.progress import say

_TIMED_OUT = 124


@dataclass(frozen=True)
class Run:
    """Train the ensemble of an experiment and write its records to one netCDF file.

    The settings come from a preset or a TOML file, and every option that has a dot in its name overrides one of them.
    """

    preset: Annotated[str | None, tyro.conf.arg(metavar="{" + ",".join(PRESETS) + "}")] = None
    """Settings that come with the package; desk if neither this nor --config is given."""
    config: Path | None = None
    """Settings from a TOML file; a table that it leaves out is the paper's, at desk length."""
    use: tuple[Path, ...] = ()
    """Python files that define what settings name as file:name, a function or a class of your own."""
    out: Path | None = None
    """Where to write: runs/desk makes runs/desk.nc. The default is runs/ and the preset's or the file's name."""
    resume: Path | None = None
    """Go on with the run in this output from its last checkpoint; with more --schedule.steps a finished one gets longer."""
    overwrite: bool = False
    """Delete an output that exists already."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes an accelerator if there is one."""
    engine: Literal["auto", "native", "pallas", "fused", "autodiff"] = "auto"
    """How to advance students; auto takes the fastest that applies."""
    shard: str | None = None
    """Train one of n slabs of the seeds, i/n with i from 0, in a folder of its own; auto takes i and n from SLURM."""
    time_limit: str | None = None
    """Write a checkpoint and stop after this long, 3h50m for instance."""


@dataclass(frozen=True)
class StudyOptions:
    """Train what is missing of a study, draw its figures, judge its statements, and write one page.

    A study is a folder: study.toml (question, [base], [vary], [[member]], [presets.NAME]), figures.py and claims.py, which
    may be missing. Its Python files are run.
    """

    study: tyro.conf.Positional[Path]
    """A study that comes with the package, paper for instance, or a folder."""
    preset: str | None = None
    """Which of its lengths: quick, desk or paper of the paper's."""
    out: Path | None = None
    """Folder for the members' files; runs/ and the names of study and preset by default."""
    figures: Path | None = None
    """Folder for figures, claims and page; figures/ and these names by default."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes an accelerator if there is one."""
    shard: str | None = None
    """Train one of n slabs of every member's seeds, i/n with i from 0, and draw nothing; auto takes i and n from SLURM."""
    time_limit: str | None = None
    """Write a checkpoint and stop after this long, 3h50m for instance; the same command goes on."""


@dataclass(frozen=True)
class Status:
    """Say how far a run is."""

    run: tyro.conf.Positional[Path]
    """The run, runs/paper."""


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


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code.

    0 is done, 2 refused, 124 stopped at the time limit, 130 or 143 interrupted by SIGINT or SIGTERM.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "run": (run, Run),
        "study": (study, StudyOptions),
        "status": (status, Status),
        "merge": (merge, Merge),
        "figures": (figures, Figures),
        "compare": (compare, Compare),
        "explore": (explore, Explore),
    }
    _stand_in_for_closed_streams()
    with _one_sentence():
        asked = given[0] if given else ""
        if asked in commands:
            commands[asked][0](given[1:])
        if asked == "--version":
            from importlib.metadata import version

            print(f"phasejax {version('phasejax')}")
            sys.exit(0)
        if asked and asked not in ("-h", "--help"):
            raise ExperimentError(f"{asked!r} is no command: choose from {', '.join(commands)}.")
        about = [(f"phasejax {name}", (cls.__doc__ or "").splitlines()[0]) for name, (_, cls) in commands.items()]
        about.append(("phasejax --version", "Say which version this is."))
        print("Train whole ensembles of small neural networks, and see the phases that SGD falls into.\n",
              *(f"  {usage:18}  {words}" for usage, words in about),
              "\nEach command has its own --help.", sep="\n", file=sys.stdout if asked else sys.stderr)  # fmt: skip
        sys.exit(0 if asked else 2)
    sys.exit(0)


def run(argv: Sequence[str]) -> NoReturn:
    """The command `run`: train and write. Arguments as on the command line."""
    with _one_sentence():
        options, experiment = _read_run(argv)
        out = options.resume or options.out or _default_out(options, experiment)
        seconds = _seconds(options.time_limit)
        from phasejax.files import slabs
        from phasejax.files.layout import paths

        shard = slabs.read_shard(options.shard) if options.shard else None
        if not slabs.plan(out, experiment, shard, options.resume is not None, options.overwrite):
            if not shard:
                slabs.finish(out, whole=True).close()
            what = "its share of the seeds" if shard else paths(out)[1]
            print(f"{what} is finished already.")
            sys.exit(0)
        experiment.require_resolved()
        _train(experiment, out, shard, _devices(options.device), time.monotonic() + seconds, _again(options, out, shard),
               resume=options.resume is not None, engine=options.engine, overwrite=options.overwrite)  # fmt: skip
    sys.exit(0)


def status(argv: Sequence[str]) -> NoReturn:
    """The command `status`: say how far a run is, a line for every slab of it. Arguments as on the command line."""
    with _one_sentence():
        out = parse(Status, argv, "status").run
        from phasejax.files.layout import has_states, paths, slabs_in, uncovered
        from phasejax.files.progress import progress
        from phasejax.files.reading import read_experiment

        folder, file = paths(out)
        experiment = read_experiment(out)
        parts = [] if file.exists() else list(slabs_in(folder).values())
        if has_states(folder) or not parts:
            parts.append(out)
        found = [progress(part) for part in parts]
        for part in found:
            print(part)
        if words := next(filter(None, (part.left_out for part in found)), ""):
            print(words)
        if lacking := uncovered(experiment.grid.labels, (part.experiment.grid.labels for part in found)):
            print(f"{lacking} of {experiment.grid.seeds} seeds have not been begun.")
        elif not file.exists() and all(part.finished for part in found):
            print(f"All are finished: python -m phasejax merge {shlex.quote(str(folder))} makes one file of them.")
    sys.exit(0)


def merge(argv: Sequence[str]) -> NoReturn:
    """The command `merge`: one file of all slabs. Arguments as on the command line."""
    with _one_sentence():
        out = parse(Merge, argv, "merge").run
        from phasejax.files import slabs

        print(f"Wrote {slabs.merge(out)}.")
    sys.exit(0)


def figures(argv: Sequence[str]) -> NoReturn:
    """The command `figures`: draw from a file. Arguments as on the command line."""
    with _one_sentence():
        options = parse(Figures, argv, "figures")
        from phasejax.figures import chosen
        from phasejax.files.layout import paths
        from phasejax.files.reading import load_run
        from phasejax.studies import folder

        out, paper = options.out or Path("figures") / paths(options.run)[0].name, folder.read_study("paper")
        drawn = paper.figures if options.only is None else tuple(chosen(options.only, paper.figures))
        for path in folder.report(load_run(options.run), out, drawn, paper.claims, step=options.at_step,
                                  reading=options.reading):  # fmt: skip
            print(path)
    sys.exit(0)


def compare(argv: Sequence[str]) -> NoReturn:
    """The command `compare`: a run beside the reference. Arguments as on the command line."""
    with _one_sentence():
        options = parse(Compare, argv, "compare")
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
    with _one_sentence():
        options = parse(Explore, argv, "explore")
        from phasejax import explorer
        from phasejax.files.layout import paths
        from phasejax.studies.study import open_any

        out = options.out or Path("figures") / paths(options.run)[0].name / explorer.EXPLORER
        print(explorer.explore(open_any(options.run)).save(out))
    sys.exit(0)


def study(argv: Sequence[str]) -> NoReturn:
    """The command `study`: train what is missing, draw, judge, write a page. Arguments as on the command line."""
    with _one_sentence():
        options = parse(StudyOptions, argv, "study")
        seconds = _seconds(options.time_limit)
        from phasejax.files import slabs
        from phasejax.files.layout import begun
        from phasejax.studies import folder

        found = folder.read_study(options.study)
        asked = found.study
        if asked.presets:
            asked = asked.at(options.preset or asked.presets[0][0])
        elif options.preset:
            raise refuse("preset", options.preset, "this study has no presets")
        name = f"{found.name}-{options.preset or found.study.presets[0][0]}" if found.study.presets else found.name
        out, shard = options.out or Path("runs") / name, slabs.read_shard(options.shard) if options.shard else None
        until = time.monotonic() + seconds
        for member, experiment in asked.keep(out).items():
            place = out / member
            if slabs.plan(place, experiment, shard, begun(place)):
                experiment.require_resolved()
                again = "the same command goes on from there"
                _train(experiment, place, shard, _devices(options.device), until, again, resume=begun(place))
            elif not shard:
                slabs.finish(place, whole=True).close()
        if not shard:
            # Not here: beside JAX's threads figures cannot be saved by as many processes as there are cores.
            process = get_context("spawn").Process(
                target=_report, args=(options.study, out, options.figures or Path("figures") / name)
            )
            process.start()
            process.join()
            sys.exit(process.exitcode)
    sys.exit(0)


def _report(name: Path, out: Path, place: Path) -> None:
    """Draw and judge what is in a study's folder, in a process of its own."""
    with _one_sentence():
        from phasejax.studies import folder, open_study

        study = folder.read_study(name)
        for path in folder.report(open_study(out), place, study.figures, study.claims, study.title, explored=True):
            print(path)


def _train(experiment: Experiment, out: Path, shard: Any, devices: Sequence[Any], until: float, again: str, *,
           resume: bool, **options: Any) -> None:  # fmt: skip
    """Train until it is done, a signal comes or the time is up; `again` says how it would go on."""
    from phasejax.files.layout import paths
    from phasejax.simulation import Interrupted, simulate

    received = _signals()
    started = time.monotonic()
    folder, file = paths(out)
    try:
        dataset = simulate(
            experiment, out, devices=devices, resume=resume, shard=shard, progress=True,
            interrupted=lambda: bool(received) or time.monotonic() > until, **options,
        )  # fmt: skip
    except Interrupted as stop:
        how = "Interrupted" if received else "Out of time"
        say(f"{how}, {stop}: {again}.")
        sys.exit(128 + received[0] if received else _TIMED_OUT)
    seconds = time.monotonic() - started
    if shard:
        print(f"Wrote the slab of shard {shard.index}/{shard.count} in {seconds:.0f} s. Once all are finished, "
              f"python -m phasejax merge {shlex.quote(str(folder))} makes one file of them.")  # fmt: skip
        return
    print(
        f"Wrote {file} ({file.stat().st_size / 1e6:.0f} MB): {dataset.sizes['step']} records of {experiment.students:,} "
        f"students up to step {experiment.schedule.steps:,}, in {seconds:.0f} s with engine {dataset.attrs['engine']}. "
        f'Open it with xarray.open_dataset("{file}").'
    )


def _again(options: Run, out: Path, shard: Any) -> str:
    """How a run that stops goes on."""
    from phasejax.files.layout import paths

    again = f"--resume {shlex.quote(str(paths(out)[0]))}" + (f" --shard {shard.index}/{shard.count}" if shard else "")
    for name, given in (("engine", options.engine), ("device", options.device)):
        again += f" --{name} {given}" if given != "auto" else ""
    return again + (f" --use {shlex.join(map(str, options.use))}" if options.use else "") + " goes on from there"


def _signals() -> list[int]:
    """A list to which SIGINT or SIGTERM is added when it comes; a second one ends the process at once."""
    received: list[int] = []
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        received.append(os.read(reading, 1)[0])
        say("Ending the call in flight and writing a checkpoint; a second signal ends at once.")
        os._exit(128 + os.read(reading, 1)[0])

    # A thread, because a handler would not be called before the compiled function that is running returns.
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=listen, daemon=True).start()
    return received


def _seconds(text: str | None) -> float:
    """A time limit such as 3h50m in seconds; infinite if there is none."""
    if text is None:
        return math.inf
    found = re.fullmatch(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text)
    if not found or not any(found.groups()):
        raise refuse("time_limit", text, "give days, hours, minutes and seconds, as 3h50m or 90s")
    return float(sum(int(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True)))


def _devices(name: str) -> Sequence[Any]:
    """The JAX devices of this name."""
    try:
        import jax
    except ValueError as error:  # settings in the environment that are none
        raise ExperimentError(f"JAX cannot be started here: {error}.") from None

    from phasejax.simulation import all_devices

    everything = all_devices()
    if name == "auto":
        return everything
    try:
        return jax.devices(name)
    except RuntimeError:
        there = sorted({device.platform for device in everything} | {"cpu"})
        raise refuse("device", name, f"JAX finds {' and '.join(there)} here") from None


def _read_run(argv: Sequence[str]) -> tuple[Run, Experiment]:
    """The options of `run`, and what to run: the settings that --preset, --config or --resume names, with those given."""
    rest, given = arguments.split(argv)
    options = parse(Run, rest, "run", lambda: arguments.help_of(Experiment()))
    for file in options.use:
        names.use(file)
    sources = {"--preset": options.preset, "--config": options.config, "--resume": options.resume}
    named = [name for name, value in sources.items() if value is not None]
    if len(named) > 1:
        raise ExperimentError(f"{' and '.join(named)} cannot go together: each says which settings to start from.")
    if options.resume is not None:
        for contradiction, value in (("--out", options.out), ("--overwrite", options.overwrite)):
            if value:
                raise ExperimentError(f"--resume and {contradiction} cannot go together: a run goes on where it is.")
        from phasejax.files.reading import read_experiment

        experiment = read_experiment(options.resume)
    else:
        experiment = _named(options)
    return options, arguments.applied(experiment, given) if given else experiment


def _named(options: Run) -> Experiment:
    return Experiment.read(options.config) if options.config else Experiment.preset(options.preset or "desk")


def _default_out(options: Run, experiment: Experiment) -> Path:
    """runs/ and the name of the preset or file, if that is what the settings are."""
    name = options.config.stem if options.config else options.preset or "desk"
    if experiment != _named(options):
        raise ExperimentError(f"--out is missing: settings other than those of {name} need a name of their own.")
    return Path("runs") / name


def _stand_in_for_closed_streams() -> None:
    """Open what the process was begun without, or the next file opened would get what libraries write to standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def _one_sentence() -> Any:
    """Turn a refusal into its sentence on standard error and exit code 2."""
    try:
        yield
    except BrokenPipeError as deaf:
        _hushed(deaf)
    except SystemExit:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as deaf:
            _hushed(deaf)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except ExperimentError as refusal:
        say(str(refusal))
        sys.exit(2)
    except Exception as refusal:
        # Importing these costs xarray's import time, so it is done only where something has gone wrong already.
        from phasejax.analysis.run import RunError
        from phasejax.files.durable import StoreError

        if isinstance(refusal, OSError) and not refusal.filename and refusal.errno in (errno.ENOSPC, errno.EIO):
            _hushed(refusal)
        if isinstance(refusal, OSError) and refusal.filename:
            refusal = f"{refusal.filename} cannot be used: {refusal.strerror}."
        elif not isinstance(refusal, (RunError, StoreError)):
            raise
        say(str(refusal))
        sys.exit(2)


def _hushed(deaf: OSError) -> NoReturn:
    """Leave when standard output takes no more: who read it has seen enough, or the disk it goes to is full."""
    # Nothing more may be written, not even by Python's own end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(deaf, BrokenPipeError):
        sys.exit(0)
    say(f"Standard output cannot be written to: {deaf.strerror}.")
    sys.exit(2)
