"""The command line: `python -m phasejax run | status | merge | figures`; the options of `run` are an experiment's fields.

Refusals are one sentence on standard error and exit code 2. Neither jax nor xarray is imported before it is needed.
"""

import argparse
import contextlib
import dataclasses
import difflib
import io
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
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import tyro

from phasejax.experiment import PRESETS, EngineName, Experiment, ExperimentError, Reading, refuse

T = TypeVar("T")
_USAGE = "usage: python -m phasejax {run,status,merge,figures} [options]   (each has its own --help)"
_TIMED_OUT = 124


@dataclass(frozen=True)
class Run:
    """Train the ensemble of an experiment and write its records to one netCDF file.

    The settings come from a preset or a TOML file, and every option below that has a dot in its name overrides one of them.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    preset: Annotated[str | None, tyro.conf.arg(metavar="{" + ",".join(PRESETS) + "}")] = None
    """Settings that come with the package; desk if neither this nor --config is given."""
    config: Path | None = None
    """Settings from a TOML file; what it leaves out is the desk preset's."""
    out: Path | None = None
    """Where to write: runs/desk makes runs/desk.nc. The default is runs/ and the preset's or the file's name."""
    resume: Path | None = None
    """Go on with the run in this output (its settings included) from its last checkpoint."""
    overwrite: bool = False
    """Delete an output that exists already."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes an accelerator if there is one."""
    engine: EngineName = "auto"
    """How to advance students; auto takes the fastest that applies."""
    shard: str | None = None
    """Train one of n slabs of the seeds, i/n with i from 0, in a folder of its own; auto takes i and n from SLURM."""
    time_limit: str | None = None
    """Write a checkpoint and stop after this long, 3h50m for instance."""


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


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code.

    0 is done, 2 refused, 124 stopped at the time limit, 130 or 143 interrupted by SIGINT or SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"run": run, "status": status, "merge": merge, "figures": figures}
    if not arguments or arguments[0] not in commands:
        asked = bool(arguments) and arguments[0] in ("-h", "--help")
        print(_USAGE if asked or not arguments else f"{arguments[0]!r} is no command: choose from {', '.join(commands)}.",
              file=sys.stdout if asked else sys.stderr)  # fmt: skip
        sys.exit(0 if asked else 2)
    commands[arguments[0]](arguments[1:])


def run(argv: Sequence[str]) -> NoReturn:
    """The command `run`: train and write. Arguments as on the command line."""
    with _one_sentence():
        options = _read_run(argv)
        out = options.resume or options.out or _default_out(options)
        seconds = _seconds(options.time_limit)
        from phasejax.files import slabs
        from phasejax.files.layout import paths

        shard = slabs.read_shard(options.shard) if options.shard else None
        if not slabs.plan(out, options.experiment, shard, options.resume is not None, options.overwrite):
            if not shard:
                slabs.finish(out, whole=True).close()
            what = "its share of the seeds" if shard else paths(out)[1]
            print(f"{what} is finished already.")
            sys.exit(0)
        _train(options, out, shard, _devices(options.device), time.monotonic() + seconds)
    sys.exit(0)


def status(argv: Sequence[str]) -> NoReturn:
    """The command `status`: say how far a run is, a line for every slab of it. Arguments as on the command line."""
    with _one_sentence():
        out = _parse(Status, argv, "status").run
        from phasejax.files.layout import has_states, paths, slabs_in
        from phasejax.files.reading import progress, read_experiment

        folder, file = paths(out)
        experiment = read_experiment(out)
        parts = [] if file.exists() else list(slabs_in(folder).values())
        if has_states(folder) or not parts:
            parts.append(out)
        found = [progress(part) for part in parts]
        for part in found:
            print(_so_far(part))
        lacking = set(experiment.seed_labels).difference(*(part.experiment.seed_labels for part in found))
        if lacking:
            print(f"{len(lacking)} of {experiment.grid.seeds} seeds have not been begun.")
        elif not file.exists() and all(part.finished for part in found):
            print(f"All are finished: python -m phasejax merge {shlex.quote(str(folder))} makes one file of them.")
    sys.exit(0)


def merge(argv: Sequence[str]) -> NoReturn:
    """The command `merge`: one file of all slabs. Arguments as on the command line."""
    with _one_sentence():
        out = _parse(Merge, argv, "merge").run
        from phasejax.files import slabs

        print(f"Wrote {slabs.merge(out)}.")
    sys.exit(0)


def figures(argv: Sequence[str]) -> NoReturn:
    """The command `figures`: draw from a file. Arguments as on the command line."""
    with _one_sentence():
        options = _parse(Figures, argv, "figures")
        from phasejax import claims, report
        from phasejax.figures import chosen, draw_all
        from phasejax.files.durable import staged
        from phasejax.files.layout import paths
        from phasejax.files.reading import load_run

        out, names = options.out or Path("figures") / paths(options.run)[0].name, chosen(options.only)
        dataset = load_run(options.run)
        verdicts = claims.check(dataset, options.at_step)
        with staged(out) as folder:
            drawn = draw_all(dataset, folder, names, step=options.at_step, reading=options.reading)
            page = report.index_page(folder, dataset, verdicts, drawn)
            written = [*drawn, *claims.write(verdicts, dataset, folder), page]
        for path in written:
            print(out / path.name)
    sys.exit(0)


def _train(options: Run, out: Path, shard: Any, devices: Sequence[Any], until: float) -> None:
    from phasejax.files.layout import paths
    from phasejax.simulation import Interrupted, simulate

    received = _signals()
    started = time.monotonic()
    folder, file = paths(out)
    try:
        dataset = simulate(
            options.experiment, out, engine=options.engine, devices=devices, resume=options.resume is not None,
            overwrite=options.overwrite, shard=shard, progress=True,
            interrupted=lambda: bool(received) or time.monotonic() > until,
        )  # fmt: skip
    except Interrupted as stop:
        how = "Interrupted" if received else "Out of time"
        again = f"--resume {shlex.quote(str(folder))}" + (f" --shard {shard.index}/{shard.count}" if shard else "")
        for name, given in (("engine", options.engine), ("device", options.device)):
            again += f" --{name} {given}" if given != "auto" else ""
        print(f"{how}, {stop}: {again} goes on from there.", file=sys.stderr)
        sys.exit(128 + received[0] if received else _TIMED_OUT)
    seconds, experiment = time.monotonic() - started, options.experiment
    if shard:
        print(f"Wrote the slab of shard {shard.index}/{shard.count} in {seconds:.0f} s. Once all are finished, "
              f"python -m phasejax merge {shlex.quote(str(folder))} makes one file of them.")  # fmt: skip
        return
    print(
        f"Wrote {file} ({file.stat().st_size / 1e6:.0f} MB): {dataset.sizes['step']} records of {experiment.students:,} "
        f"students up to step {experiment.schedule.steps:,}, in {seconds:.0f} s with engine {dataset.attrs['engine']}. "
        f'Open it with xarray.open_dataset("{file}").'
    )


def _signals() -> list[int]:
    """A list to which SIGINT or SIGTERM is added when it comes; a second one ends the process at once."""
    received: list[int] = []
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        received.append(os.read(reading, 1)[0])
        print("Ending the call in flight and writing a checkpoint; a second signal ends at once.", file=sys.stderr)
        os._exit(128 + os.read(reading, 1)[0])

    # A thread, because a handler would not be called before the compiled function that is running returns.
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=listen, daemon=True).start()
    return received


def _so_far(part: Any) -> str:
    """How far a run or a slab is, in a line."""
    experiment, steps = part.experiment, part.experiment.schedule.steps
    if part.finished:
        return f"{part.out}: finished, {part.records} records of {experiment.students:,} students up to step {steps:,}."
    share = part.step / steps if steps else 0.0
    words = f"{part.out}: step {part.step:,} of {steps:,} ({100 * share:.1f} %), {part.records} records"
    if not part.owner:
        return f"{words}; nobody is writing, --resume goes on."
    if part.speed:
        left = max(0.0, (steps - part.step) / part.speed - (time.time() - part.written))
        words += f"; {part.speed * experiment.students:.2e} student-steps/s, {_duration(left)} to go"
    return f"{words}; {part.owner} is writing."


def _duration(seconds: float) -> str:
    """A time in words, to the two units that matter."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), round(seconds / 86400)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if hours < 2:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{days} days"


def _seconds(text: str | None) -> float:
    """A time limit such as 3h50m in seconds; infinite if there is none."""
    if text is None:
        return math.inf
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not found or not any(found.groups()):
        raise refuse("time_limit", text, "give days, hours, minutes and seconds, as 3h50m or 90s")
    return float(sum(int(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True)))


def _devices(name: str) -> Sequence[Any]:
    """The JAX devices of this name; with CPUs every core this process may use is one."""
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    if name == "auto":
        return jax.devices()
    try:
        return jax.devices(name)
    except RuntimeError:
        there = sorted({device.platform for device in jax.devices()} | {"cpu"})
        raise refuse("device", name, f"JAX finds {' and '.join(there)} here") from None


def _read_run(argv: Sequence[str]) -> Run:
    """Parse the options of `run`: what --preset, --config or --resume names becomes the default of every field."""
    from_where = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for source in ("--preset", "--config", "--resume"):
        from_where.add_argument(source)
    try:
        known, _ = from_where.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ExperimentError(f"{error.argument_name}: {error.message}.") from None
    given = [f"--{name}" for name, value in vars(known).items() if value is not None]
    if len(given) > 1:
        raise ExperimentError(f"{' and '.join(given)} cannot go together: each says which settings to start from.")
    if known.resume is not None:
        for contradiction in ("--out", "--overwrite"):
            if any(argument.partition("=")[0] == contradiction for argument in argv):
                raise ExperimentError(f"--resume and {contradiction} cannot go together: a run goes on where it is.")
        from phasejax.files.reading import read_experiment

        experiment = read_experiment(known.resume)
    else:
        experiment = Experiment.read(known.config) if known.config else Experiment.preset(known.preset or "desk")
    return _parse(Run, argv, "run", Run(experiment))


def _default_out(options: Run) -> Path:
    """runs/ and the name of the preset or file, if that is what the settings are."""
    name, settings = (
        (options.config.stem, Experiment.read(options.config))
        if options.config
        else (options.preset or "desk", Experiment.preset(options.preset or "desk"))
    )
    if options.experiment != settings:
        raise ExperimentError(f"--out is missing: settings other than those of {name} need a name of their own.")
    return Path("runs") / name


def _parse(command: type[T], argv: Sequence[str], name: str, default: T = tyro.MISSING_NONPROP) -> T:
    """tyro's parser, with its framed errors turned into one sentence."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                command, args=argv, prog=f"phasejax {name}", default=default, return_unknown_args=True
            )
    except SystemExit as left:
        if not left.code:
            raise
        raise ExperimentError(_sentence(complaint.getvalue())) from None
    if unknown:
        close = difflib.get_close_matches(unknown[0].lstrip("-"), _option_names(command), 1)
        hint = f"did you mean --{close[0]}" if close else "--help lists what there is"
        raise ExperimentError(f"{unknown[0]} is not an option: {hint}.")
    return parsed


def _sentence(framed: str) -> str:
    """What a framed error of tyro's says, from under its title to the next rule, as one sentence about a field."""
    lines = [line.strip("│╭╮╰╯ ") for line in framed.splitlines()][1:]
    ruled = [set(line) <= {"─", "-"} for line in lines]
    start = ruled.index(False) if False in ruled else 0
    end = ruled.index(True, start) if True in ruled[start:] else len(lines)
    text = " ".join(lines[start:end])
    for pattern, sentence in _REWORDED:
        text = re.sub(pattern, sentence, text)
    return text


_REWORDED = (
    (r"^Error parsing [\w.]*: (?=[\w.]+ = )", ""),  # our own refusal, raised while tyro built a part
    (
        r"^Error parsing --([\w.-]+): invalid literal for int\(\) .*: (.*)$",
        r"\1 = \2 is not possible: it must be a whole number.",
    ),
    (
        r"^Error parsing --([\w.-]+): could not convert string to float: (.*)$",
        r"\1 = \2 is not possible: it must be a number.",
    ),
    (
        r"^Error parsing --([\w.-]+): Could not find valid parse for arguments: (.*)$",
        r"\1 = \2 is not possible: see --help.",
    ),
    (
        r"^invalid choice ('.*') for argument '--(.*)'. Expected one of \((.*)\)\.$",
        r"\2 = \1 is not possible: choose from \3.",
    ),
)


def _option_names(command: type) -> list[str]:
    names = []
    for part in dataclasses.fields(command):
        if part.name != "experiment":
            names.append(part.name)
            continue
        for section in dataclasses.fields(Experiment):
            inner = section.default_factory
            fields = dataclasses.fields(inner) if isinstance(inner, type) else ()
            names += [f"{section.name}.{field.name}".replace("_", "-") for field in fields] or [section.name]
    return names


@contextlib.contextmanager
def _one_sentence() -> Any:
    """Turn a refusal into its sentence on standard error and exit code 2."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except ExperimentError as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
    except Exception as refusal:
        # Importing these costs xarray's import time, so it is done only where something has gone wrong already.
        from phasejax.files.durable import StoreError
        from phasejax.records import RunError

        if isinstance(refusal, OSError) and refusal.filename:
            refusal = f"{refusal.filename} cannot be used: {refusal.strerror}."
        elif not isinstance(refusal, (RunError, StoreError)):
            raise
        print(refusal, file=sys.stderr)
        sys.exit(2)
