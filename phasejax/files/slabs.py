"""A run cut into slabs of seeds that separate processes train, and made one file again.

A slab of `runs/paper` is a run of its own, of fewer seeds, in `runs/paper/seeds-<first>-<last>`. What a seed does depends
neither on what runs beside it nor on how its steps are cut into calls, so any cut gives the same file, and a run may be cut
anew whenever it is resumed: a new slab begins where the one stands that has its seeds.
"""

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from phasejax.checks import shown
from phasejax.experiment import Experiment, refuse
from phasejax.files import netcdf
from phasejax.files.durable import StoreError, atomically, held, owner, refuse_if_written
from phasejax.files.folder import check
from phasejax.files.layout import discard, discard_slabs, has_states, overlap, paths, slabs_in, within
from phasejax.files.reading import finished, open_run, read_experiment
from phasejax.files.state import identity_of
from phasejax.files.variables import DamagedError


class Shard(NamedTuple):
    """One of several processes that share a run."""

    index: int
    """Counted from 0."""
    count: int
    """How many there are."""


class Piece(NamedTuple):
    """What one process has to train, as a run of its own."""

    out: Path
    experiment: Experiment
    source: Path | None = None
    """The run of more seeds, or the shorter one, that it begins from."""


def read_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """A shard from `3/16`, or from what SLURM tells its tasks with `auto`.

    Under SLURM every task of a job array has as many shards as it has processes (`srun -n`).

    Raises:
        ExperimentError: the text is no shard, or SLURM says none.
    """
    if text != "auto":
        found = re.fullmatch(r"([0-9]{1,10})/([0-9]{1,10})", text)
        if not found or not int(found[1]) < int(found[2]):
            raise refuse("shard", text, "give i/n with i from 0 to n - 1, as 3/16, or auto under SLURM")
        return Shard(int(found[1]), int(found[2]))
    names = ("ARRAY_TASK_ID", "ARRAY_TASK_MIN", "ARRAY_TASK_MAX", "ARRAY_TASK_STEP", "ARRAY_TASK_COUNT", "PROCID", "NTASKS")
    if not any(f"SLURM_{name}" in environment for name in names):
        raise refuse("shard", text, "SLURM_ARRAY_TASK_ID and SLURM_PROCID are not set here; give i/n, as 3/16")
    try:
        task, least, most, step, tasks, process, processes = (
            int(environment.get(f"SLURM_{name}", default))
            for name, default in zip(names, (0, 0, 0, 1, 1, 0, 1), strict=True)
        )
        last = (most - least) // step + 1
    except (ValueError, ZeroDivisionError):
        raise refuse("shard", text, "what SLURM_ARRAY_TASK_ID and its like say is no number; give i/n, as 3/16") from None
    if last != tasks:
        raise refuse("shard", text, f"the job array leaves out some of {least} to {most}, so the shards are not known; "
                                    "give i/n, as 3/16")  # fmt: skip
    return Shard((task - least) // step * processes + process, tasks * processes)


def labels_of(experiment: Experiment, shard: Shard) -> range:
    """Labels of the seeds of one shard: consecutive, and as many as any other's or one more.

    Raises:
        ExperimentError: there are more shards than seeds.
    """
    labels, (index, count) = experiment.grid.labels, shard
    if not 0 <= index < count <= len(labels):
        raise refuse("shard", f"{index}/{count}", f"there are {len(labels)} seeds, so give i/n with n up to {len(labels)}")
    return labels[index * len(labels) // count : (index + 1) * len(labels) // count]


def plan(
    out: str | Path, experiment: Experiment, shard: Shard | None = None, resume: bool = False, overwrite: bool = False
) -> list[Piece]:
    """What a process has to train; empty if that is finished. Touches nothing.

    Args:
        out: the output of the whole run.
        experiment: the whole run.
        shard: the process's share of it; None for all.
        resume: go on with what is there.
        overwrite: delete what is there, for a shard its own slab.

    Raises:
        ExperimentError: there is no such shard.
        StoreError: the output cannot be used so.
    """
    folder, file = paths(out)
    labels = labels_of(experiment, shard) if shard else experiment.grid.labels
    begun = slabs_in(folder)
    if not shard and not (resume and begun):
        check(out, experiment, resume, overwrite)
        if resume and finished(out, experiment):
            return []
        return [Piece(folder, experiment, folder if resume and file.exists() else None)]
    if file.exists() and not resume:
        raise StoreError(f"{file} exists already: move it away, or choose another --out.")
    # The slabs share the run's folder, so for a slab what the folder holds already has to be this run.
    check(out, experiment, resume=True)
    if finished(out, experiment):
        return []
    for other, path in begun.items():
        if overlap(other, labels):
            refuse_if_written(path)
    if has_states(folder):
        begun[experiment.grid.labels] = folder
    if not resume:
        own = Piece(_slab(folder, labels), _part(experiment, labels))
        for other, path in begun.items():
            if other != labels and overlap(other, labels):
                raise StoreError(
                    f"{path} has some of the seeds {labels[0]} to {labels[-1]}: --resume {folder} goes on with it."
                )
        check(own.out, own.experiment, False, overwrite)
        return [own]
    # One that was killed before its first state has nothing to go on from.
    begun = {slab: path for slab, path in begun.items() if has_states(path) or paths(path)[1].exists()}
    pieces = []
    ends = sorted({labels.stop, *(end for slab in begun for end in (slab.start, slab.stop) if end in labels[1:])})
    cut = [range(first, end) for first, end in itertools.pairwise([labels.start, *ends])]
    for slab, of_slab in itertools.groupby(cut, lambda own: _smallest(begun, own.start)):
        found = list(of_slab)
        own = range(found[0].start, found[-1].stop)
        where = begun[slab] if slab else None
        if where and slab and finished(where, _part(experiment, slab)):
            continue
        if slab == own and where:
            pieces.append(Piece(where, _part(experiment, own)))
        else:
            # Where there is a file, it is that of a shorter run.
            pieces.append(Piece(_slab(folder, own), _part(experiment, own), where or (folder if file.exists() else None)))
    return pieces


def finish(out: str | Path, whole: bool, progress: bool | None = None) -> xr.Dataset:
    """Open a run that has been trained, merging its slabs first if the whole of it was.

    With `progress` as of `merge`.

    Raises:
        StoreError: as `merge`, or what is in the file's place is not that run, whole.
    """
    folder, file = paths(out)
    if whole and not finished(out, read_experiment(out)):
        merge(out, progress)
    elif whole and folder.exists() and not owner(folder):
        # Left by a process that died when the file was whole, which is seen before the folder goes.
        try:
            netcdf.read_through(file)
        except DamagedError as error:
            raise StoreError(f"{error}: move it away, and --resume {folder} goes on.") from None
        discard_slabs(folder)
        discard(folder)
    return open_run(out)


def merge(out: str | Path, progress: bool | None = None) -> Path:
    """Make the one file of a run whose slabs are all finished, and remove them.

    Args:
        out: the run, `runs/paper`.
        progress: show a progress bar on standard error; None does so in terminals and notebooks.

    Returns:
        The file.

    Raises:
        StoreError: a slab is missing, unfinished or damaged, two overlap, or one comes from another experiment or version.
    """
    folder, file = paths(out)
    experiment = read_experiment(out)
    if finished(out, experiment):
        left = f": --resume {folder} removes the slabs it was made of" if slabs_in(folder) else ""
        raise StoreError(f"{file} is there already{left}.")
    begun = slabs_in(folder)
    if not begun:
        raise StoreError(f"{folder} was not cut into slabs: --resume {folder} goes on with it.")
    with held(folder):
        done = {labels: paths(slab)[1] for labels, slab in begun.items() if paths(slab)[1].exists()}
        _tile(experiment, folder, done)
        try:
            attributes = [_attributes(experiment, labels, path) for labels, path in done.items()]
        except DamagedError as error:
            raise StoreError(f"{error}: delete it, and --resume {folder} trains it again.") from None
        first = next(iter(done.values()))
        for path, found in zip(done.values(), attributes, strict=True):
            for name in _SAME:
                if str(found.get(name)) != str(attributes[0].get(name)):
                    how = "compiled by" if name == "compiled_by" else f"made with {name.replace('_', ' ')}"
                    raise StoreError(
                        f"{path} was {how} {shown(found.get(name))}, and {first} with "
                        f"{shown(attributes[0].get(name))}: delete one of them, and --resume {folder} trains it again."
                    )
        # What a slab does not say of itself is left out: none of it is needed to read the file.
        joined = {
            name: "\n".join(dict.fromkeys(str(found[name]) for found in attributes if name in found))
            for name in attributes[0]
        }
        joined["experiment"] = experiment.to_toml()
        joined["created"] = max((str(found["created"]) for found in attributes if "created" in found), default="")
        try:
            with atomically(file, folder) as temporary:
                whole = partial(identity_of, labels=experiment.grid.labels)
                netcdf.merge(list(done.values()), temporary, joined, whole, progress)
        except DamagedError as error:
            raise StoreError(f"{error}: delete it, and --resume {folder} trains it again.") from None
        discard_slabs(folder)
        discard(folder)
    return file


_OWN = ("coordinates", "format_version", "contents")
"""Attributes that are each file's own."""
_SAME = ("phasejax_version", "identity", "engine", "precision", "compiled_by", "versions")
"""Attributes in which slabs must agree to be one run."""


def _tile(experiment: Experiment, folder: Path, finished: Mapping[range, Path]) -> None:
    """Raise unless finished slabs have every seed once."""
    expected, last = experiment.grid.first_seed, None
    for labels, path in finished.items():
        if not within(labels, experiment.grid.labels):
            raise StoreError(f"{path} has seeds that are not in {folder / 'experiment.toml'}: delete it, or move it away.")
        if labels.start < expected:
            raise StoreError(f"{last} and {path} overlap: delete one of them.")
        if labels.start > expected:
            break
        expected, last = labels.stop, path
    if expected > experiment.grid.labels[-1]:
        return
    until = next((labels.start for labels in finished if labels.start > expected), experiment.grid.labels.stop) - 1
    unfinished = [path for labels, path in slabs_in(folder).items() if expected in labels]
    state = f"{unfinished[-1]} is not finished" if unfinished else "they have not been begun"
    raise StoreError(f"{folder} lacks the seeds {expected} to {until}, {state}: --resume {folder} trains them.")


def _attributes(experiment: Experiment, labels: range, path: Path) -> dict[str, Any]:
    """Global attributes of a slab's file, which is checked to be one of this experiment."""
    if read_experiment(path).to_toml() != _part(experiment, labels).to_toml():
        raise StoreError(f"{path} comes from another experiment than the one in {path.parent}: delete it, or move it away.")
    if lacking := netcdf.lacks(path, _part(experiment, labels)):
        raise DamagedError(f"{path} lacks {lacking}")
    return {name: value for name, value in netcdf.attributes(path).items() if name not in _OWN}


def _part(experiment: Experiment, labels: range) -> Experiment:
    """The experiment with only these seeds."""
    return replace(experiment, grid=replace(experiment.grid, first_seed=labels.start, seeds=len(labels)))


def _slab(folder: Path, labels: range) -> Path:
    return folder / f"seeds-{labels[0]}-{labels[-1]}"


def _smallest(begun: Mapping[range, Path], label: int) -> range | None:
    """The slab that has a seed: a finished one, else the smallest, for a run that was cut is larger than its slabs."""
    return min(
        (labels for labels in begun if label in labels),
        key=lambda labels: (not paths(begun[labels])[1].exists(), len(labels)),
        default=None,
    )
