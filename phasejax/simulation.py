"""`simulate(experiment)` -> Dataset: the loop that joins ensemble, engine and files."""

import datetime
import importlib.metadata
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm import tqdm

from phasejax import engines, observables
from phasejax.ensemble import MATMUL_PRECISION, Ensemble, State, build
from phasejax.experiment import EngineName, Experiment, Stop, refuse
from phasejax.files import slabs
from phasejax.files.folder import Store, keep_experiment
from phasejax.files.layout import paths
from phasejax.files.netcdf import Record
from phasejax.files.reading import finished
from phasejax.files.slabs import Shard
from phasejax.files.state import Checkpoint, require
from phasejax.observables import Observable
from phasejax.provenance import commit, device_name, source, versions
from phasejax.task import Task

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "xarray", "netCDF4")
# A call is cut so that it ends after about this long: nothing that is asked of a run waits longer.
_CALL_SECONDS = 3.0


class Interrupted(Exception):
    """A run stopped before its end because it was asked to; its checkpoint is written."""


def simulate(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    observe: Sequence[Observable] = (),
    engine: EngineName = "auto",
    devices: Sequence[Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    shard: Shard | tuple[int, int] | None = None,
    progress: bool = False,
    checkpoint_seconds: float = 30.0,
    interrupted: Callable[[], bool] = lambda: False,
) -> xr.Dataset:
    """Train the whole ensemble and return its records.

    Args:
        experiment: what to run.
        out: where the netCDF file goes, `runs/desk` or `runs/desk.nc`; None keeps the result in memory.
        observe: observables of your own, recorded beside the standard ones.
        engine: how to advance students; "auto" takes the fastest that applies.
        devices: JAX devices over which seeds are spread; None takes all there are.
        resume: go on with the run in `out`, from its last checkpoint; a finished one is returned as it is.
        overwrite: delete what is in `out`; with `shard` only its own slab.
        shard: (i, n) trains the i-th, from 0, of n slabs of seeds, in a folder of its own under `out`; once all are there,
            `phasejax.files.slabs.merge` makes the one file.
        progress: show a progress bar on standard error if that is a terminal, and name the engine.
        checkpoint_seconds: a checkpoint is written after the first call after this many seconds.
        interrupted: asked every few seconds; once it says True a checkpoint is written and `Interrupted` raised.

    Returns:
        A Dataset with dims (step, temperature, sigma_w, seed), further ones for vectors (level) and for what is recorded
        more rarely (step_decades, step_ends). With `out` it is opened from the file, lazily; with `shard` it has what all
        slabs have so far.

    Raises:
        ExperimentError: the engine does not apply, an observable's name is taken, or there is no such shard.
        StoreError: `out` exists, cannot be written to, holds another experiment, or the disk is too small.
        Interrupted: `interrupted` said so.
    """
    if out is None:
        if shard:
            raise refuse("out", None, "a shard needs an output, which it shares with the others")
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            simulate(experiment, run, observe=observe, engine=engine, devices=devices, progress=progress,
                     checkpoint_seconds=checkpoint_seconds, interrupted=interrupted).close()  # fmt: skip
            return xr.load_dataset(paths(run)[1])

    pieces = slabs.plan(out, experiment, shard and Shard(*shard), resume, overwrite)
    if not pieces:
        return slabs.finish(out, shard is None)
    folder, _ = paths(out)
    chosen_devices = list(devices or jax.devices())
    chosen = engines.choose(experiment, engine, chosen_devices)
    every = observables.combine(observables.standard(experiment.network), observe)
    attributes = _attributes(experiment, chosen.name, chosen_devices)
    if progress:
        print(f"engine {chosen.name} on {device_name(chosen_devices)}. {chosen.passed_over}".strip(), file=sys.stderr)
    with jax.enable_x64(experiment.precision == "float64"), jax.default_matmul_precision(MATMUL_PRECISION):
        for piece in pieces:
            if resume and finished(piece.out, piece.experiment):
                continue  # by another process, while this one trained the pieces before
            ensemble = build(piece.experiment, chosen.advance, every, chosen_devices)
            space = _space(piece.experiment, *ensemble.check(piece.experiment, every))
            if piece.out != folder:
                keep_experiment(folder, experiment)
            own = attributes | {"experiment": piece.experiment.to_toml()}
            with Store(piece.out, piece.experiment, every, own, resume, overwrite, space) as files:
                if progress and files.left_by:
                    print(f"{files.left_by} is gone and left {files.folder}: going on with it.", file=sys.stderr)
                checkpoint = files.latest()
                if piece.source and not checkpoint:
                    files.take_over(piece.source)
                    checkpoint = files.latest()
                run = _Run(piece.experiment, ensemble, files, checkpoint, progress, checkpoint_seconds, interrupted)
                run.to_the_end()
                files.consolidate()
    return slabs.finish(out, shard is None)


def _space(experiment: Experiment, record_bytes: Mapping[str, int], state_bytes: int) -> int:
    """Bytes that a run takes at most: segments and the finished file, which has them once more, and three states."""
    stops = experiment.stops()
    times = {
        "records": sum(stop.record for stop in stops),
        "decades": sum(stop.decade for stop in stops),
        "ends": sum(stop.end for stop in stops),
        "once": 1,
    }
    return 2 * sum(times[when] * size for when, size in record_bytes.items()) + 3 * state_bytes


def _attributes(experiment: Experiment, engine: str, devices: Sequence[Any]) -> dict[str, str]:
    """Global attributes that say what made a file; the experiment among them is enough to make it again."""
    return {
        "title": "Phases of stochastic gradient descent: an ensemble of teacher-student networks",
        "Conventions": "CF-1.11",
        "references": "Park, Lucini, Aarts, arXiv:2509.01349",
        "experiment": experiment.to_toml(),
        "phasejax_version": importlib.metadata.version("phasejax"),
        "versions": versions(_PACKAGES),
        "commit": commit(),
        "source": source(),
        "device": device_name(devices),
        "engine": engine,
        "precision": experiment.precision,
        "matmul_precision": MATMUL_PRECISION,
        "command_line": shlex.join(sys.orig_argv),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


class _Run:
    """One pass up the ladder of stops."""

    def __init__(
        self,
        experiment: Experiment,
        ensemble: Ensemble,
        files: Store,
        checkpoint: Checkpoint | None,
        progress: bool,
        checkpoint_seconds: float,
        interrupted: Callable[[], bool],
    ) -> None:
        self._experiment, self._ensemble, self._files = experiment, ensemble, files
        self._checkpoint_seconds, self._interrupted = checkpoint_seconds, interrupted
        self._rates = jnp.asarray(experiment.learning_rates, experiment.precision)
        self._sigma_w = jnp.asarray(experiment.grid.sigma_w, experiment.precision)
        labels = ensemble.place(ensemble.pad(experiment.seed_labels))
        self._tasks: Task = ensemble.tasks(labels)
        self._state: State = ensemble.init(self._tasks, self._sigma_w)
        self._step = self._marked_step = 0
        self._stops = experiment.stops()
        if checkpoint is not None:
            self._restore(checkpoint)
            self._stops = [stop for stop in self._stops if stop.step > self._step]
        self._began_at, self._began, self._saved = self._step, time.monotonic(), time.monotonic()
        self._steps_per_call = 1
        self._block: tuple[int, Any] | None = None
        self._records: list[tuple[int, dict[str, jax.Array]]] = []
        self._bar = tqdm(
            total=experiment.schedule.steps, initial=self._step, unit="step", disable=None if progress else True
        )

    def to_the_end(self) -> None:
        """Do every stop after the checkpoint."""
        with self._bar:
            for stop in self._stops:
                while self._step < stop.step:
                    self._call(stop.step)
                    if self._step < stop.step:
                        self._breathe()
                if stop.record:
                    self._observe(stop)
                if stop.mark:
                    self._state, self._marked_step = self._ensemble.mark(self._state), stop.step
                self._breathe(last=stop is self._stops[-1])

    def _call(self, step: int) -> None:
        """Train towards `step`, for as long as a call may take, with the batches of the block of epochs it is in."""
        length = self._experiment.epoch_steps * self._experiment.block_epochs
        number, first = divmod(self._step, length)
        # The cyclic order repeats itself, so its one block serves for the whole run.
        key = 0 if self._experiment.sgd.order == "cyclic" else number
        if self._block is None or self._block[0] != key:
            self._block = None  # let the old batches go before the new ones are made
            epoch = jnp.int32(key * self._experiment.block_epochs)
            self._block = (key, self._ensemble.batches(self._tasks, epoch))
        began, steps = time.monotonic(), min(step - self._step, self._steps_per_call)
        counts = (jnp.int32(self._step), jnp.int32(first), jnp.int32(steps))
        self._state = self._ensemble.advance(self._state, self._tasks, self._block[1], self._rates, *counts)
        jax.block_until_ready(self._state.loss_sum)
        self._step += steps
        # What a student does does not depend on where its steps are cut into calls, so the clock may decide.
        self._steps_per_call = max(1, int(steps * _CALL_SECONDS / max(time.monotonic() - began, 1e-9)))

    def _breathe(self, last: bool = False) -> None:
        """Between calls: write a checkpoint when it is time, stop if asked to, and show how far it is."""
        leaving = not last and self._interrupted()
        if leaving or last or time.monotonic() - self._saved > self._checkpoint_seconds:
            self._commit()
        if leaving:
            raise Interrupted(f"stopped at step {self._step:,} of {self._experiment.schedule.steps:,}")
        self._bar.set_postfix_str(f"{self._speed() * self._experiment.students:.2e} student-steps/s", False)
        self._bar.update(self._step - self._bar.n)

    def _speed(self) -> float:
        """Steps per second since this process began or resumed."""
        return (self._step - self._began_at) / max(time.monotonic() - self._began, 1e-9)

    def _observe(self, stop: Stop) -> None:
        occasions = {"records": True, "decades": stop.decade, "ends": stop.end}
        # A window that had to make way for another one leaves its record without averages.
        updates = self._experiment.window_steps(stop.step)
        window = jnp.int32(updates if stop.step - updates == self._marked_step else 0)
        values: dict[str, jax.Array] = self._ensemble.observe["once"](self._tasks) if stop.step == 0 else {}
        for when, now in occasions.items():
            if now and when in self._ensemble.observe:
                values |= self._ensemble.observe[when](
                    self._state, self._tasks, self._rates, self._sigma_w, jnp.int32(stop.step), window
                )
        for array in values.values():
            array.copy_to_host_async()
        self._records.append((stop.step, values))

    def _commit(self) -> None:
        """Write the records since the last commit, and the state.

        Not beside the training, in a thread: the netCDF library is not safe in two threads, and any dataset of the caller's
        may be closed at any time. It takes a moment in half a minute.
        """
        seeds = self._experiment.grid.seeds
        records = [Record(s, {n: np.array(v)[:seeds] for n, v in values.items()}) for s, values in self._records]
        # Real copies, for the state's buffers are used up by the next call.
        leaves = {name: np.array(leaf)[:seeds] for name, leaf in _named(self._state).items()}
        self._files.commit(records, Checkpoint(self._step, self._marked_step, leaves, self._speed()))
        self._records, self._saved = [], time.monotonic()

    def _restore(self, checkpoint: Checkpoint) -> None:
        initial = _named(self._state)
        require(checkpoint, initial, self._experiment.grid.seeds, self._files.folder)
        leaves = []
        for name, fresh in initial.items():
            # Seeds that only fill up the devices start anew; nobody sees them.
            filled, saved = np.array(fresh), checkpoint.leaves[name]
            filled[: len(saved)] = saved
            leaves.append(self._ensemble.place(filled))
        self._state = jax.tree.unflatten(jax.tree.structure(self._state), leaves)
        self._step, self._marked_step = checkpoint.step, checkpoint.marked_step


def _named(state: State) -> dict[str, jax.Array]:
    """The arrays of a state by their names, `weights/0` for instance, in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
