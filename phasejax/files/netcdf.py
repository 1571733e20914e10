"""How a run lies in netCDF files, and files that continue each other made into one.

This is the one place where arrays turn from compute order (seed, cell) to file order (step, the axes of the
grid, seed). Files are made under the name given, whole or in part; `folder` sees to it that only whole ones are kept.
"""

import contextlib
import functools
import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote

import netCDF4
import numpy as np
import xarray as xr
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from phasejax.experiment import Experiment
from phasejax.files.schema import FORMAT_VERSION, STEP_AXES, coordinates, own_axes, refuse_newer
from phasejax.files.state import Digest

if TYPE_CHECKING:
    from phasejax.observables import Observable

T = TypeVar("T")

_MAX_CHUNK = 4 * 2**20
# The group of the training state at the end; its variables are the leaves, their names quoted, for a slash cannot be in one.
_STATE = "state"


_thread = threading.RLock()
_depth = 0


def _alone(function: Callable[..., T]) -> Callable[..., T]:
    """The function, for one thread at a time, which is all that the netCDF library can bear.

    xarray has a lock of its own for the same reason, which it holds while it reads, though not while it opens.
    """

    @functools.wraps(function)
    def alone(*arguments: Any, **named: Any) -> T:
        global _depth
        with _thread, NETCDF4_PYTHON_LOCK if not _depth else contextlib.nullcontext():
            _depth += 1
            try:
                return function(*arguments, **named)
            finally:
                _depth -= 1

    return alone


def opened(path: Path) -> xr.Dataset:
    """A file as xarray opens it."""
    with _thread:
        return xr.open_dataset(path, engine="netcdf4")


class DamagedError(Exception):
    """A file that cannot be read, or that does not continue the others: one sentence without its end."""


class _Contents:
    """SHA-256 of what the variables of a file hold. Checksums of chunks do not cover where HDF5 looks for them."""

    def __init__(self) -> None:
        self._of: dict[str, Any] = {}

    def add(self, name: str, values: np.ndarray) -> None:
        """Take the next values of a variable in, in their order in the file."""
        raw = repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).data
        if values.size:
            self._of.setdefault(name, hashlib.sha256()).update(raw)

    def __str__(self) -> str:
        return hashlib.sha256(repr([(name, self._of[name].hexdigest()) for name in sorted(self._of)]).encode()).hexdigest()

    def require(self, path: Path, nc: netCDF4.Dataset) -> None:
        """Raise unless they are those of a file. Files had no such digest at first."""
        if "contents" in nc.ncattrs() and nc.getncattr("contents") != str(self):
            raise DamagedError(f"{path} is damaged: its records are not those that were written")


class Record(NamedTuple):
    """One step's observations, in compute order."""

    step: int
    values: Mapping[str, Any]
    """Arrays (seed, cell, ...) by name; (seed, ...) for what is recorded once."""


@_alone
def write(
    path: Path,
    experiment: Experiment,
    fields: Sequence["Observable"],
    records: Sequence[Record],
    attributes: Mapping[str, str],
) -> None:
    """Write records of an experiment, uncompressed."""
    grid = experiment.grid
    steps = {name: [] for name in STEP_AXES.values()}
    sizes = {name: len(axis) for name, axis in grid.axes.items()} | {"seed": grid.seeds}
    rows = {field.name: [r.values[field.name] for r in records if field.name in r.values] for field in fields}
    for record in records:
        for when in {"records"} | {field.when for field in fields if field.name in record.values} & set(STEP_AXES):
            steps[STEP_AXES[when]].append(record.step)
    own = {}
    for field in fields:
        for values in rows[field.name][:1]:
            own.update(zip(field.dims, values.shape[values.ndim - len(field.dims) :], strict=True))
    axes = [*coordinates(experiment, steps), *own_axes(fields, own)]
    with netCDF4.Dataset(path, "w", format="NETCDF4") as nc:
        for name, size in {**sizes, **{name: len(of) for name, of in steps.items()}, **own}.items():
            nc.createDimension(name, size)
        for name, dims, values, long_name in axes:
            described = {"units": "1", "long_name": long_name}
            _variable(nc, name, str if values.dtype == object else values.dtype, dims, described)[...] = values
        for field in fields:
            if not rows[field.name]:
                continue
            dims = ("seed",) if field.when == "once" else (STEP_AXES[field.when], *grid.axes, "seed")
            described = {"units": field.units, "long_name": field.long_name, "paper_equation": field.equation}
            variable = _variable(nc, field.name, rows[field.name][0].dtype, dims + field.dims, described)
            for row, values in enumerate(rows[field.name]):
                if field.when == "once":
                    variable[:] = values
                else:
                    # (seed, cell, ...) -> (the grid's axes, seed, ...)
                    by_axes = values.reshape(len(values), *grid.shape, *values.shape[2:])
                    variable[row] = np.moveaxis(by_axes, 0, len(grid.shape))
        named = {"coordinates": " ".join(name for name, dims, _, _ in axes if dims != (name,))}
        nc.setncatts({**attributes, "format_version": FORMAT_VERSION, **named})


@_alone
def concatenate(
    sources: Sequence[Path],
    target: Path,
    attributes: Mapping[str, str],
    seeds: slice = slice(None),
    identity: str | None = None,
    rows: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Stream files whose records follow each other into one, compressed, a record at a time.

    Args:
        sources: the files, in the order of their steps; the first has all variables, because step 0 has.
        target: the file to make.
        attributes: its global attributes.
        seeds: which of the seeds.
        identity: that of the run they are of.
        rows: the steps to keep, by step axis; all if None.

    Raises:
        DamagedError: a source cannot be read or is of another run, or there is none.
    """
    if not sources:
        raise DamagedError(f"there are no records to make {target.name} of")
    axes, sizes = set(STEP_AXES.values()), dict.fromkeys(STEP_AXES.values(), 0)

    def chosen(nc: netCDF4.Dataset, axis: str) -> list[int]:
        return [k for k, step in enumerate(nc[axis][:].tolist()) if rows is None or step in rows[axis]]

    for source in sources:
        with _read(source) as nc:
            if identity is not None and ("identity" not in nc.ncattrs() or nc.getncattr("identity") != identity):
                raise DamagedError(f"{source} has records of another run")
            for axis in axes:
                sizes[axis] += len(chosen(nc, axis))
            kept = len(range(len(nc.dimensions["seed"]))[seeds])
    with _read(sources[0]) as first, _create_like(target, first, {**sizes, "seed": kept}, attributes) as made:
        done, contents = dict.fromkeys(axes, 0), _Contents()
        for source in sources:
            with _read(source) as nc:
                for name, variable in nc.variables.items():
                    where = tuple(seeds if dim == "seed" else slice(None) for dim in variable.dimensions)
                    if variable.dimensions and variable.dimensions[0] in axes:
                        row = done[variable.dimensions[0]]
                        for k, of_source in enumerate(chosen(nc, variable.dimensions[0])):
                            values = _values(source, variable, of_source, *where[1:])
                            made[name][row + k] = values
                            contents.add(name, values)
                    elif source is sources[0]:
                        values = _values(source, variable, *where)
                        made[name][...] = values
                        contents.add(name, values)
                for axis in axes:
                    done[axis] += len(chosen(nc, axis))
        made.setncattr("contents", str(contents))


@_alone
def merge(
    sources: Sequence[Path], target: Path, attributes: Mapping[str, str], identify: Callable[[str], str] = str
) -> None:
    """Stream files that differ in their seeds into one, compressed, a record or an array of their states at a time.

    Args:
        sources: the files, in the order of their seeds.
        target: the file to make.
        attributes: its global attributes.
        identify: gives the identity of the whole, from that of the run its parts are of.

    Raises:
        DamagedError: a source cannot be read, or has other records, or another kind of state, than the first.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_read(source)) for source in sources]
        first = opened[0]
        for source, nc in zip(sources, opened, strict=True):
            if set(nc.variables) != set(first.variables):
                raise DamagedError(f"{source} has other variables than {sources[0]}")
            for axis in STEP_AXES.values():
                if not np.array_equal(nc[axis][:], first[axis][:]):
                    raise DamagedError(f"{source} has other records than {sources[0]}")
        seeds = sum(len(nc.dimensions["seed"]) for nc in opened)
        made = stack.enter_context(_create_like(target, first, {"seed": seeds}, attributes))
        pairs = list(zip(sources, opened, strict=True))
        read, contents = [_Contents() for _ in pairs], _Contents()
        for name, variable in first.variables.items():
            if "seed" not in variable.dimensions:
                for of_source, (source, nc) in zip(read, pairs, strict=True):
                    of_source.add(name, _values(source, nc[name]))
                values = _values(sources[0], variable)
                made[name][...] = values
                contents.add(name, values)
                continue
            axis = variable.dimensions.index("seed")
            # By records where there are any, so that no more than one is held at a time.
            for where in [(k,) for k in range(variable.shape[0])] if axis else [()]:
                parts = [_values(source, nc[name], *where) for source, nc in pairs]
                whole = np.concatenate(parts, axis - len(where))
                made[name][where or ...] = whole
                contents.add(name, whole)
                for of_source, part in zip(read, parts, strict=True):
                    of_source.add(name, part)
        for of_source, (source, nc) in zip(read, pairs, strict=True):
            of_source.require(source, nc)
        made.setncattr("contents", str(contents))
        if any(_STATE in nc.groups for nc in opened):
            _merge_states(pairs, made, identify)


def _merge_states(
    pairs: Sequence[tuple[Path, netCDF4.Dataset]], made: netCDF4.Dataset, identify: Callable[[str], str]
) -> None:
    headers = [_header(source, nc) for source, nc in pairs]
    own = {"identity", "sha256"}
    for (source, nc), header in zip(pairs, headers, strict=True):
        same = {name: of for name, of in header.items() if name not in own}
        if same != {name: of for name, of in headers[0].items() if name not in own} or _kinds(nc) != _kinds(pairs[0][1]):
            raise DamagedError(f"{source} has another kind of state than {pairs[0][0]}")
    digests, digest = [Digest() for _ in pairs], Digest()
    group = made.createGroup(_STATE)
    for name in _kinds(pairs[0][1]):
        parts = [_values(source, nc[_STATE][_quoted(name)]) for source, nc in pairs]
        for of_part, part in zip(digests, parts, strict=True):
            of_part.add(name, part)
        whole = np.concatenate(parts)
        digest.add(name, whole)
        _leaf(group, name, whole)
    for (source, _), header, of_part in zip(pairs, headers, digests, strict=True):
        _require_digest(source, header, of_part)
    group.setncatts({**headers[0], "identity": identify(headers[0]["run"]), "sha256": str(digest)})


@_alone
def keep_state(path: Path, header: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> None:
    """Add a training state to a file, in a group of its own: arrays (seed, ...), and a header with their SHA-256."""
    with netCDF4.Dataset(path, "a") as nc:
        group = nc.createGroup(_STATE)
        for name, leaf in leaves.items():
            _leaf(group, name, leaf)
        group.setncatts({**header, "sha256": str(Digest(leaves))})


@_alone
def state(path: Path, seeds: slice = slice(None)) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header of a file's training state, and its arrays by name, of some of the seeds.

    Raises:
        DamagedError: there is none, or it is not the one that was written.
    """
    with _read(path) as nc:
        header, digest, leaves = _header(path, nc), Digest(), {}
        for name in _kinds(nc):
            values = _values(path, nc[_STATE][_quoted(name)])
            digest.add(name, values)
            leaves[name] = values[seeds].copy()
        _require_digest(path, header, digest)
    return header, leaves


def _header(path: Path, nc: netCDF4.Dataset) -> dict[str, Any]:
    if _STATE not in nc.groups:
        raise DamagedError(f"{path} has no training state")
    attributes = {name: nc[_STATE].getncattr(name) for name in nc[_STATE].ncattrs()}
    return {name: int(of) if isinstance(of, np.integer) else of for name, of in attributes.items()}


def _kinds(nc: netCDF4.Dataset) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Types and shapes, the seeds aside, of a state's arrays, in the order of their names."""
    return {name: (v.dtype, v.shape[1:]) for name, v in sorted((unquote(v.name), v) for v in nc[_STATE].variables.values())}


def _require_digest(path: Path, header: Mapping[str, Any], digest: Digest) -> None:
    if header["sha256"] != str(digest):
        raise DamagedError(f"{path} is damaged: its training state is not the one that was written")


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _leaf(group: netCDF4.Dataset, name: str, leaf: np.ndarray) -> None:
    dims = ("seed", *(f"axis_{k}_of_{length}" for k, length in enumerate(leaf.shape[1:], 1)))
    for dim, length in zip(dims, leaf.shape, strict=True):
        if dim not in group.dimensions:
            group.createDimension(dim, length)
    _variable(group, _quoted(name), leaf.dtype, dims, {})[...] = leaf


@_alone
def attributes(path: Path) -> dict[str, Any]:
    """Global attributes of a file.

    Raises:
        DamagedError: they cannot be read.
    """
    with _read(path) as nc:
        try:
            return {name: nc.getncattr(name) for name in nc.ncattrs()}
        except Exception:  # damaged bytes fail in any way HDF5 and netCDF4 know
            raise DamagedError(f"{path} is damaged: its attributes cannot be read") from None


@_alone
def lacks(path: Path, experiment: Experiment) -> str:
    """What a file lacks of an experiment's records or seeds, in words; empty if it has them all.

    Raises:
        DamagedError: it cannot be read.
    """
    stops = [stop for stop in experiment.stops() if stop.record]
    steps = {
        "records": [stop.step for stop in stops],
        "decades": [stop.step for stop in stops if stop.decade],
        "ends": [stop.step for stop in stops if stop.end],
    }
    with _read(path) as nc:
        labels = experiment.grid.labels
        if len(nc.dimensions["seed"]) != len(labels) or not np.array_equal(nc["seed"][:], labels):
            return "some of its seeds"
        for when, axis in STEP_AXES.items():
            used = when == "records" or any(axis in v.dimensions and name != axis for name, v in nc.variables.items())
            if not np.array_equal(nc[axis][:], steps[when] if used else []):
                return "some of its records"
    return ""


@_alone
def count(path: Path) -> int:
    """How many records a file has.

    Raises:
        DamagedError: it cannot be read.
    """
    with _read(path) as nc:
        return len(nc.dimensions["step"])


@_alone
def read_through(path: Path) -> None:
    """Read a file's records, one at a time, and its state against their checksums.

    Raises:
        DamagedError: one cannot be read.
    """
    with _read(path) as nc:
        contents = _Contents()
        for name, variable in nc.variables.items():
            for where in [(k,) for k in range(variable.shape[0])] if variable.ndim > 1 else [()]:
                contents.add(name, _values(path, variable, *where))
        contents.require(path, nc)
        kept = _STATE in nc.groups
    if kept:
        state(path)


@contextlib.contextmanager
def _read(path: Path) -> Iterator[netCDF4.Dataset]:
    with contextlib.ExitStack() as stack:
        try:
            nc = stack.enter_context(netCDF4.Dataset(path))
            nc.set_auto_mask(False)
            for variable in nc.variables.values():
                _forget(variable)
            named = {name: nc.getncattr(name) for name in ("format_version", "phasejax_version") if name in nc.ncattrs()}
        except (OSError, RuntimeError, AttributeError, ValueError):
            raise DamagedError(f"{path} is damaged: it cannot be opened") from None
        refuse_newer(path, named)
        try:
            yield nc
        except (KeyError, IndexError, AttributeError):
            raise DamagedError(f"{path} is damaged: it is not a file of records") from None


def _forget(variable: netCDF4.Variable) -> None:
    """Keep no more than a chunk of a variable in memory: each is read or written once. (The library's own is 64 MB each.)"""
    if variable.chunking() not in (None, "contiguous"):
        variable.set_var_chunk_cache(_MAX_CHUNK)


def _values(path: Path, variable: netCDF4.Variable, *where: Any) -> np.ndarray:
    """Part of a variable, whose checksums are verified on the way."""
    try:
        return np.asarray(variable[where or ...])
    except (RuntimeError, OSError, IndexError):
        raise DamagedError(f"{path} is damaged: its {variable.name} cannot be read") from None


def _create_like(
    path: Path, model: netCDF4.Dataset, sizes: Mapping[str, int], attributes: Mapping[str, str]
) -> netCDF4.Dataset:
    """A file with the dimensions, in other sizes, and the variables of another, still to be filled, most compressed."""
    nc = netCDF4.Dataset(path, "w", format="NETCDF4")
    for name, dimension in model.dimensions.items():
        nc.createDimension(name, sizes.get(name, len(dimension)))
    for name, variable in model.variables.items():
        described = {key: variable.getncattr(key) for key in variable.ncattrs()}
        # Weights get a tenth smaller for two thirds of the time.
        compression = None if STEP_AXES["decades"] in variable.dimensions else "zlib"
        _variable(nc, name, variable.dtype, variable.dimensions, described, compression)
    nc.setncatts({**attributes, "format_version": FORMAT_VERSION, "coordinates": model.getncattr("coordinates")})
    return nc


def _variable(
    nc: netCDF4.Dataset,
    name: str,
    dtype: Any,
    dims: Sequence[str],
    described: Mapping[str, str],
    compression: Any = None,
) -> netCDF4.Variable:
    """A variable with its attributes; arrays of more than one axis have checksums, and are compressed if asked for."""
    how: dict[str, Any] = {"fill_value": False} if dtype is not str else {}
    if len(dims) > 1:
        chunks = _chunks([len(nc.dimensions[dim]) for dim in dims], np.dtype(dtype).itemsize)
        how |= {"compression": compression, "complevel": 1, "shuffle": True, "fletcher32": True, "chunksizes": chunks}
    variable = nc.createVariable(name, dtype, dims, **how)
    variable.setncatts({key: value for key, value in described.items() if value})
    _forget(variable)
    return variable


def _chunks(shape: Sequence[int], itemsize: int) -> list[int]:
    """Chunks that end where a record does, cut along leading axes until they are at most a few megabytes."""
    chunks = [1, *shape[1:]] if len(shape) > 2 else list(shape)
    for k, length in enumerate(chunks):
        chunks[k] = max(1, min(length, length * _MAX_CHUNK // max(1, math.prod(chunks) * itemsize)))
    return chunks
