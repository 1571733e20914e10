"""How a run lies in netCDF files, and files that continue each other made into one.

This is the one place where arrays turn from compute order (seed, cell) to file order (step, the axes of the
grid, seed). Files are made under the name given, whole or in part; `folder` sees to it that only whole ones are kept.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import netCDF4
import numpy as np

from phasejax.experiment import Experiment
from phasejax.files.schema import FORMAT_VERSION, STEP_AXES, coordinates, own_axes
from phasejax.files.state import Digest
from phasejax.files.variables import (
    Contents,
    DamagedError,
    alone,
    create_like,
    create_variable,
    reading,
    values_of,
)
from phasejax.progress import counted

if TYPE_CHECKING:
    from phasejax.observables import Observable

# The group of the training state at the end; its variables are the leaves, their names quoted, for a slash cannot be in one.
_STATE = "state"


class Record(NamedTuple):
    """One step's observations, in compute order."""

    step: int
    values: Mapping[str, Any]
    """Arrays (seed, cell, ...) by name; (seed, ...) for what is recorded once."""


@alone
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
            create_variable(nc, name, str if values.dtype == object else values.dtype, dims, described)[...] = values
        for field in fields:
            if not rows[field.name]:
                continue
            dims = ("seed",) if field.when == "once" else (STEP_AXES[field.when], *grid.axes, "seed")
            described = {"units": field.units, "long_name": field.long_name, "paper_equation": field.equation}
            variable = create_variable(nc, field.name, rows[field.name][0].dtype, dims + field.dims, described)
            for row, values in enumerate(rows[field.name]):
                if field.when == "once":
                    variable[:] = values
                else:
                    # (seed, cell, ...) -> (the grid's axes, seed, ...)
                    by_axes = values.reshape(len(values), *grid.shape, *values.shape[2:])
                    variable[row] = np.moveaxis(by_axes, 0, len(grid.shape))
        named = {"coordinates": " ".join(name for name, dims, _, _ in axes if dims != (name,))}
        nc.setncatts({**attributes, "format_version": FORMAT_VERSION, **named})


@alone
def concatenate(
    sources: Sequence[Path],
    target: Path,
    attributes: Mapping[str, str],
    seeds: slice = slice(None),
    identity: str | None = None,
    rows: Mapping[str, Sequence[int]] | None = None,
    show: bool = False,
) -> None:
    """Stream files whose records follow each other into one, compressed, a record at a time.

    Args:
        sources: the files, in the order of their steps; the first has all variables, because step 0 has.
        target: the file to make.
        attributes: its global attributes.
        seeds: which of the seeds.
        identity: that of the run they are of.
        rows: the steps to keep, by step axis; all if None.
        show: a progress bar, where somebody looks on.

    Raises:
        DamagedError: a source cannot be read or is of another run, or there is none.
    """
    if not sources:
        raise DamagedError(f"there are no records to make {target.name} of")
    axes, sizes, work = set(STEP_AXES.values()), dict.fromkeys(STEP_AXES.values(), 0), 0

    def chosen(nc: netCDF4.Dataset, axis: str) -> list[int]:
        return [k for k, step in enumerate(nc[axis][:].tolist()) if rows is None or step in rows[axis]]

    for source in sources:
        with reading(source) as nc:
            if identity is not None and ("identity" not in nc.ncattrs() or nc.getncattr("identity") != identity):
                raise DamagedError(f"{source} has records of another run")
            for axis in axes:
                found = len(chosen(nc, axis))
                sizes[axis] += found
                work += found * sum(variable.dimensions[:1] == (axis,) for variable in nc.variables.values())
            kept = len(range(len(nc.dimensions["seed"]))[seeds])
    with (
        counted(f"writing {target.name.removesuffix('.tmp')}", work, show) as shown,
        reading(sources[0]) as first,
        create_like(target, first, {**sizes, "seed": kept}, attributes) as made,
    ):
        done, contents = dict.fromkeys(axes, 0), Contents()
        for source in sources:
            with reading(source) as nc:
                for name, variable in nc.variables.items():
                    where = tuple(seeds if dim == "seed" else slice(None) for dim in variable.dimensions)
                    if variable.dimensions and variable.dimensions[0] in axes:
                        row = done[variable.dimensions[0]]
                        for k, of_source in enumerate(chosen(nc, variable.dimensions[0])):
                            values = values_of(source, variable, of_source, *where[1:])
                            made[name][row + k] = values
                            contents.add(name, values)
                            shown.update()
                    elif source is sources[0]:
                        values = values_of(source, variable, *where)
                        made[name][...] = values
                        contents.add(name, values)
                for axis in axes:
                    done[axis] += len(chosen(nc, axis))
        made.setncattr("contents", str(contents))


@alone
def merge(
    sources: Sequence[Path],
    target: Path,
    attributes: Mapping[str, str],
    identify: Callable[[str], str] = str,
    show: bool | None = False,
) -> None:
    """Stream files that differ in their seeds into one, compressed, a record or an array of their states at a time.

    Args:
        sources: the files, in the order of their seeds.
        target: the file to make.
        attributes: its global attributes.
        identify: gives the identity of the whole, from that of the run its parts are of.
        show: a progress bar, where somebody looks on.

    Raises:
        DamagedError: a source cannot be read, or has other records, or another kind of state, than the first.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(reading(source)) for source in sources]
        first = opened[0]
        for source, nc in zip(sources, opened, strict=True):
            if set(nc.variables) != set(first.variables):
                raise DamagedError(f"{source} has other variables than {sources[0]}")
            for axis in STEP_AXES.values():
                if not np.array_equal(nc[axis][:], first[axis][:]):
                    raise DamagedError(f"{source} has other records than {sources[0]}")
        seeds = sum(len(nc.dimensions["seed"]) for nc in opened)
        made = stack.enter_context(create_like(target, first, {"seed": seeds}, attributes))
        pairs = list(zip(sources, opened, strict=True))
        read, contents = [Contents() for _ in pairs], Contents()
        pieces = {name: _pieces(variable) for name, variable in first.variables.items()}
        shown = stack.enter_context(counted("merging", sum(map(len, pieces.values())), show))
        for name, variable in first.variables.items():
            if "seed" not in variable.dimensions:
                for of_source, (source, nc) in zip(read, pairs, strict=True):
                    of_source.add(name, values_of(source, nc[name]))
                values = values_of(sources[0], variable)
                made[name][...] = values
                contents.add(name, values)
                continue
            axis = variable.dimensions.index("seed")
            for where in pieces[name]:
                parts = [values_of(source, nc[name], *where) for source, nc in pairs]
                whole = np.concatenate(parts, axis - len(where))
                made[name][where or ...] = whole
                contents.add(name, whole)
                for of_source, part in zip(read, parts, strict=True):
                    of_source.add(name, part)
                shown.update()
        for of_source, (source, nc) in zip(read, pairs, strict=True):
            of_source.require(source, nc)
        made.setncattr("contents", str(contents))
        if any(_STATE in nc.groups for nc in opened):
            _merge_states(pairs, made, identify)


def _pieces(variable: netCDF4.Variable) -> list[tuple[int, ...]]:
    """Where to read what is to be joined: by records where there are any, so that no more than one is held at a time."""
    if "seed" not in variable.dimensions:
        return []
    return [(k,) for k in range(variable.shape[0])] if variable.dimensions.index("seed") else [()]


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
        parts = [values_of(source, nc[_STATE][_quoted(name)]) for source, nc in pairs]
        for of_part, part in zip(digests, parts, strict=True):
            of_part.add(name, part)
        whole = np.concatenate(parts)
        digest.add(name, whole)
        _leaf(group, name, whole)
    for (source, _), header, of_part in zip(pairs, headers, digests, strict=True):
        _require_digest(source, header, of_part)
    group.setncatts({**headers[0], "identity": identify(headers[0]["run"]), "sha256": str(digest)})


@alone
def keep_state(path: Path, header: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> None:
    """Add a training state to a file, in a group of its own: arrays (seed, ...), and a header with their SHA-256."""
    with netCDF4.Dataset(path, "a") as nc:
        group = nc.createGroup(_STATE)
        for name, leaf in leaves.items():
            _leaf(group, name, leaf)
        group.setncatts({**header, "sha256": str(Digest(leaves))})


@alone
def state(path: Path, seeds: slice = slice(None)) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header of a file's training state, and its arrays by name, of some of the seeds.

    Raises:
        DamagedError: there is none, or it is not the one that was written.
    """
    with reading(path) as nc:
        header, digest, leaves = _header(path, nc), Digest(), {}
        for name in _kinds(nc):
            values = values_of(path, nc[_STATE][_quoted(name)])
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
    create_variable(group, _quoted(name), leaf.dtype, dims, {})[...] = leaf


@alone
def attributes(path: Path) -> dict[str, Any]:
    """Global attributes of a file.

    Raises:
        DamagedError: they cannot be read.
    """
    with reading(path) as nc:
        try:
            return {name: nc.getncattr(name) for name in nc.ncattrs()}
        except Exception:  # damaged bytes fail in any way HDF5 and netCDF4 know
            raise DamagedError(f"{path} is damaged: its attributes cannot be read") from None


@alone
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
    with reading(path) as nc:
        labels = experiment.grid.labels
        if len(nc.dimensions["seed"]) != len(labels) or not np.array_equal(nc["seed"][:], labels):
            return "some of its seeds"
        for when, axis in STEP_AXES.items():
            used = when == "records" or any(axis in v.dimensions and name != axis for name, v in nc.variables.items())
            if not np.array_equal(nc[axis][:], steps[when] if used else []):
                return "some of its records"
    return ""


@alone
def count(path: Path) -> int:
    """How many records a file has.

    Raises:
        DamagedError: it cannot be read.
    """
    with reading(path) as nc:
        return len(nc.dimensions["step"])


@alone
def read_through(path: Path) -> None:
    """Read a file's records, one at a time, and its state against their checksums.

    Raises:
        DamagedError: one cannot be read.
    """
    with reading(path) as nc:
        contents = Contents()
        for name, variable in nc.variables.items():
            for where in [(k,) for k in range(variable.shape[0])] if variable.ndim > 1 else [()]:
                contents.add(name, values_of(path, variable, *where))
        contents.require(path, nc)
        kept = _STATE in nc.groups
    if kept:
        state(path)
