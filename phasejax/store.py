"""Files and nothing else: record segments, checkpoints, resume, consolidation, opening.

A run that goes to `runs/desk` works in the folder `runs/desk/`:

    experiment.toml        what is run
    lock                   held by the process that writes here
    records-<step>.nc      the records since the segment before, up to <step>
    state-<step>.npz       the training state after <step> updates, with its SHA-256 and identity; the last two are kept

A commit writes the segment, then the state; each is written under a temporary name, synced and renamed, and never touched
again. So a state in the folder implies that every record up to its step is there too. When the run is over one pass streams
the segments into `runs/desk.nc`, and the folder goes. This is the one place where arrays turn from compute order (seed,
temperature, sigma_w) to file order (step, temperature, sigma_w, seed).
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import netCDF4
import numpy as np
import xarray as xr

from phasejax.experiment import Experiment
from phasejax.records import RunError, settings

if TYPE_CHECKING:
    from phasejax.observables import Observable

# The step axis of what is recorded on each occasion.
STEP_AXES = {"records": "step", "decades": "step_decades", "ends": "step_ends"}
_KEPT_STATES = 2
_MAX_CHUNK = 4 * 2**20


class StoreError(Exception):
    """A file or folder that cannot be used as asked: one sentence with its path and what can be done."""


class Record(NamedTuple):
    """One step's observations, in compute order."""

    step: int
    values: Mapping[str, Any]
    """Arrays (seed, temperature, sigma_w, ...) by name; (seed, ...) for what is recorded once."""


class Checkpoint(NamedTuple):
    """The training state after `step` updates."""

    step: int
    marked_step: int
    leaves: list[np.ndarray]
    """The State's arrays in tree order, leading axis seed."""


def paths(out: str | Path) -> tuple[Path, Path]:
    """The working folder and the finished file of an output called `runs/desk` or `runs/desk.nc`.

    Raises:
        StoreError: it is not a name a file can have.
    """
    folder = Path(out)
    if folder.name in ("", "..") or len(os.fsencode(folder.name)) > 240:
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

    Raises:
        StoreError: the output exists, belongs to another experiment, is being written by another process, or its folder
            cannot be written to.
    """

    def __init__(
        self,
        out: str | Path,
        experiment: Experiment,
        fields: Sequence["Observable"],
        attributes: Mapping[str, str],
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.folder, self.file = paths(out)
        self._experiment, self._fields, self._attributes = experiment, fields, attributes
        schema = [(f.name, f.dims, f.when) for f in fields]
        made_by = [attributes.get(name) for name in ("phasejax_version", "commit", "engine")]
        self._identity = hashlib.sha256(repr((experiment.identity, schema, made_by)).encode()).hexdigest()
        check(out, experiment, resume, overwrite)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a+")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written to: {error.strerror}.") from None
        self._take_lock()
        if overwrite:
            self.file.unlink(missing_ok=True)
        if not resume:
            for old in _own_files(self.folder):
                old.unlink()
        with atomically(self.folder / "experiment.toml") as temporary:
            temporary.write_text(experiment.to_toml(), "utf-8")

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            self._lock.close()
            raise StoreError(f"{self.folder} is being written by {owner}; wait for it or choose another --out.") from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._lock.flush()

    # -- writing ---------------------------------------------------------------------------------------------------------

    def commit(self, records: Sequence[Record], checkpoint: Checkpoint) -> None:
        """Write the records since the last commit, then the state; after this call both survive a power cut."""
        if records:
            with atomically(self.folder / f"records-{checkpoint.step}.nc") as temporary:
                layout = _layout_of_records(self._fields, records)
                with _create(temporary, self._experiment, self._fields, layout, {}, compress=False) as nc:
                    for field in self._fields:
                        _write(nc, field, records)
        header = {
            "identity": self._identity,
            "step": checkpoint.step,
            "marked_step": checkpoint.marked_step,
            "sha256": _digest(checkpoint.leaves),
        }
        with atomically(self.folder / f"state-{checkpoint.step}.npz") as temporary, open(temporary, "wb") as file:
            encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
            np.savez(file, allow_pickle=False, header=encoded, **_leaf_names(checkpoint.leaves))
        for _, old in self._states()[_KEPT_STATES:]:
            old.unlink()

    def consolidate(self) -> Path:
        """Stream all segments into the finished file, and remove the folder.

        Returns:
            The finished file.
        """
        segments = self._segments()
        layout = _layout_of_segments(self._fields, segments)
        with (
            atomically(self.file) as temporary,
            _create(temporary, self._experiment, self._fields, layout, self._attributes, compress=True) as nc,
        ):
            rows = dict.fromkeys(layout.steps, 0)
            for segment in segments:
                with netCDF4.Dataset(segment) as source:
                    _copy(source, nc, self._fields, rows)
        self.discard()
        return self.file

    def discard(self) -> None:
        """Remove the run's own files, and the folder if it is then empty; the finished file stays."""
        for own in [*_own_files(self.folder), self.folder / "experiment.toml", self.folder / "lock"]:
            own.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    # -- reading back ------------------------------------------------------------------------------------------------------

    def latest(self) -> Checkpoint | None:
        """The newest state that is whole and belongs to this run; what is later than it is deleted, to be made again."""
        for step, path in self._states():
            checkpoint = self._load(path)
            if checkpoint is None:
                path.unlink()
                continue
            for segment in self._segments():
                if _step_of(segment) > step:
                    segment.unlink()
            return checkpoint
        for leftover in _own_files(self.folder):
            leftover.unlink()
        return None

    def _load(self, path: Path) -> Checkpoint | None:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(arrays["header"].tobytes())
                leaves = [arrays[f"leaf_{k}"] for k in range(len(arrays.files) - 1)]
        except Exception:  # a file cut short can fail in any way zip, NumPy and JSON know
            return None
        if header.get("sha256") != _digest(leaves):
            return None
        if header.get("identity") != self._identity:
            raise StoreError(
                f"{self.folder} was begun with another version, engine or set of observables: --overwrite starts anew."
            )
        return Checkpoint(header["step"], header["marked_step"], leaves)

    def _states(self) -> list[tuple[int, Path]]:
        return sorted(((_step_of(path), path) for path in self.folder.glob("state-*.npz")), reverse=True)

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob("records-*.nc"), key=_step_of)


def check(out: str | Path, experiment: Experiment, resume: bool = False, overwrite: bool = False) -> None:
    """Raise `StoreError` if a run could not write to `out`; touches nothing."""
    folder, file = paths(out)
    started = (folder / "experiment.toml").exists()
    # All that a run leaves which was killed before it wrote its experiment.
    stub = {"lock", "experiment.toml.tmp"}
    if folder.exists() and not started and (not folder.is_dir() or {p.name for p in folder.iterdir()} - stub):
        raise StoreError(f"{folder} exists and is not a run of phasejax: choose another --out.")
    if not overwrite and not resume and (file.exists() or started):
        there = file if file.exists() else folder
        raise StoreError(f"{there} exists already: --resume {folder} goes on with it, --overwrite starts anew.")
    if resume and (file.exists() or started) and read_experiment(out) != experiment:
        raise StoreError(f"{folder} holds another experiment: its settings cannot be changed by --resume.")
    parent = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise StoreError(f"{folder} cannot be written to: {parent} is not a folder one may write in.")


def open_run(path: str | Path) -> xr.Dataset:
    """Open a finished file, or the records so far of a run that has not ended.

    Args:
        path: `runs/desk.nc`, or the folder `runs/desk`.

    Raises:
        StoreError: there is no run there.
    """
    folder, file = paths(path)
    if file.exists():
        dataset = _open(file)
        try:
            settings(dataset)
        except RunError:
            dataset.close()
            raise StoreError(f"{file} is not a run of phasejax: it does not say which experiment it is of.") from None
        return dataset
    segments = sorted(folder.glob("records-*.nc"), key=_step_of)
    if not segments:
        raise StoreError(f"{path} holds no run: neither {file} nor records in {folder} are there.")
    try:
        experiment = (folder / "experiment.toml").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise StoreError(f"{folder} holds no run: its experiment.toml cannot be read.") from None
    parts = [_open(segment) for segment in segments]
    data = {
        name: xr.concat([part[name] for part in parts if name in part], axis[0])
        if (axis := _step_axes(variable))
        else variable
        for name, variable in parts[0].data_vars.items()
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
    except (OSError, RuntimeError, ValueError):
        raise StoreError(f"{file} is not a netCDF file, or not a whole one.") from None


def read_experiment(out: str | Path) -> Experiment:
    """The experiment of a run, from its folder or its finished file.

    Raises:
        StoreError: there is no run there.
    """
    folder, file = paths(out)
    if (folder / "experiment.toml").exists():
        return Experiment.read(folder / "experiment.toml")
    if file.exists():
        try:
            with netCDF4.Dataset(file) as nc:
                return Experiment.from_toml(nc.getncattr("experiment"), str(file))
        except (OSError, AttributeError):
            raise StoreError(f"{file} is not a run of phasejax.") from None
    raise StoreError(f"{out} holds no run to resume: neither {file} nor {folder / 'experiment.toml'} is there.")


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Give a temporary name to write under; it becomes `path` whole and synced to disk, or not at all.

    Raises:
        StoreError: the disk does not take it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:  # a full disk, say
        raise StoreError(
            f"{path} could not be written: {error.strerror or error}; --resume goes on once it can be."
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
        home = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryDirectory(prefix=".phasejax-", dir=home) as temporary:
            yield Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            for file in Path(temporary).iterdir():
                os.replace(file, folder / file.name)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror or error}.") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leaf_names(leaves: Sequence[np.ndarray]) -> dict[str, Any]:
    return {f"leaf_{k}": leaf for k, leaf in enumerate(leaves)}


def _own_files(folder: Path) -> list[Path]:
    return [path for pattern in ("records-*.nc", "state-*.npz", "*.tmp") for path in folder.glob(pattern)]


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _step_axes(variable: xr.DataArray) -> list[str]:
    return [str(dim) for dim in variable.dims if dim in STEP_AXES.values()]


def _digest(leaves: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(f"{leaf.dtype.str} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


class _Layout(NamedTuple):
    """What a file's variables look like, found from the records or segments that go into it."""

    sizes: dict[str, int]
    """Of the observables' own axes."""
    dtypes: dict[str, np.dtype]
    """Of the variables there are."""
    steps: dict[str, list[int]]
    """Along each step axis."""


def _layout_of_records(fields: Sequence["Observable"], records: Sequence[Record]) -> _Layout:
    layout = _Layout({}, {}, {axis: [] for axis in STEP_AXES.values()})
    for record in records:
        present = [field for field in fields if field.name in record.values]
        for field in present:
            values = record.values[field.name]
            layout.dtypes[field.name] = values.dtype
            layout.sizes.update(zip(field.dims, values.shape[values.ndim - len(field.dims) :], strict=True))
        for when in {field.when for field in present} & set(STEP_AXES):
            layout.steps[STEP_AXES[when]].append(record.step)
    return layout


def _layout_of_segments(fields: Sequence["Observable"], segments: Sequence[Path]) -> _Layout:
    layout = _Layout({}, {}, {axis: [] for axis in STEP_AXES.values()})
    for segment in segments:
        with netCDF4.Dataset(segment) as nc:
            for field in fields:
                if field.name in nc.variables:
                    layout.dtypes[field.name] = nc[field.name].dtype
                    layout.sizes.update((dim, len(nc.dimensions[dim])) for dim in field.dims)
            for axis, steps in layout.steps.items():
                steps += [int(step) for step in nc[axis][:]]
    return layout


def _coordinates(experiment: Experiment, steps: Mapping[str, list[int]]) -> list[tuple[str, tuple[str, ...], Any, str]]:
    """Name, dims, values and long name of every coordinate but the observables' own axes."""
    grid, axis = experiment.grid, temperature_axis(experiment)
    coordinates: list[tuple[str, tuple[str, ...], Any, str]] = [
        ("learning_rate", (axis,), np.array(experiment.learning_rates), "learning rate epsilon"),
        ("sigma_w", ("sigma_w",), np.array(grid.sigma_w), "initialisation scale sigma_W"),
        ("inverse_sigma_w", ("sigma_w",), 1 / np.array(grid.sigma_w), "inverse initialisation scale 1/sigma_W"),
        ("seed", ("seed",), np.array(experiment.seed_labels), "label of teacher, data and initial draw"),
        ("batch_size", (), np.int64(experiment.sgd.batch_size), "batch size B"),
        ("step", ("step",), np.array(steps["step"]), "SGD updates done"),
        ("epoch", ("step",), np.array(steps["step"]) * experiment.sgd.batch_size / experiment.task.samples, "epochs done"),
        (
            "step_decades",
            ("step_decades",),
            np.array(steps["step_decades"]),
            "SGD updates done, at whole decades and the ends",
        ),
        ("step_ends", ("step_ends",), np.array(steps["step_ends"]), "SGD updates done, at the ends"),
    ]
    if experiment.temperatures is not None:
        temperatures = np.array(experiment.temperatures)
        meaning = "temperature T, learning rate / batch size" + (" / (1 - momentum)" if experiment.sgd.momentum else "")
        coordinates.append(("temperature", (axis,), temperatures, meaning))
    return coordinates


def temperature_axis(experiment: Experiment) -> str:
    """Name of the axis along which the learning rate grows: learning_rate where no temperature is defined."""
    return "learning_rate" if experiment.temperatures is None else "temperature"


def _create(
    path: Path,
    experiment: Experiment,
    fields: Sequence["Observable"],
    layout: _Layout,
    attributes: Mapping[str, str],
    compress: bool,
) -> netCDF4.Dataset:
    """A netCDF file with all dimensions, coordinates and attributes, and variables still to be filled."""
    axis = temperature_axis(experiment)
    cells = {axis: len(experiment.learning_rates), "sigma_w": len(experiment.grid.sigma_w), "seed": experiment.grid.seeds}
    nc = netCDF4.Dataset(path, "w", format="NETCDF4")
    for name, size in {**cells, **{a: len(s) for a, s in layout.steps.items()}, **layout.sizes}.items():
        nc.createDimension(name, size)
    coordinates = _coordinates(experiment, layout.steps)
    given = {dim: values for field in fields for dim, values in field.coordinates}
    for dim, size in layout.sizes.items():
        kind = dim.partition("_")[0]
        if dim not in given:
            coordinates.append((dim, (dim,), np.arange(1, size + 1), f"{kind}, counted from 1"))
        else:
            values = given[dim]
            coordinates.append((dim, (dim,), np.array(values, object if isinstance(values[0], str) else float), kind))
    for name, dims, values, long_name in coordinates:
        variable = nc.createVariable(name, str if values.dtype == object else values.dtype, dims)
        variable.setncatts({"units": "1", "long_name": long_name})
        variable[...] = values
    for field in fields:
        if field.name not in layout.dtypes:
            continue
        dims = ("seed",) if field.when == "once" else (STEP_AXES[field.when], axis, "sigma_w", "seed")
        dims += field.dims
        dtype = layout.dtypes[field.name]
        variable = nc.createVariable(
            field.name,
            dtype,
            dims,
            compression="zlib" if compress else None,
            complevel=1,
            shuffle=True,
            chunksizes=_chunks([len(nc.dimensions[dim]) for dim in dims], dtype.itemsize),
            fill_value=False,
        )
        described = {"units": field.units, "long_name": field.long_name, "paper_equation": field.equation}
        variable.setncatts({key: value for key, value in described.items() if value})
    auxiliary = [name for name, dims, _, _ in coordinates if dims != (name,)]
    nc.setncatts({**attributes, "coordinates": " ".join(auxiliary)})
    return nc


def _chunks(shape: Sequence[int], itemsize: int) -> list[int]:
    """Chunks that end where a record does, cut along leading axes until they are at most a few megabytes."""
    chunks = [1, *shape[1:]] if len(shape) > 2 else list(shape)
    for k in range(len(chunks)):
        if math.prod(chunks) * itemsize > _MAX_CHUNK:
            chunks[k] = 1
    return chunks


def _write(nc: netCDF4.Dataset, field: "Observable", records: Sequence[Record]) -> None:
    present = [record.values[field.name] for record in records if field.name in record.values]
    for row, values in enumerate(present):
        if field.when == "once":
            nc[field.name][:] = values
        else:
            # (seed, temperature, sigma_w, ...) -> (temperature, sigma_w, seed, ...)
            nc[field.name][row] = np.moveaxis(values, 0, 2)


def _copy(source: netCDF4.Dataset, target: netCDF4.Dataset, fields: Sequence["Observable"], rows: dict[str, int]) -> None:
    """Append a segment's records to the finished file, from the given rows on, which are moved forward."""
    for field in fields:
        if field.name not in source.variables:
            continue
        if field.when == "once":
            target[field.name][:] = source[field.name][:]
            continue
        row = rows[STEP_AXES[field.when]]
        for k in range(source[field.name].shape[0]):
            target[field.name][row + k] = source[field.name][k]
    for axis in rows:
        rows[axis] += len(source.dimensions[axis])
