"""Commands that train: run and advise, whose options are an experiment's settings, and study."""

import contextlib
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import tyro

from phasejax import arguments, names
from phasejax.arguments import parse
from phasejax.checks import ExperimentError, refuse
from phasejax.cli.refusals import one_sentence
from phasejax.experiment import PRESETS, Experiment
from phasejax.progress import doing, say

_TIMED_OUT = 124
T = TypeVar("T", bound="_Settings")


@dataclass(frozen=True)
class _Settings:
    """Where an experiment's settings come from."""

    preset: Annotated[str | None, tyro.conf.arg(metavar="{" + ",".join(PRESETS) + "}")] = None
    """Settings that come with the package; desk if neither this nor --config is given."""
    config: Path | None = None
    """Settings from a TOML file; a table that it leaves out is the paper's, at desk length."""
    use: tuple[Path, ...] = ()
    """Python files that define what settings name as file:name, a function or a class of your own."""


@dataclass(frozen=True)
class Run(_Settings):
    """Train the ensemble of an experiment and write its records to one netCDF file.

    The settings come from a preset or a TOML file, and every option that has a dot in its name overrides one of them.
    """

    out: Path | None = None
    """Where to write: runs/desk makes runs/desk.nc. The default is runs/ and the preset's or the file's name."""
    resume: Path | None = None
    """Go on with the run in this output from its last checkpoint; with more --schedule.steps a finished one gets longer."""
    overwrite: bool = False
    """Delete an output that exists already."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes an accelerator if there is one."""
    engine: Literal["auto", "native", "pallas", "autodiff"] = "auto"
    """How to advance students; auto takes the fastest that applies."""
    shard: str | None = None
    """Train one of n slabs of the seeds, i/n with i from 0, in a folder of its own; auto takes i and n from SLURM."""
    time_limit: str | None = None
    """Write a checkpoint and stop after this long, 3h50m for instance."""


@dataclass(frozen=True)
class Advise(_Settings):
    """Find the temperature boundary and the best cell of an experiment from a small part of its training.

    A pilot is trained, the experiment itself but short, at temperatures (or learning rates) and seeds of its own, in columns
    that are the settings' sigma_w. What it says is printed, and written into a folder with a map and the settings of the
    recommended cell. The settings are given as to run.
    """

    budget: float = 0.01
    """Steps of a student of the pilot over those planned."""
    out: Path | None = None
    """Folder for the pilot and the report; runs/, the preset's or the file's name and -advice by default."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes an accelerator if there is one."""
    time_limit: str | None = None
    """Write a checkpoint and stop after this long, 3h50m for instance; the same command goes on."""


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


def run(argv: Sequence[str]) -> NoReturn:
    """The command `run`: train and write. Arguments as on the command line."""
    with one_sentence():
        options, experiment = _read_run(argv)
        out = options.resume or options.out or Path("runs") / _own_name(options, experiment)
        seconds = _seconds(options.time_limit)
        with doing(f"starting {out}"):
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


def advise(argv: Sequence[str]) -> NoReturn:
    """The command `advise`: train a pilot, and say what it says. Arguments as on the command line."""
    with one_sentence():
        rest, given = arguments.split(argv)
        options = _parsed(Advise, rest, "advise")
        experiment = arguments.applied(_named(options), given) if given else _named(options)
        out = options.out or Path("runs") / f"{_own_name(options, experiment)}-advice"
        seconds = _seconds(options.time_limit)
        experiment.require_resolved()
        devices = _devices(options.device)
        import phasejax.advice

        with _stoppable(time.monotonic() + seconds, "the same command goes on from there") as interrupted:
            found = phasejax.advice.advise(experiment, out, budget=options.budget, devices=devices, progress=True,
                                           interrupted=interrupted)  # fmt: skip
        from phasejax.advice.report import report

        print(found, *report(found, out), sep="\n")
    sys.exit(0)


def study(argv: Sequence[str]) -> NoReturn:
    """The command `study`: train what is missing, draw, judge, write a page. Arguments as on the command line."""
    with one_sentence():
        options = parse(StudyOptions, argv, "study")
        seconds = _seconds(options.time_limit)
        with doing(f"reading {options.study}"):
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
    with one_sentence():
        with doing(f"reading {out}"):
            from phasejax.studies import folder, open_study

            study = folder.read_study(name)
        for path in folder.report(open_study(out), place, study.figures, study.claims, study.title, explored=True):
            print(path)


def _train(experiment: Experiment, out: Path, shard: Any, devices: Sequence[Any], until: float, again: str, *,
           resume: bool, **options: Any) -> None:  # fmt: skip
    """Train until it is done, a signal comes or the time is up; `again` says how it would go on."""
    from phasejax.files.layout import paths
    from phasejax.simulation import simulate

    started = time.monotonic()
    folder, file = paths(out)
    with _stoppable(until, again) as interrupted:
        dataset = simulate(experiment, out, devices=devices, resume=resume, shard=shard, progress=True,
                           interrupted=interrupted, **options)  # fmt: skip
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


@contextlib.contextmanager
def _stoppable(until: float, again: str) -> Iterator[Callable[[], bool]]:
    """What says whether a signal has come or the time is up; leave then, saying how it would go on."""
    from phasejax.simulation import Interrupted

    received = _signals()
    try:
        yield lambda: bool(received) or time.monotonic() > until
    except Interrupted as stop:
        how = "Interrupted" if received else "Out of time"
        say(f"{how}, {stop}: {again}.")
        sys.exit(128 + received[0] if received else _TIMED_OUT)


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
    """The JAX devices of this name. In a process of the command line's own, JAX keeps what it compiles."""
    with doing("starting JAX"):
        try:
            import jax
        except ValueError as error:  # settings in the environment that are none
            raise ExperimentError(f"JAX cannot be started here: {error}.") from None

        from phasejax.kernels import cache
        from phasejax.simulation import all_devices

        cache.keep_programs()
        everything = all_devices()
    if name == "auto":
        return everything
    try:
        return jax.devices(name)
    except RuntimeError:
        there = sorted({device.platform for device in everything} | {"cpu"})
        raise refuse("device", name, f"JAX finds {' and '.join(there)} here") from None


def _parsed(command: type[T], rest: Sequence[str], name: str) -> T:
    """The options of a command that an experiment's settings may be given to, once the files they use are known."""
    options = parse(command, rest, name, lambda: arguments.help_of(Experiment()))
    for file in options.use:
        names.use(file)
    sources = {"--preset": options.preset, "--config": options.config, "--resume": getattr(options, "resume", None)}
    named = [name for name, value in sources.items() if value is not None]
    if len(named) > 1:
        raise ExperimentError(f"{' and '.join(named)} cannot go together: each says which settings to start from.")
    return options


def _read_run(argv: Sequence[str]) -> tuple[Run, Experiment]:
    """The options of `run`, and what to run: the settings that --preset, --config or --resume names, with those given."""
    rest, given = arguments.split(argv)
    options = _parsed(Run, rest, "run")
    if options.resume is not None:
        for contradiction, value in (("--out", options.out), ("--overwrite", options.overwrite)):
            if value:
                raise ExperimentError(f"--resume and {contradiction} cannot go together: a run goes on where it is.")
        with doing(f"reading {options.resume}"):
            from phasejax.files.reading import read_experiment

            experiment = read_experiment(options.resume)
    else:
        experiment = _named(options)
    return options, arguments.applied(experiment, given) if given else experiment


def _named(options: _Settings) -> Experiment:
    return Experiment.read(options.config) if options.config else Experiment.preset(options.preset or "desk")


def _own_name(options: _Settings, experiment: Experiment) -> str:
    """The name of the preset or file, if that is what the settings are."""
    name = options.config.stem if options.config else options.preset or "desk"
    if experiment != _named(options):
        raise ExperimentError(f"--out is missing: settings other than those of {name} need a name of their own.")
    return name
