"""Which files a run has, by their names.

A run that goes to `runs/desk` works in the folder `runs/desk/`:

    experiment.toml        what is run
    lock                   held by the process that writes here
    records-<step>.nc      the records since the segment before, up to <step>
    state-<step>.npz       the training state after <step> updates, with its SHA-256 and identity; the last two are kept
    seeds-<first>-<last>   a slab of the seeds, where the run was cut (`phasejax.files.slabs`): a run of its own

A commit writes the segment, then the state; each is written under a temporary name, synced and renamed, and never touched
again. So a state in the folder implies that every record up to its step is there too. When the run is over one pass streams
the segments into `runs/desk.nc`, and the folder goes.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from phasejax.files.durable import StoreError, refuse_if_written

# All that a run leaves which was killed before it wrote its experiment.
STUB = re.compile(r"lock|experiment\.toml\.\w+\.tmp")
_SLAB = re.compile(r"seeds-([0-9]{1,10})-([0-9]{1,10})")


def paths(out: str | Path) -> tuple[Path, Path]:
    """The working folder and the finished file of an output called `runs/desk` or `runs/desk.nc`.

    Raises:
        StoreError: it is not a name a file can have.
    """
    folder = Path(out)
    if folder.name in ("", "..") or len(os.fsencode(folder.name)) > 200 or "\0" in str(out):
        raise StoreError(f"{str(out)!r} cannot be an output: name a file, runs/desk for instance.")
    try:
        str(out).encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        raise StoreError(f"{str(out)!a} cannot be an output: the netCDF library cannot write this name in this locale, "
                         "LC_ALL=C.UTF-8 for instance can.") from None  # fmt: skip
    folder = folder.with_suffix("") if folder.suffix == ".nc" else folder
    return folder, folder.with_name(folder.name + ".nc")


def has_records(folder: Path) -> bool:
    """Whether anything of a run can be opened already."""
    return paths(folder)[1].exists() or bool(segments(folder))


def has_states(folder: Path) -> bool:
    """Whether a run, its slabs aside, has anything to go on from."""
    return bool(states(folder))


def begun(out: str | Path) -> bool:
    """Whether anything of a run is there."""
    return any(path.exists() for path in paths(out))


def slabs_in(folder: Path) -> dict[range, Path]:
    """The slabs of seeds in a run's folder, begun or finished, by the labels of their seeds."""
    found = {}
    for path in sorted(folder.glob("seeds-*")) if folder.is_dir() else ():
        named = _SLAB.fullmatch(path.name.removesuffix(".nc"))
        if named:
            found[range(int(named[1]), int(named[2]) + 1)] = path.with_name(named[0])
    return dict(sorted(found.items(), key=lambda item: item[0].start))


def overlap(one: range, other: range) -> range:
    """The labels that two ranges of them share. (As sets they could be too large for any memory.)"""
    return range(max(one.start, other.start), min(one.stop, other.stop))


def within(inner: range, outer: range) -> bool:
    """Whether all labels of a range are in another."""
    return len(overlap(inner, outer)) == len(inner)


def uncovered(labels: range, parts: Iterable[range]) -> int:
    """How many labels of a range are in none of the others."""
    lacking, reached = 0, labels.start
    for part in sorted((overlap(labels, part) for part in parts), key=lambda part: part.start):
        lacking += max(0, part.start - reached) if part else 0
        reached = max(reached, part.stop) if part else reached
    return lacking + labels.stop - reached


def discard(folder: Path) -> None:
    """Remove a run's own files, and the folder if it is then empty; the finished file stays."""
    for own in [*own_files(folder), folder / "experiment.toml", folder / "lock"]:
        own.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def discard_slabs(folder: Path) -> None:
    """Remove the slabs of a run.

    Raises:
        StoreError: one is being written.
    """
    for slab in slabs_in(folder).values():
        refuse_if_written(slab)
    for slab in slabs_in(folder).values():
        paths(slab)[1].unlink(missing_ok=True)
        discard(slab)


def own_files(folder: Path) -> list[Path]:
    """What a run makes before it is finished, in the order to delete it: a state implies that its records are there."""
    return [*(path for _, path in states(folder)), *segments(folder), *folder.glob("*.tmp")]


def states(folder: Path) -> list[tuple[int, Path]]:
    """States, whole or not, the newest first."""
    return sorted(((step_of(path), path) for path in folder.glob("state-*.npz") if step_of(path) >= 0), reverse=True)


def segments(folder: Path) -> list[Path]:
    """Record segments in the order of their steps."""
    return sorted((path for path in folder.glob("records-*.nc") if step_of(path) >= 0), key=step_of)


def step_of(path: Path) -> int:
    """The step in a file's name; -1 if it is somebody else's file."""
    number = path.stem.rpartition("-")[2]
    return int(number) if re.fullmatch("[0-9]{1,10}", number) else -1
