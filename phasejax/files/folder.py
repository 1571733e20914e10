"""A run being written: the folder it works in (`layout`), held by one process, until its finished file is there."""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasejax.checks import shown
from phasejax.experiment import Experiment
from phasejax.files import netcdf
from phasejax.files.durable import StoreError, atomically, digest, existing_parent, held, make, refuse_if_written
from phasejax.files.layout import STUB, discard, discard_slabs, own_files, paths, segments, states, step_of
from phasejax.files.netcdf import Record
from phasejax.files.reading import can_go_on, finished, is_run, read_experiment
from phasejax.files.schema import STEP_AXES
from phasejax.files.state import Checkpoint, identity_of, load, save
from phasejax.files.variables import DamagedError
from phasejax.memory import size

if TYPE_CHECKING:
    from phasejax.identity import Identity
    from phasejax.observables import Observable

_KEPT_STATES = 2


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
        identity: "Identity",
        resume: bool = False,
        overwrite: bool = False,
        space: int = 0,
    ) -> None:
        self.folder, self.file = paths(out)
        self._experiment, self._fields, self._attributes = experiment, fields, attributes
        self._run, self._programs = identity
        self._identity = identity_of(self._run, experiment.grid.labels)
        self._space = space
        self._digests: dict[str, str] = {}
        check(out, experiment, resume, overwrite)
        self._require(overwrite)
        make(self.folder)
        with contextlib.ExitStack() as until_closed:
            self._lock = until_closed.enter_context(held(self.folder))
            self.left_by = self._lock.left_by
            """Who held the lock last, if it died without giving it back."""
            if overwrite:
                discard_slabs(self.folder)
                self.file.unlink(missing_ok=True)
            if not resume:
                for old in own_files(self.folder):
                    old.unlink()
            keep_experiment(self.folder, experiment)
            self._until_closed = until_closed.pop_all()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._until_closed.close()

    def _require(self, overwrite: bool) -> None:
        """Raise if the disk is too small for what is still to be written."""
        parent = existing_parent(self.folder)
        there = sum(path.stat().st_size for path in own_files(self.folder))
        there += self.file.stat().st_size if overwrite and self.file.exists() else 0
        free = shutil.disk_usage(parent).free
        if free + there < self._space:
            raise StoreError(
                f"{self.folder} needs up to {size(self._space)}, and {parent} has {size(free + there)} for it: make space, "
                "or record less."
            )

    # -- writing ---------------------------------------------------------------------------------------------------------

    def commit(self, records: Sequence[Record], checkpoint: Checkpoint) -> None:
        """Write the records since the last commit, then the state; after this call both survive a power cut.

        Raises:
            StoreError: the disk does not take them, or the folder is no longer this run's.
        """
        self._lock.require()
        if records:
            with self._segment(checkpoint.step) as temporary:
                netcdf.write(temporary, self._experiment, self._fields, records, self._of_a_segment())
        self._save(checkpoint)
        for _, old in states(self.folder)[_KEPT_STATES:]:
            old.unlink()

    def tell(self, step: int, speed: float) -> None:
        """Say where the run is, and how many steps a second it does, to who asks before the next commit."""
        self._lock.tell(json.dumps({"step": step, "speed": float(f"{speed:.6g}"), "at": round(time.time(), 1)}))

    @contextlib.contextmanager
    def _segment(self, step: int) -> Iterator[Path]:
        """Where to write the records up to a step. Not all of a netCDF file has checksums of its own."""
        path = self.folder / f"records-{step}.nc"
        with atomically(path, self.folder, self._space) as temporary:
            yield temporary
            self._digests[path.name] = digest(temporary)
            self._lock.require()  # writing it took a while

    def _save(self, checkpoint: Checkpoint) -> None:
        with atomically(self.folder / f"state-{checkpoint.step}.npz", self.folder, self._space) as temporary:
            save(temporary, self._of_a_state(), checkpoint._replace(segments=self._digests))
            self._lock.require()

    def _of_a_segment(self) -> dict[str, str]:
        same = {name: self._attributes.get(name, "") for name in ("phasejax_version", "axes", "not_recorded")}
        return {"identity": self._identity, **same}

    def _of_a_state(self) -> dict[str, str]:
        made_by = {name: self._attributes.get(name, "unknown") for name in ("engine", "compiled_by")}
        return {**self._of_a_segment(), "run": self._run, "programs": self._programs, **made_by}

    def take_over(self, whole: str | Path) -> None:
        """Begin where a run of more seeds stands, of which these are some, or where a shorter one ended.

        From step 0 where it has no state.

        Raises:
            StoreError: it is being written, was made by something else, or is damaged.
        """
        folder, file = paths(whole)
        if file.exists():
            return self._lengthen(file)
        experiment = read_experiment(whole)
        # Several processes may take their seeds from one run at the same time.
        with held(folder, fcntl.LOCK_SH):
            of_whole = identity_of(self._run, experiment.grid.labels)
            checkpoint = self._newest(folder, of_whole)
            if checkpoint is None:
                return
            first = self._experiment.grid.first_seed - experiment.grid.first_seed
            seeds = slice(first, first + self._experiment.grid.seeds)
            continued = [path for path in segments(folder) if step_of(path) <= checkpoint.step]
            try:
                _verify(continued, checkpoint)
                with self._segment(checkpoint.step) as temporary:
                    netcdf.concatenate(continued, temporary, self._of_a_segment(), seeds, of_whole)
            except DamagedError as error:
                raise StoreError(f"{error}: delete the states in {folder}, and --resume trains these seeds anew.") from None
        leaves = {name: leaf[seeds] for name, leaf in checkpoint.leaves.items()}
        self._save(checkpoint._replace(leaves=leaves, speed=0.0))

    def _lengthen(self, file: Path) -> None:
        """Begin where a finished run ended that was shorter, and otherwise the same."""
        shorter = read_experiment(file)
        first = self._experiment.grid.first_seed - shorter.grid.first_seed
        seeds = slice(first, first + self._experiment.grid.seeds)
        checkpoint, made_by = final_state(file, seeds)
        try:
            netcdf.read_through(file)
        except DamagedError as error:
            raise StoreError(f"{error}: only training the run again gives it back.") from None
        ours = self._of_a_state()
        # Before `compiled_by` was written down nobody knows.
        made_by = {"compiled_by": ours["compiled_by"], **made_by}
        for name, words in (("compiled_by", ""), ("engine", "engine "), ("programs", "programs ")):
            if made_by.get(name) != ours[name]:
                raise StoreError(f"{file} was made with {words}{shown(made_by.get(name))}, and would go on with "
                                 f"{ours[name]}: only the same goes on with it.")  # fmt: skip
        stops = self._experiment.stops()
        rows = {axis: [s.step for s in stops if s.record and when in s.occasions()] for when, axis in STEP_AXES.items()}
        with self._segment(checkpoint.step) as temporary:
            netcdf.concatenate([file], temporary, self._of_a_segment(), seeds, rows=rows)
        self._save(checkpoint)

    def consolidate(self, show: bool = False) -> Path:
        """Stream all segments into the finished file, with the state at the end, and remove the folder.

        Args:
            show: a progress bar, where somebody looks on.

        Returns:
            The finished file.

        Raises:
            StoreError: a segment is damaged, missing or of another run, or something else is where the file goes.
        """
        self._lock.require()
        checkpoint = self._newest(self.folder, self._identity)
        if checkpoint is None or checkpoint.step != self._experiment.schedule.steps:
            raise StoreError(f"{self.folder} lacks the state at its end: --resume {self.folder} trains up to it again.")
        # Nobody but this process makes it: what is there now has been put there since the run began.
        finished(self.file, self._experiment)
        try:
            _verify(segments(self.folder), checkpoint)
            with atomically(self.file, self.folder, self._space) as temporary:
                netcdf.concatenate(segments(self.folder), temporary, self._attributes, identity=self._identity, show=show)
                if lacking := netcdf.lacks(temporary, self._experiment):
                    raise DamagedError(f"{self.folder} lacks {lacking}")
                header = {**self._of_a_state(), "step": checkpoint.step, "marked_step": checkpoint.marked_step}
                netcdf.keep_state(temporary, header, checkpoint.leaves)
                self._lock.require()
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
        self._digests = {} if checkpoint is None else dict(checkpoint.segments)
        for path in own_files(self.folder):
            if path.suffix == ".tmp" or step_of(path) > newest:
                path.unlink()
        return checkpoint

    def _newest(self, folder: Path, identity_there: str) -> Checkpoint | None:
        for _, path in states(folder):
            if not (found := load(path)):
                continue
            header, checkpoint = found
            ours = self._of_a_state()["compiled_by"]
            if (theirs := header.get("compiled_by", ours)) != ours:
                raise StoreError(f"{folder} was begun with {shown(theirs)}, and here is {ours}: only the same goes on with "
                                 "it; --overwrite starts anew.")  # fmt: skip
            if header.get("identity") != identity_there:
                if (engine := shown(header.get("engine"))) != self._attributes.get("engine"):
                    again = f"--engine {shlex.quote(engine)}"
                    raise StoreError(f"{folder} was begun with engine {engine}: {again} goes on with it, "
                                     "--overwrite starts anew.")  # fmt: skip
                raise StoreError(f"{folder} was begun with other programs than these settings make here (another version, "
                                 "or another function of the same name): --overwrite starts anew.")  # fmt: skip
            return checkpoint
        return None


def _verify(paths: Sequence[Path], checkpoint: Checkpoint) -> None:
    """Raise `DamagedError` if segments are not those that a state was written after."""
    for path in paths:
        if checkpoint.segments.get(path.name) not in (None, digest(path)):
            raise DamagedError(f"{path} is not what was written there: it is damaged, or has records of another run")


def final_state(file: Path, seeds: slice = slice(None)) -> tuple[Checkpoint, dict[str, Any]]:
    """The training state at the end of a finished run, of all or some of its seeds, and what its header says besides.

    Raises:
        StoreError: the file has none, or it is damaged.
    """
    try:
        header, leaves = netcdf.state(file, seeds)
    except DamagedError as error:
        raise StoreError(f"{error}: only training the run again gives it back.") from None
    return Checkpoint(header["step"], header["marked_step"], leaves), header


def check(out: str | Path, experiment: Experiment, resume: bool = False, overwrite: bool = False) -> None:
    """Raise `StoreError` if a run could not write to `out`; touches nothing."""
    folder, file = paths(out)
    refuse_if_written(folder)
    started = (folder / "experiment.toml").exists()
    if (
        folder.exists()
        and not started
        and (not folder.is_dir() or not all(STUB.fullmatch(p.name) for p in folder.iterdir()))
    ):
        raise StoreError(f"{folder} exists and is not a run of phasejax: choose another --out.")
    if not overwrite and not resume and (file.exists() or started):
        there = file if file.exists() else folder
        raise StoreError(f"{there} exists already: --resume {folder} goes on with it, --overwrite starts anew.")
    begun = read_experiment(out) if resume and (file.exists() or started) else experiment
    if begun.to_toml() != experiment.to_toml() and not (
        file.exists() and not started and can_go_on(file, begun, experiment)
    ):
        raise StoreError(f"{folder} holds another experiment, whose settings cannot be changed: choose another --out.")
    if resume:
        finished(out, experiment)
    if overwrite and file.exists() and not is_run(file):
        raise StoreError(f"{file} exists and is not a run of phasejax, or not a whole one: move it away, or choose another "
                         "--out.")  # fmt: skip
    parent = existing_parent(folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise StoreError(f"{folder} cannot be written to: {parent} is not a folder one may write in.")


def keep_experiment(folder: Path, experiment: Experiment) -> None:
    """Write what is run into a run's folder, which is made if needed."""
    make(folder)
    # A name of its own: several processes may write the experiment of a run they share.
    with atomically(folder / "experiment.toml", folder, unique=f".{uuid.uuid4().hex[:8]}") as temporary:
        temporary.write_text(experiment.to_toml(), "utf-8")
