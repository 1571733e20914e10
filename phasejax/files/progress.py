"""How far a run is, in numbers and in words."""

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

from phasejax.experiment import Experiment
from phasejax.files import netcdf
from phasejax.files.durable import owner
from phasejax.files.layout import paths, segments, states
from phasejax.files.reading import finished, read_experiment
from phasejax.files.state import read_header
from phasejax.files.variables import DamagedError


class Progress(NamedTuple):
    """How far a run, or a slab of one, is."""

    out: Path
    """The finished file, or the folder."""
    experiment: Experiment
    step: int
    """Of the newest state; 0 before the first."""
    records: int
    finished: bool
    owner: str
    """The process that is writing; empty if none is."""
    speed: float
    """Steps per second when the newest state was written; 0 where it is not known."""
    written: float
    """When that was, seconds since 1970."""

    def __str__(self) -> str:
        """In a line."""
        experiment, steps = self.experiment, self.experiment.schedule.steps
        if self.finished:
            return f"{self.out}: finished, {self.records} records of {experiment.students:,} students up to step {steps:,}."
        share = self.step / steps if steps else 0.0
        words = f"{self.out}: step {self.step:,} of {steps:,} ({100 * share:.1f} %), {self.records} records"
        if not self.owner:
            return f"{words}; nobody is writing, --resume goes on."
        if self.speed:
            left = max(0.0, (steps - self.step) / self.speed - (time.time() - self.written))
            words += f"; {self.speed * experiment.students:.2e} student-steps/s, {_duration(left)} to go"
        return f"{words}; {self.owner} is writing."

    @property
    def left_out(self) -> str:
        """What it leaves out of what it was asked to record, and why, in a line; empty if that is nothing."""
        names: dict[str, list[str]] = {}
        for file in ([self.out] if self.finished else segments(self.out))[:1]:
            with contextlib.suppress(DamagedError):
                for sentence in filter(None, str(netcdf.attributes(file).get("not_recorded", "")).split("; ")):
                    name, _, reason = sentence.partition(" is not recorded: ")
                    names.setdefault(reason, []).append(name)
        found = "; ".join(f"{', '.join(of)} ({reason})" for reason, of in names.items())
        return found and f"Not recorded: {found}."


def progress(out: str | Path) -> Progress:
    """How far a run is, its slabs aside.

    Raises:
        StoreError: there is no run there.
    """
    folder, file = paths(out)
    experiment = read_experiment(out)
    if finished(out, experiment):
        steps, records = experiment.schedule.steps, netcdf.count(file)
        return Progress(file, experiment, steps, records, True, "", 0.0, file.stat().st_mtime)
    step, speed, written = 0, 0.0, 0.0
    for step_of_state, path in states(folder):
        # A writer may be deleting it; any other damage is for --resume to find.
        with contextlib.suppress(OSError, TypeError, ValueError):
            if header := read_header(path):
                speed, written, step = float(header["speed"]), path.stat().st_mtime, step_of_state
                break
    records = 0
    for segment in segments(folder):
        with contextlib.suppress(DamagedError):
            records += netcdf.count(segment)
    return Progress(folder, experiment, step, records, False, owner(folder), speed, written)


def _duration(seconds: float) -> str:
    """A time in words, to the two units that matter."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), round(seconds / 86400)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if hours < 2:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{days} days"
