"""What is written whole and synced or not at all, and a folder that one process at a time writes in."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from phasejax.checks import shown
from phasejax.memory import size


class StoreError(Exception):
    """A file or folder that cannot be used as asked: one sentence with its path and what can be done."""


@contextlib.contextmanager
def atomically(path: Path, run: Path, space: int = 0, unique: str = "") -> Iterator[Path]:
    """Give a temporary name to write under; it becomes `path` whole and synced to disk, or not at all.

    Args:
        path: the file.
        run: the folder of the run it belongs to.
        space: bytes the whole run takes, if known.
        unique: in the temporary name, where processes may write the same file at the same time; without it what a killed
            process left is written over.

    Raises:
        StoreError: the disk does not take it.
    """
    temporary = path.with_name(f"{path.name}{unique}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(existing_parent(path)).free
        # On a full disk netCDF4 speaks of permissions, or of HDF5.
        reason = "the disk is full" if free < 2**20 else getattr(error, "strerror", None) or error
        needs = f"the run takes up to {size(space)} in all and {size(free)} are" if space else f"{size(free)} are"
        raise StoreError(
            f"{path} could not be written ({reason}): {needs} free; --resume {run} goes on once there is space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write files in; when all are written they move to `folder`, else none does.

    Raises:
        StoreError: `folder` cannot be written to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".phasejax-", dir=existing_parent(folder)) as temporary:
            yield Path(temporary)
            make(folder)
            for file in filter(Path.is_file, Path(temporary).rglob("*")):
                place = folder / file.relative_to(temporary)
                place.parent.mkdir(exist_ok=True)
                os.replace(file, place)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror or error}.") from None


class Lock(NamedTuple):
    """A run's lock, held."""

    folder: Path
    left_by: str
    """Who held it for writing before and died; empty if it was given back."""
    file: IO[str]

    def require(self) -> None:
        """Raise unless it is the lock that is there: who removed it may have begun another run in the folder.

        Raises:
            StoreError: it is not.
        """
        if not _is_there(self.file):
            raise StoreError(f"{self.folder} was removed or begun anew while this process was writing it: nothing more is "
                             "written; see what is there, or choose another --out.")  # fmt: skip

    def tell(self, words: str) -> None:
        """Say to who looks, in a second line, how far this process is; what it said before goes, and nothing rests on it."""
        with contextlib.suppress(OSError):
            self.file.truncate(len(_me().encode()))
            self.file.write(f"{words}\n")
            self.file.flush()


@contextlib.contextmanager
def held(folder: Path, how: int = fcntl.LOCK_EX) -> Iterator[Lock]:
    """Lock a run's folder for writing (exclusive), or against writing (shared).

    Raises:
        StoreError: another process is writing there, or the folder cannot be locked.
    """
    try:
        lock = open(folder / "lock", "a+", errors="replace")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror}.") from None
    with lock:
        left_by = _take(lock, folder, how)
        try:
            yield Lock(folder, left_by, lock)
        finally:
            if how == fcntl.LOCK_EX:
                with contextlib.suppress(OSError):
                    lock.truncate(0)


def _take(lock: IO[str], folder: Path, how: int) -> str:
    """Lock an open file; who held it for writing before and died."""
    for attempt in range(10):
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == 9:
                lock.seek(0)
                raise _being_written(folder, _named_in(lock)) from None
            time.sleep(0.05)  # who only asks for the owner holds it for a moment
        except OSError as error:
            raise StoreError(f"{folder} cannot be locked: {error.strerror}; choose an --out on another disk.") from None
    if not _is_there(lock):
        raise StoreError(f"{folder} has just been finished or removed by another process: try again.")
    if how != fcntl.LOCK_EX:
        return ""
    lock.seek(0)
    before = shown(lock.readline(200).strip())
    lock.truncate(0)
    lock.write(_me())
    lock.flush()
    return before


def _is_there(lock: IO[str]) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
    except OSError:
        return False


def owner(folder: Path) -> str:
    """The process that is writing a run, as words; empty if none is."""
    return writer(folder)[0]


def writer(folder: Path) -> tuple[str, str]:
    """The process that is writing a run, and what it told last (`Lock.tell`); empty if none is, or it told nothing."""
    try:
        with open(folder / "lock", errors="replace") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _named_in(lock), lock.readline(200)
    except OSError:
        pass
    return "", ""


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}\n"


def refuse_if_written(folder: Path) -> None:
    """Raise `StoreError` if a process is writing a run."""
    if writer := owner(folder):
        raise _being_written(folder, writer)


def _named_in(lock: IO[str]) -> str:
    return shown(lock.readline(200).strip()) or "another process"


def _being_written(folder: Path, writer: str) -> StoreError:
    return StoreError(f"{folder} is being written by {writer}; wait for it or choose another --out.")


def make(folder: Path) -> None:
    """Make a folder, and its parents, where it is not there yet.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror}.") from None


def existing_parent(path: Path) -> Path:
    """The path itself or the nearest of its parents that exists."""
    return next(p for p in [path, *path.absolute().parents] if p.exists())


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
