"""How far a run is, in numbers and in words."""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phasejax.experiment import Experiment
from phasejax.files import netcdf
from phasejax.files.durable import writer
from phasejax.files.layout import has_states, paths, segments, slabs_in, states
from phasejax.files.reading import finished, read_experiment
from phasejax.files.state import read_header
from phasejax.files.variables import DamagedError

COLUMNS = ("run", "students", "step", "of", "done", "records", "written", "student-steps/s", "time left", "")


class Progress(NamedTuple):
    """How far a run, or a slab of one, is."""

    out: Path
    """The finished file, or the folder."""
    experiment: Experiment
    step: int
    """Where the process is that is writing, else that of the newest state; 0 before the first."""
    records: int
    """Those that are written."""
    made: int
    """The same, and those that the process has made since it wrote."""
    finished: bool
    owner: str
    """The process that is writing; empty if none is."""
    speed: float
    """Steps per second when the step was reached; 0 where it is not known."""
    seen: float
    """When that was, seconds since 1970."""

    @property
    def share(self) -> float:
        """Of the steps, those that are done."""
        steps = self.experiment.schedule.steps
        return self.step / steps if steps else 1.0

    @property
    def idle(self) -> bool:
        """Whether there is more to do, and nobody is doing it."""
        return not self.finished and not self.owner

    @property
    def seconds_left(self) -> float | None:
        """Seconds to go; None where nobody is writing, or the speed is not known."""
        if self.finished or not self.owner or not self.speed:
            return None
        return max(0.0, (self.experiment.schedule.steps - self.step) / self.speed - max(0.0, time.time() - self.seen))

    @property
    def row(self) -> tuple[str, ...]:
        """A line of a table, under `COLUMNS`."""
        steps, left = self.experiment.schedule.steps, self.seconds_left
        how = "finished" if self.finished else f"{self.owner} is writing" if self.owner else "nobody is writing"
        speed = "" if left is None else f"{self.speed * self.experiment.students:.2g}"
        return (str(self.out), f"{self.experiment.students:,}", f"{self.step:,}", f"{steps:,}", f"{self.share:.1%}",
                f"{self.made}", f"{self.records}", speed, "" if left is None else _duration(left), how)  # fmt: skip

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


def parts(out: str | Path) -> list[Path]:
    """What there is of a run that has a state of its own: its slabs, and what is not cut, or one of these."""
    folder, file = paths(out)
    slabs = [] if file.exists() else list(slabs_in(folder).values())
    return [*slabs, Path(out)] if has_states(folder) or not slabs else slabs


def progress(out: str | Path) -> Progress:
    """How far a run is, its slabs aside.

    Raises:
        StoreError: there is no run there.
    """
    folder, file = paths(out)
    experiment = read_experiment(out)
    if finished(out, experiment):
        steps, records = experiment.schedule.steps, netcdf.count(file)
        return Progress(file, experiment, steps, records, records, True, "", 0.0, file.stat().st_mtime)
    step, speed, seen = 0, 0.0, 0.0
    for step_of_state, path in states(folder):
        # A writer may be deleting it; any other damage is for --resume to find.
        with contextlib.suppress(OSError, TypeError, ValueError):
            if header := read_header(path):
                speed, seen, step = float(header["speed"]), path.stat().st_mtime, step_of_state
                break
    records = 0
    for segment in segments(folder):
        with contextlib.suppress(DamagedError):
            records += netcdf.count(segment)
    owner, told = writer(folder)
    made = records
    with contextlib.suppress(TypeError, ValueError, KeyError, OverflowError):
        now = json.loads(told)
        if step <= int(now["step"]) <= experiment.schedule.steps:
            step, speed, seen = int(now["step"]), float(now["speed"]), float(now["at"])
            # It says where it is; what it had recorded by then follows.
            made = sum(stop.record and stop.step <= step for stop in experiment.stops())
    return Progress(folder, experiment, step, records, max(made, records), False, owner, speed, seen)


def table(found: Sequence[Progress]) -> str:
    """How far slabs of a run are, a line each under a line of `COLUMNS`, and all of them together if there are several."""
    rows = [COLUMNS, *(one.row for one in found)]
    if len(found) > 1:
        students = [one.experiment.students for one in found]
        share = sum(of * one.share for of, one in zip(students, found, strict=True)) / sum(students)
        left = [one.seconds_left for one in found if not one.finished]
        last = _duration(max(one for one in left if one is not None)) if left and None not in left else ""
        rows.append(("all", f"{sum(students):,}", "", "", f"{share:.1%}", "", "", "", last, ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = len(COLUMNS) - 1
    return "\n".join(
        "  ".join(cell.ljust(width) if k in (0, words) else cell.rjust(width) for k, (cell, width) in
                  enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )  # fmt: skip


def _duration(seconds: float) -> str:
    """A time in words, to the two units that matter."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), round(seconds / 86400)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if hours < 2:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{days} days"
