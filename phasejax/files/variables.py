"""Single netCDF files and their variables: opened, read and made so that damage is found, and by one thread at a time."""

import contextlib
import functools
import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import netCDF4
import numpy as np
import xarray as xr
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from phasejax.files.schema import FORMAT_VERSION, STEP_AXES, refuse_newer

T = TypeVar("T")
_MAX_CHUNK = 4 * 2**20


class _Lock:
    """One thread at a time, which is all that the netCDF library can bear; the same thread may hold it twice.

    xarray has a lock of its own for the same reason, which is taken with it: files that others have opened are read under
    that one. It is not enough, for xarray looks at what a file holds without it.
    """

    def __init__(self) -> None:
        self._thread, self._depth = threading.RLock(), 0

    def acquire(self, blocking: bool = True) -> bool:
        """Take it, or say that another thread has it."""
        if not self._thread.acquire(blocking):
            return False
        if not self._depth and not NETCDF4_PYTHON_LOCK.acquire(blocking):
            self._thread.release()
            return False
        self._depth += 1
        return True

    def release(self) -> None:
        """Give it back once."""
        self._depth -= 1
        if not self._depth:
            NETCDF4_PYTHON_LOCK.release()
        self._thread.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        return "_LOCK"


_LOCK = _Lock()


def alone(function: Callable[..., T]) -> Callable[..., T]:
    """The function, while no other thread uses the netCDF library."""

    @functools.wraps(function)
    def locked(*arguments: Any, **named: Any) -> T:
        with _LOCK:
            return function(*arguments, **named)

    return locked


@alone
def opened(path: Path) -> xr.Dataset:
    """A file as xarray opens it."""
    return xr.open_dataset(path, engine="netcdf4", lock=_LOCK)


class DamagedError(Exception):
    """A file that cannot be read, or that does not continue the others: one sentence without its end."""


class Contents:
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


@contextlib.contextmanager
def reading(path: Path) -> Iterator[netCDF4.Dataset]:
    """A file that is open, if it is one of records and no newer than this package."""
    with contextlib.ExitStack() as stack:
        try:
            nc = stack.enter_context(netCDF4.Dataset(path))
            nc.set_auto_mask(False)
            for variable in nc.variables.values():
                forget(variable)
            named = {name: nc.getncattr(name) for name in ("format_version", "phasejax_version") if name in nc.ncattrs()}
        except (OSError, RuntimeError, AttributeError, ValueError):
            raise DamagedError(f"{path} is damaged: it cannot be opened") from None
        refuse_newer(path, named)
        try:
            yield nc
        except (KeyError, IndexError, AttributeError):
            raise DamagedError(f"{path} is damaged: it is not a file of records") from None


def forget(variable: netCDF4.Variable) -> None:
    """Keep no more than a chunk of a variable in memory: each is read or written once. (The library's own is 64 MB each.)"""
    if variable.chunking() not in (None, "contiguous"):
        variable.set_var_chunk_cache(_MAX_CHUNK)


def values_of(path: Path, variable: netCDF4.Variable, *where: Any) -> np.ndarray:
    """Part of a variable, whose checksums are verified on the way."""
    try:
        return np.asarray(variable[where or ...])
    except (RuntimeError, OSError, IndexError):
        raise DamagedError(f"{path} is damaged: its {variable.name} cannot be read") from None


def create_like(
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
        create_variable(nc, name, variable.dtype, variable.dimensions, described, compression)
    nc.setncatts({**attributes, "format_version": FORMAT_VERSION, "coordinates": model.getncattr("coordinates")})
    return nc


def create_variable(
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
        chunks = chunks_of([len(nc.dimensions[dim]) for dim in dims], np.dtype(dtype).itemsize)
        how |= {"compression": compression, "complevel": 1, "shuffle": True, "fletcher32": True, "chunksizes": chunks}
    variable = nc.createVariable(name, dtype, dims, **how)
    variable.setncatts({key: value for key, value in described.items() if value})
    forget(variable)
    return variable


def chunks_of(shape: Sequence[int], itemsize: int) -> list[int]:
    """Chunks that end where a record does, cut along leading axes until they are at most a few megabytes."""
    chunks = [1, *shape[1:]] if len(shape) > 2 else list(shape)
    for k, length in enumerate(chunks):
        chunks[k] = max(1, min(length, length * _MAX_CHUNK // max(1, math.prod(chunks) * itemsize)))
    return chunks
