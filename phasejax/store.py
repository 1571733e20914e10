"""Files and nothing else: a run's folder and lock, record segments, checkpoints, resume, consolidation, opening.

A run that goes to `runs/desk` works in the folder `runs/desk/`:

    experiment.toml        what is run
    lock                   held by the process that writes here
    records-<step>.nc      the records since the segment before, up to <step>
    state-<step>.npz       the training state after <step> updates, with its SHA-256 and identity; the last two are kept
    seeds-<first>-<last>   a slab of the seeds, where the run was cut (`phasejax.slabs`): a run of its own

A commit writes the segment, then the state; each is written under a temporary name, synced and renamed, and never touched
again. So a state in the folder implies that every record up to its step is there too. When the run is over one pass streams
the segments into `runs/desk.nc`, and the folder goes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from phasejax import netcdf
from phasejax.experiment import Experiment, ExperimentError
from phasejax.netcdf import STEP_AXES, DamagedError, Record
from phasejax.records import RunError, settings

if TYPE_CHECKING:
    from phasejax.observables import Observable

_KEPT_STATES = 2
# All that a run leaves which was killed before it wrote its experiment.
_STUB = re.compile(r"lock|experiment\.toml\.\w+\.tmp")
_SLAB = re.compile(r"seeds-(\d+)-(\d+)")


class StoreError(Exception):
    """A file or folder that cannot be used as asked: one sentence with its path and what can be done."""


class Checkpoint(NamedTuple):
    """The training state after `step` updates."""

    step: int
    marked_step: int
    leaves: list[np.ndarray]
    """The State's arrays in tree order, leading axis seed."""
    speed: float = 0.0
    """Steps per second of the process that wrote it; 0 where it is not known."""


def paths(out: str | Path) -> tuple[Path, Path]:
    """The working folder and the finished file of an output called `runs/desk` or `runs/desk.nc`.

    Raises:
        StoreError: it is not a name a file can have.
    """
    folder = Path(out)
    if folder.name in ("", "..") or len(os.fsencode(folder.name)) > 200 or "\0" in str(out):
        raise StoreError(f"{str(out)!r} cannot be an output: name a file, runs/desk for instance.")
    folder = folder.with_suffix("") if folder.suffix == ".nc" else folder
    return folder, folder.with_name(folder.name + ".nc")


class Store:
    """The output of one run, open for writing; a context manager that holds the folder's lock.

    Args:
        out: the output, with or without `.nc`.
        experiment: what is run.
        fields: the variables.
        attributes: global attributes of the file.
        resume: go on with what is there; without it an output that exists is refused.
        overwrite: delete what is there.
        space: bytes that the folder and the finished file may grow to together.

    Raises:
        StoreError: the output exists, belongs to another experiment, is being written by another process, its folder
            cannot be written to, or the disk is too small.
    """

    def __init__(
        self,
        out: str | Path,
        experiment: Experiment,
        fields: Sequence["Observable"],
        attributes: Mapping[str, str],
        resume: bool = False,
        overwrite: bool = False,
        space: int = 0,
    ) -> None:
        self.folder, self.file = paths(out)
        self._experiment, self._fields, self._attributes = experiment, fields, attributes
        self._identity = self._identity_of(experiment)
        self._space = space
        check(out, experiment, resume, overwrite)
        self._require(overwrite)
        _make(self.folder)
        with contextlib.ExitStack() as until_closed:
            self.left_by = until_closed.enter_context(held(self.folder))
            """Who held the lock last, if it died without giving it back."""
            if overwrite:
                discard_slabs(self.folder)
                self.file.unlink(missing_ok=True)
            if not resume:
                for old in _own_files(self.folder):
                    old.unlink()
            keep_experiment(self.folder, experiment)
            self._lock = until_closed.pop_all()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _identity_of(self, experiment: Experiment) -> str:
        """What a state must agree in to be gone on with."""
        schema = [(f.name, f.dims, f.when) for f in self._fields]
        made_by = [self._attributes.get(name) for name in ("source", "engine")]
        return hashlib.sha256(repr((experiment.identity, schema, made_by)).encode()).hexdigest()

    def _require(self, overwrite: bool) -> None:
        """Raise if the disk is too small for what is still to be written."""
        parent = existing_parent(self.folder)
        there = sum(path.stat().st_size for path in _own_files(self.folder))
        there += self.file.stat().st_size if overwrite and self.file.exists() else 0
        free = shutil.disk_usage(parent).free
        if free + there < self._space:
            raise StoreError(
                f"{self.folder} needs up to {size(self._space)}, and {parent} has {size(free + there)} for it: make space, "
                "or record less."
            )

    # -- writing ---------------------------------------------------------------------------------------------------------

    def commit(self, records: Sequence[Record], checkpoint: Checkpoint) -> None:
        """Write the records since the last commit, then the state; after this call both survive a power cut."""
        if records:
            with atomically(self.folder / f"records-{checkpoint.step}.nc", self.folder, self._space) as temporary:
                netcdf.write(temporary, self._experiment, self._fields, records)
        self._save(checkpoint)
        for _, old in _states(self.folder)[_KEPT_STATES:]:
            old.unlink()

    def _save(self, checkpoint: Checkpoint) -> None:
        header = {
            "identity": self._identity,
            "engine": self._attributes.get("engine"),
            "step": checkpoint.step,
            "marked_step": checkpoint.marked_step,
            "speed": checkpoint.speed,
            "sha256": _digest(checkpoint.leaves),
        }
        with (
            atomically(self.folder / f"state-{checkpoint.step}.npz", self.folder, self._space) as temporary,
            open(temporary, "wb") as file,
        ):
            encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
            leaves: dict[str, Any] = {f"leaf_{k}": leaf for k, leaf in enumerate(checkpoint.leaves)}
            np.savez(file, allow_pickle=False, header=encoded, **leaves)

    def take_over(self, whole: str | Path) -> None:
        """Begin where a run of more seeds stands, of which these are some; from step 0 where it has no state.

        Raises:
            StoreError: it is being written, or damaged.
        """
        folder, _ = paths(whole)
        experiment = read_experiment(whole)
        # Several processes may take their seeds from one run at the same time.
        with held(folder, fcntl.LOCK_SH):
            checkpoint = self._newest(folder, self._identity_of(experiment))
            if checkpoint is None:
                return
            first = self._experiment.grid.first_seed - experiment.grid.first_seed
            seeds = slice(first, first + self._experiment.grid.seeds)
            segments = [path for path in _segments(folder) if _step_of(path) <= checkpoint.step]
            try:
                with atomically(self.folder / f"records-{checkpoint.step}.nc", self.folder, self._space) as temporary:
                    netcdf.concatenate(segments, temporary, {}, seeds)
            except DamagedError as error:
                raise StoreError(f"{error}: delete the states in {folder}, and --resume trains these seeds anew.") from None
        self._save(checkpoint._replace(leaves=[leaf[seeds] for leaf in checkpoint.leaves], speed=0.0))

    def consolidate(self) -> Path:
        """Stream all segments into the finished file, and remove the folder.

        Returns:
            The finished file.

        Raises:
            StoreError: a segment is damaged or missing.
        """
        try:
            with atomically(self.file, self.folder, self._space) as temporary:
                steps = netcdf.concatenate(_segments(self.folder), temporary, self._attributes)
                if steps != self._experiment.record_steps():
                    raise DamagedError(f"{self.folder} lacks some of its records")
        except DamagedError as error:
            raise StoreError(f"{error}; --overwrite starts anew.") from None
        discard(self.folder)
        return self.file

    # -- reading back ------------------------------------------------------------------------------------------------------

    def latest(self) -> Checkpoint | None:
        """The newest state that is whole and belongs to this run; what is later than it is deleted, to be made again.

        Raises:
            StoreError: the newest whole state was made by something else.
        """
        checkpoint = self._newest(self.folder, self._identity)
        newest = -1 if checkpoint is None else checkpoint.step
        for path in _own_files(self.folder):
            if path.suffix == ".tmp" or _step_of(path) > newest:
                path.unlink()
        return checkpoint

    def _newest(self, folder: Path, identity: str) -> Checkpoint | None:
        for _, path in _states(folder):
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    header = json.loads(arrays["header"].tobytes())
                    leaves = [arrays[f"leaf_{k}"] for k in range(len(arrays.files) - 1)]
                whole = header["sha256"] == _digest(leaves)
            except Exception:  # a file cut short can fail in any way zip, NumPy and JSON know
                continue
            if not whole:
                continue
            if header["identity"] != identity:
                if (engine := header.get("engine")) != self._attributes.get("engine"):
                    raise StoreError(f"{folder} was begun with engine {engine}: --engine {engine} goes on with it, "
                                     "--overwrite starts anew.")  # fmt: skip
                raise StoreError(f"{folder} was begun with another version, engine or set of observables: --overwrite "
                                 "starts anew.")  # fmt: skip
            return Checkpoint(header["step"], header["marked_step"], leaves)
        return None


def check(out: str | Path, experiment: Experiment, resume: bool = False, overwrite: bool = False) -> None:
    """Raise `StoreError` if a run could not write to `out`; touches nothing."""
    folder, file = paths(out)
    refuse_if_written(folder)
    started = (folder / "experiment.toml").exists()
    if (
        folder.exists()
        and not started
        and (not folder.is_dir() or not all(_STUB.fullmatch(p.name) for p in folder.iterdir()))
    ):
        raise StoreError(f"{folder} exists and is not a run of phasejax: choose another --out.")
    if not overwrite and not resume and (file.exists() or started):
        there = file if file.exists() else folder
        raise StoreError(f"{there} exists already: --resume {folder} goes on with it, --overwrite starts anew.")
    if resume and (file.exists() or started) and read_experiment(out) != experiment:
        raise StoreError(f"{folder} holds another experiment, whose settings cannot be changed: choose another --out.")
    parent = existing_parent(folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise StoreError(f"{folder} cannot be written to: {parent} is not a folder one may write in.")


def keep_experiment(folder: Path, experiment: Experiment) -> None:
    """Write what is run into a run's folder, which is made if needed."""
    _make(folder)
    # A name of its own: several processes may write the experiment of a run they share.
    with atomically(folder / "experiment.toml", folder, unique=f".{uuid.uuid4().hex[:8]}") as temporary:
        temporary.write_text(experiment.to_toml(), "utf-8")


def open_run(path: str | Path) -> xr.Dataset:
    """Open a finished file, or the records so far of a run that has not ended, all of its slabs together.

    Args:
        path: `runs/desk.nc`, or the folder `runs/desk`.

    Raises:
        StoreError: there is no run there.
    """
    folder, file = paths(path)
    try:
        if not file.exists():
            return _records_so_far(folder)
    except StoreError:
        # A writer that is done puts the file in the folder's place, which may be just now.
        if not file.exists():
            raise
    dataset = _open(file)
    try:
        settings(dataset)
    except RunError:
        dataset.close()
        raise StoreError(f"{file} is not a run of phasejax: it does not say which experiment it is of.") from None
    return dataset


def _records_so_far(folder: Path) -> xr.Dataset:
    """The records of a run that has not ended."""
    parts = [open_run(slab) for slab in slabs(folder).values() if has_records(slab)]
    segments = _segments(folder)
    if not parts and not segments:
        raise StoreError(f"{folder} holds no run: neither {paths(folder)[1]} nor records in {folder} are there.")
    try:
        experiment = (folder / "experiment.toml").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise StoreError(f"{folder} holds no run: its experiment.toml cannot be read.") from None
    if parts:
        # Slabs may be at different steps: what all of them have recorded is a run.
        data = xr.concat(parts, "seed", data_vars="all", coords="minimal", compat="override", join="inner",
                         combine_attrs="drop")  # fmt: skip
        return data.assign_attrs(experiment=experiment)
    opened = [_open(segment) for segment in segments]
    data = {
        name: xr.concat([part[name] for part in opened if name in part], axis[0])
        if (axis := [str(dim) for dim in variable.dims if dim in STEP_AXES.values()])
        else variable
        for name, variable in opened[0].data_vars.items()
    }
    return xr.Dataset(data, attrs={"experiment": experiment})


def load_run(path: str | Path) -> xr.Dataset:
    """A run in memory, but for what is recorded at whole decades: the weights, which are most of a file.

    Raises:
        StoreError: there is no run there, or not all of it can be read.
    """
    with open_run(path) as dataset:
        wanted = [name for name, variable in dataset.data_vars.items() if "step_decades" not in variable.dims]
        try:
            return dataset[wanted].load()
        except (OSError, RuntimeError):  # what a file says that opens and then breaks off
            raise StoreError(f"{path} is damaged: not all of its records can be read.") from None


def _open(file: Path) -> xr.Dataset:
    try:
        return xr.open_dataset(file, engine="netcdf4")
    except PermissionError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}.") from None
    except Exception:  # damaged bytes fail in any way HDF5, netCDF4 and xarray know
        raise StoreError(f"{file} is not a netCDF file, or not a whole one.") from None


def read_experiment(out: str | Path) -> Experiment:
    """The experiment of a run, from its folder or its finished file.

    Raises:
        StoreError: there is no run there.
        ExperimentError: it is not one this version knows.
    """
    folder, file = paths(out)
    try:
        if (folder / "experiment.toml").exists():
            return Experiment.read(folder / "experiment.toml")
    except ExperimentError:
        # A writer that is done puts the file in the folder's place, which may be just now.
        if not file.exists():
            raise
    if file.exists():
        try:
            return Experiment.from_toml(str(netcdf.attributes(file)["experiment"]), str(file))
        except (DamagedError, KeyError):
            raise StoreError(f"{file} is not a run of phasejax.") from None
    raise StoreError(f"{out} holds no run to resume: neither {file} nor {folder / 'experiment.toml'} is there.")


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


def progress(out: str | Path) -> Progress:
    """How far a run is, its slabs aside.

    Raises:
        StoreError: there is no run there.
    """
    folder, file = paths(out)
    experiment = read_experiment(out)
    if file.exists():
        steps, records = experiment.schedule.steps, len(experiment.record_steps())
        return Progress(file, experiment, steps, records, True, "", 0.0, file.stat().st_mtime)
    step, speed, written = 0, 0.0, 0.0
    for step_of_state, path in _states(folder):
        # A writer may be deleting it; any other damage is for --resume to find.
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as arrays:
            speed = float(json.loads(arrays["header"].tobytes())["speed"])
            step, written = step_of_state, path.stat().st_mtime
            break
    records = sum(recorded <= step for recorded in experiment.record_steps()) if has_records(folder) else 0
    return Progress(folder, experiment, step, records, False, owner(folder), speed, written)


def has_records(folder: Path) -> bool:
    """Whether anything of a run can be opened already."""
    return paths(folder)[1].exists() or bool(_segments(folder))


def has_states(folder: Path) -> bool:
    """Whether a run, its slabs aside, has anything to go on from."""
    return bool(_states(folder))


def slabs(folder: Path) -> dict[range, Path]:
    """The slabs of seeds in a run's folder, begun or finished, by the labels of their seeds."""
    found = {}
    for path in sorted(folder.glob("seeds-*")) if folder.is_dir() else ():
        named = _SLAB.fullmatch(path.name.removesuffix(".nc"))
        if named:
            found[range(int(named[1]), int(named[2]) + 1)] = path.with_name(named[0])
    return dict(sorted(found.items(), key=lambda item: item[0].start))


def owner(folder: Path) -> str:
    """The process that is writing a run, as words; empty if none is."""
    try:
        with open(folder / "lock", errors="replace") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _named_in(lock)
    except OSError:
        pass
    return ""


def refuse_if_written(folder: Path) -> None:
    """Raise `StoreError` if a process is writing a run."""
    if writer := owner(folder):
        raise _being_written(folder, writer)


def _named_in(lock: IO[str]) -> str:
    return lock.read().strip() or "another process"


def _being_written(folder: Path, writer: str) -> StoreError:
    return StoreError(f"{folder} is being written by {writer}; wait for it or choose another --out.")


def discard(folder: Path) -> None:
    """Remove a run's own files, and the folder if it is then empty; the finished file stays."""
    for own in [*_own_files(folder), folder / "experiment.toml", folder / "lock"]:
        own.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def discard_slabs(folder: Path) -> None:
    """Remove the slabs of a run.

    Raises:
        StoreError: one is being written.
    """
    for slab in slabs(folder).values():
        refuse_if_written(slab)
    for slab in slabs(folder).values():
        paths(slab)[1].unlink(missing_ok=True)
        discard(slab)


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


def existing_parent(path: Path) -> Path:
    """The path itself or the nearest of its parents that exists."""
    return next(p for p in [path, *path.absolute().parents] if p.exists())


def size(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextlib.contextmanager
def held(folder: Path, how: int = fcntl.LOCK_EX) -> Iterator[str]:
    """Lock a run's folder for writing (exclusive), or against writing (shared).

    Yields:
        Who held it for writing before and died; empty if it was given back.

    Raises:
        StoreError: another process is writing there, or the folder cannot be locked.
    """
    try:
        lock = open(folder / "lock", "a+", errors="replace")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror}.") from None
    with lock:
        before = _take(lock, folder, how)
        try:
            yield before
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
    try:
        there = os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
    except FileNotFoundError:
        there = False
    if not there:
        raise StoreError(f"{folder} has just been finished or removed by another process: try again.")
    if how != fcntl.LOCK_EX:
        return ""
    lock.seek(0)
    before = lock.read().strip()
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return before


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write files in; when all are written they move to `folder`, else none does.

    Raises:
        StoreError: `folder` cannot be written to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".phasejax-", dir=existing_parent(folder)) as temporary:
            yield Path(temporary)
            _make(folder)
            for file in Path(temporary).iterdir():
                os.replace(file, folder / file.name)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror or error}.") from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror}.") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _own_files(folder: Path) -> list[Path]:
    """What a run makes before it is finished, in the order to delete it: a state implies that its records are there."""
    return [*(path for _, path in _states(folder)), *_segments(folder), *folder.glob("*.tmp")]


def _states(folder: Path) -> list[tuple[int, Path]]:
    """States, whole or not, the newest first."""
    return sorted(((_step_of(path), path) for path in folder.glob("state-*.npz") if _step_of(path) >= 0), reverse=True)


def _segments(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("records-*.nc") if _step_of(path) >= 0), key=_step_of)


def _step_of(path: Path) -> int:
    """The step in a file's name; -1 if it is somebody else's file."""
    number = path.stem.rpartition("-")[2]
    return int(number) if re.fullmatch("[0-9]{1,10}", number) else -1


def _digest(leaves: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(f"{leaf.dtype.str} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
