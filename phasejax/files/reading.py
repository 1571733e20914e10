"""Opening a run, finished or not, and how far it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from phasejax.analysis.run import RunError, grid_axes, settings
from phasejax.checks import ExperimentError, refuse
from phasejax.experiment import Experiment
from phasejax.files import netcdf
from phasejax.files.durable import StoreError
from phasejax.files.layout import has_records, paths, segments, slabs_in, within
from phasejax.files.schema import FORMAT_VERSION, STEP_AXES, coordinates, refuse_newer
from phasejax.files.variables import DamagedError, opened
from phasejax.memory import available, size
from phasejax.starts import FromRun
from phasejax.tasks import same_file


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
        wrong = _wrong(dataset, Experiment.from_tables(settings(dataset)))
    except RunError:
        dataset.close()
        raise StoreError(f"{file} is not a run of phasejax: it does not say which experiment it is of.") from None
    if wrong:
        dataset.close()
        raise StoreError(f"{file} is damaged: its {wrong} is not that of its experiment.")
    return dataset


def _wrong(dataset: xr.Dataset, experiment: Experiment) -> str:
    """The coordinate of a run, or of a selection of one, that is not as its experiment has it; empty if all are."""
    axes = experiment.grid.axes
    if str(dataset.attrs.get("axes", " ".join(axes))) != " ".join(axes):
        return "list of axes"
    records = {stop.step for stop in experiment.stops() if stop.record}
    allowed: dict[str, Any] = {**axes, "seed": experiment.grid.labels, **dict.fromkeys(STEP_AXES.values(), records)}
    there = {name: np.atleast_1d(dataset[name].values) for name in allowed if name in dataset.coords}
    for name, possible in allowed.items():
        found = there.get(name, np.array([]))
        ascending = name in axes or (np.diff(found) > 0).all()
        lost = name not in there and (name in axes or name in dataset.dims)
        if lost or not ascending or len(set(found.tolist())) < found.size:
            return name
        if found.dtype.kind not in "if" or not all(value in possible for value in found.tolist()):
            return name
    alone = replace(experiment, grid=replace(experiment.grid, seeds=1))  # the labels have been looked at
    for name, dims, values, _ in coordinates(alone, {axis: there.get(axis, []) for axis in STEP_AXES.values()}):
        if name in allowed or name == "teacher" or (dims and dims[0] not in there):
            continue
        chosen = [[axes[dim].index(value) for value in there[dim].tolist()] for dim in dims if dim in axes]
        expected = values[np.ix_(*chosen)] if chosen else values
        found = dataset.coords.get(name)
        if found is None or found.size != expected.size or not np.allclose(np.ravel(found), np.ravel(expected)):
            return name
    return ""


def load_run(path: str | Path) -> xr.Dataset:
    """A run in memory, but for what is recorded at whole decades: the weights, which are most of a file.

    Raises:
        StoreError: there is no run there, or not all of it can be read.
    """
    with open_run(path) as dataset:
        wanted = [name for name, variable in dataset.data_vars.items() if "step_decades" not in variable.dims]
        if (needed := dataset[wanted].nbytes) > (there := available()):
            raise StoreError(f"{path} has {size(needed)} of records, and {size(there)} of memory are free here.")
        try:
            return dataset[wanted].load()
        except (OSError, RuntimeError):  # what a file says that opens and then breaks off
            raise StoreError(f"{path} is damaged: not all of its records can be read.") from None


def read_experiment(out: str | Path) -> Experiment:
    """The experiment of a run, from its folder or its finished file.

    Raises:
        StoreError: there is no run there.
        ExperimentError: it is not one this version knows.
    """
    folder, file = paths(out)
    try:
        if (folder / "experiment.toml").exists():
            text = (folder / "experiment.toml").read_text("utf-8")
            return Experiment.from_toml(
                text, str(folder / "experiment.toml"), 1 if "optimiser =" in text else FORMAT_VERSION
            )
    except (OSError, UnicodeDecodeError) as error:
        if not file.exists():
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise StoreError(f"{folder / 'experiment.toml'} cannot be read: {reason}.") from None
    except ExperimentError:
        # A writer that is done puts the file in the folder's place, which may be just now.
        if not file.exists():
            raise
    if file.exists():
        try:
            return read_file(file)
        except (DamagedError, KeyError):
            raise StoreError(f"{file} is not a run of phasejax.") from None
    raise StoreError(f"{out} holds no run: neither {file} nor {folder / 'experiment.toml'} is there.")


def read_file(file: Path) -> Experiment:
    """The experiment that a finished file says it is of.

    Raises:
        DamagedError: the file cannot be read.
        KeyError: it does not say so.
        ExperimentError: it is not one this version knows.
    """
    attributes = netcdf.attributes(file)
    return Experiment.from_toml(str(attributes["experiment"]), str(file), int(attributes.get("format_version", 1)))


def _shorter(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments are the same but for the steps, and the seeds, of which the other has some."""
    grid = replace(one.grid, seeds=other.grid.seeds, first_seed=other.grid.first_seed)
    alike = replace(one, grid=grid, schedule=replace(one.schedule, steps=other.schedule.steps))
    of_it = within(other.grid.labels, one.grid.labels)
    return of_it and one.schedule.steps < other.schedule.steps and alike.to_toml() == other.to_toml()


def can_go_on(file: Path, begun: Experiment, longer: Experiment) -> bool:
    """Whether a finished run can be made this longer one.

    Raises:
        StoreError: it is the same but for its length, and its end is no record of the longer one's.
    """
    if not _shorter(begun, longer):
        return False
    if not longer.schedule.constant:
        raise StoreError(f"{file} cannot go on: its learning rate goes by shares of its own {begun.schedule.steps:,} steps.")
    ends = longer.ladder.ends_of_shorter_runs()
    if begun.schedule.steps not in ends:
        near = ", ".join(f"{end:,}" for end in sorted(ends, key=lambda end: abs(end - begun.schedule.steps))[:4])
        raise StoreError(f"{file} cannot go on: no longer run records step {begun.schedule.steps:,}, where it ended. Runs "
                         f"of {near} steps, for instance, can.")  # fmt: skip
    return True


def finished(out: str | Path, experiment: Experiment) -> bool:
    """Whether the finished file of a run is there, which is then of that experiment and has all of its records.

    Raises:
        StoreError: something else stands in its place.
    """
    folder, file = paths(out)
    if not file.exists():
        return False
    try:
        settings_of = netcdf.attributes(file).get("experiment")
        if settings_of is None:
            reason = "is not a run of phasejax"
        elif not _says(settings_of, experiment):
            if _shorter(read_file(file), experiment):
                return False
            reason = "is a run of another experiment"
        else:
            lacking = netcdf.lacks(file, experiment)
            reason = lacking and f"lacks {lacking}"
    except DamagedError:
        reason = "is not a run of phasejax, or not a whole one"
    if reason and (folder / "experiment.toml").exists():
        raise StoreError(f"{file} {reason}, and is where that of {folder} goes when it is finished: move {file} away, and "
                         f"--resume {folder} goes on.")  # fmt: skip
    if reason:
        raise StoreError(f"{file} {reason}: move it away, or choose another --out.")
    return True


def is_run(file: Path) -> bool:
    """Whether a file can be read and says which experiment it is of."""
    try:
        return "experiment" in netcdf.attributes(file)
    except DamagedError:
        return False


def _says(toml: object, experiment: Experiment) -> bool:
    try:
        return Experiment.from_toml(str(toml)).to_toml() == experiment.to_toml()
    except ExperimentError:
        return False


def weights_to_start_from(start: FromRun, experiment: Experiment) -> dict[str, np.ndarray]:
    """Weights that another run recorded, (seed, start, ...), in the order of `Experiment.starts`, by what names end in.

    Raises:
        ExperimentError: the file is another one than it was, or has not what is asked of it.
    """
    same_file("start.path", start.path, start.sha256)
    labels, dtype = list(experiment.grid.labels), np.dtype(experiment.precision)
    with open_run(start.path) as run:
        axes = grid_axes(run)
        if set(axes) != {name for name, _ in start.at} | set(start.along):
            allowed = f"that run has the axes {', '.join(axes) or 'none'}, each of which must be in start.at or start.along"
            raise refuse("start.along", list(start.along), allowed)
        names = {str(name): variable for name, variable in run.data_vars.items() if str(name).startswith("weights")}
        if not names:
            raise refuse("start.path", start.path, "that run has recorded no weights")
        found = {}
        for variable_name, variable in names.items():
            (steps,) = [axis for axis in STEP_AXES.values() if axis in variable.dims]
            if start.step >= 0 and start.step not in run[steps]:
                there = ", ".join(map(str, run[steps].values.tolist()))
                raise refuse("start.step", start.step, f"that run recorded weights at {there}")
            last = variable.isel({steps: -1}) if start.step < 0 else variable.sel({steps: start.step})
            wanted = {name: [value] for name, value in start.at} | {axis: experiment.grid.axes[axis] for axis in start.along}
            for name, values in {**wanted, "seed": labels}.items():
                there = run[name].values.tolist()
                if lacking := [value for value in values if value not in there]:
                    raise refuse(
                        "start.path", start.path, f"that run has {name} = {', '.join(map(str, there))}, and no {lacking[0]}"
                    )
            chosen = last.sel(dict(start.at)).sel({"seed": labels, **{axis: list(wanted[axis]) for axis in start.along}})
            # Starts are in the order of the axes, as `Experiment.starts` has them.
            chosen = chosen.transpose("seed", *(axis for axis in experiment.grid.axes if axis in start.along), ...)
            values = chosen.values.reshape(len(labels), -1, *chosen.shape[1 + len(start.along) :])
            found[variable_name.removeprefix("weights")] = values.astype(dtype)
    return found


def _records_so_far(folder: Path) -> xr.Dataset:
    """The records of a run that has not ended."""
    parts = [open_run(slab) for slab in slabs_in(folder).values() if has_records(slab)]
    written = segments(folder)
    if folder.is_file():
        raise StoreError(f"{folder} is no run: that is a netCDF file, whose name ends in .nc, or a folder of one.")
    if not parts and not written:
        raise StoreError(f"{folder} holds no run: neither {paths(folder)[1]} nor records in {folder} are there.")
    try:
        experiment = (folder / "experiment.toml").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise StoreError(f"{folder} holds no run: its experiment.toml cannot be read.") from None
    if parts:
        # Slabs may be at different steps: what all of them have recorded is a run.
        data = xr.concat(parts, "seed", data_vars="all", coords="minimal", compat="override", join="inner",
                         combine_attrs="drop")  # fmt: skip
        return data.assign_attrs({**_kept(parts[0]), "experiment": experiment})
    opened = [_open(segment) for segment in written]
    for segment, part in zip(written, opened, strict=True):
        if part.attrs.get("identity") != opened[0].attrs.get("identity"):
            raise StoreError(f"{segment} and {written[0]} have records of different runs: move one run's files away.")
    data = {
        name: xr.concat([part[name] for part in opened if name in part], axis[0])
        if (axis := [str(dim) for dim in variable.dims if dim in STEP_AXES.values()])
        else variable
        for name, variable in opened[0].data_vars.items()
    }
    return xr.Dataset(data, attrs={**_kept(opened[0]), "experiment": experiment})


def _kept(part: xr.Dataset) -> dict[str, Any]:
    """What a part of a run says of itself that is true of the whole."""
    return {name: part.attrs[name] for name in ("format_version", "axes", "not_recorded") if name in part.attrs}


def _open(file: Path) -> xr.Dataset:
    try:
        dataset = opened(file)
    except PermissionError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}.") from None
    except Exception:  # damaged bytes fail in any way HDF5, netCDF4 and xarray know
        raise StoreError(f"{file} is not a netCDF file, or not a whole one.") from None
    try:
        refuse_newer(file, dataset.attrs)
    except StoreError:
        dataset.close()
        raise
    return _decoded(dataset)


def _decoded(dataset: xr.Dataset) -> xr.Dataset:
    """What lies in a file as its logarithm, log10_test_loss for instance, as itself."""
    logarithms = [str(name) for name in dataset.data_vars if str(name).startswith("log10_")]
    for name in logarithms:
        described = dataset[name].attrs
        dataset = dataset.assign({name.removeprefix("log10_"): (10.0 ** dataset[name]).assign_attrs(described)})
    return dataset.drop_vars(logarithms)
