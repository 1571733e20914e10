"""`simulate(experiment)` -> Dataset: the loop that joins ensemble, engine and store."""

import datetime
import importlib.metadata
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm import tqdm

from phasejax import engines, observables
from phasejax.ensemble import MATMUL_PRECISION, Ensemble, State, build
from phasejax.experiment import EngineName, Experiment, Stop
from phasejax.observables import Observable
from phasejax.provenance import commit, device_name, versions
from phasejax.store import Checkpoint, Record, Store, check, open_run, paths
from phasejax.task import Task

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "xarray", "netCDF4")


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
        overwrite: delete what is in `out`.
        progress: show a progress bar on standard error if that is a terminal, and name the engine.
        checkpoint_seconds: a checkpoint is written at the first stop after this many seconds.
        interrupted: asked at every stop; once it says True a checkpoint is written and `Interrupted` raised.

    Returns:
        A Dataset with dims (step, temperature, sigma_w, seed), further ones for vectors (level) and for what is recorded
        more rarely (step_decades, step_ends). With `out` it is opened from the file, lazily.

    Raises:
        ExperimentError: the engine does not apply, or an observable's name is taken.
        StoreError: `out` exists, cannot be written to, or holds another experiment.
        Interrupted: `interrupted` said so.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            simulate(experiment, run, observe=observe, engine=engine, devices=devices, progress=progress,
                     checkpoint_seconds=checkpoint_seconds, interrupted=interrupted).close()  # fmt: skip
            return xr.load_dataset(paths(run)[1])

    check(out, experiment, resume, overwrite)
    folder, file = paths(out)
    if resume and file.exists():
        return open_run(file)
    chosen_devices = list(devices or jax.devices())
    chosen = engines.choose(experiment, engine, chosen_devices)
    every = observables.combine(observables.standard(experiment.network), observe)
    attributes = _attributes(experiment, chosen.name, chosen_devices)
    with jax.enable_x64(experiment.precision == "float64"), jax.default_matmul_precision(MATMUL_PRECISION):
        ensemble = build(experiment, chosen.advance, every, chosen_devices)
        ensemble.check(experiment, every)
        with Store(out, experiment, every, attributes, resume, overwrite) as store:
            if progress:
                print(
                    f"engine {chosen.name} on {device_name(chosen_devices)}. {chosen.passed_over}".strip(), file=sys.stderr
                )
            _Run(experiment, ensemble, store, progress, checkpoint_seconds, interrupted).to_the_end()
            store.consolidate()
    return open_run(file)


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
        store: Store,
        progress: bool,
        checkpoint_seconds: float,
        interrupted: Callable[[], bool],
    ) -> None:
        self._experiment, self._ensemble, self._store = experiment, ensemble, store
        self._checkpoint_seconds, self._interrupted = checkpoint_seconds, interrupted
        self._rates = jnp.asarray(experiment.learning_rates, experiment.precision)
        self._sigma_w = jnp.asarray(experiment.grid.sigma_w, experiment.precision)
        labels = ensemble.place(ensemble.pad(experiment.seed_labels))
        self._tasks: Task = ensemble.tasks(labels)
        self._state: State = ensemble.init(self._tasks, self._sigma_w)
        self._step = self._marked_step = 0
        checkpoint = store.latest()
        self._resumed = checkpoint is not None
        if checkpoint is not None:
            self._restore(checkpoint)
        self._records: list[tuple[int, dict[str, jax.Array]]] = []
        self._bar = tqdm(
            total=experiment.schedule.steps, initial=self._step, unit="step", disable=None if progress else True
        )

    def to_the_end(self) -> None:
        """Do every stop after the checkpoint, writing in the background what the device has finished."""
        started_at, since = self._step, time.monotonic()
        stops = [stop for stop in self._experiment.stops() if stop.step > started_at or not self._resumed]
        pending: Future[None] | None = None
        block: tuple[int, Any] | None = None
        began = time.monotonic()
        with ThreadPoolExecutor(1) as writer, self._bar:
            for stop in stops:
                block = self._advance_to(stop.step, block)
                if stop.record:
                    self._observe(stop)
                if stop.mark:
                    self._state, self._marked_step = self._ensemble.mark(self._state), stop.step
                leaving = stop is not stops[-1] and self._interrupted()
                if leaving or stop is stops[-1] or time.monotonic() - since > self._checkpoint_seconds:
                    self._wait(pending)
                    pending, since = writer.submit(self._commit_later()), time.monotonic()
                elif pending and pending.done():
                    pending.result()
                if leaving:
                    self._wait(pending)
                    raise Interrupted(f"stopped at step {stop.step:,} of {self._experiment.schedule.steps:,}")
                jax.block_until_ready(self._state.loss_sum)
                self._show(stop.step - started_at, time.monotonic() - began)
            self._wait(pending)

    @staticmethod
    def _wait(pending: Future[None] | None) -> None:
        """Let a write end; a disk that is full, say, is met here."""
        if pending:
            pending.result()

    def _advance_to(self, step: int, block: tuple[int, Any] | None) -> tuple[int, Any] | None:
        """Train up to `step`, in the block of epochs where the last stop was; returns the block's batches for reuse."""
        if step == self._step:
            return block
        length = self._experiment.epoch_steps * self._experiment.block_epochs
        number, first = divmod(self._step, length)
        # The cyclic order repeats itself, so its one block serves for the whole run.
        key = 0 if self._experiment.sgd.order == "cyclic" else number
        if block is None or block[0] != key:
            block = None  # let the old batches go before the new ones are made
            epoch = jnp.int32(key * self._experiment.block_epochs)
            block = (key, self._ensemble.batches(self._tasks, epoch))
        counts = (jnp.int32(self._step), jnp.int32(first), jnp.int32(step - self._step))
        self._state = self._ensemble.advance(self._state, self._tasks, block[1], self._rates, *counts)
        self._step = step
        return block

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

    def _commit_later(self) -> Callable[[], None]:
        """What the writer has to do for this moment's records and state; training may go on meanwhile."""
        seeds, records = self._experiment.grid.seeds, self._records
        # The state's buffers are about to be used up by the next call, so the writer gets copies.
        leaves = [jnp.copy(leaf) for leaf in jax.tree.leaves(self._state)]
        step, marked_step = self._step, self._marked_step
        self._records = []

        def commit() -> None:
            on_host = [Record(s, {n: np.array(v)[:seeds] for n, v in values.items()}) for s, values in records]
            self._store.commit(on_host, Checkpoint(step, marked_step, [np.array(leaf)[:seeds] for leaf in leaves]))

        return commit

    def _restore(self, checkpoint: Checkpoint) -> None:
        initial, structure = jax.tree.flatten(self._state)
        leaves = []
        for fresh, saved in zip(initial, checkpoint.leaves, strict=True):
            # Seeds that only fill up the devices start anew; nobody sees them.
            filled = np.array(fresh)
            filled[: len(saved)] = saved
            leaves.append(self._ensemble.place(filled))
        self._state = jax.tree.unflatten(structure, leaves)
        self._step, self._marked_step = checkpoint.step, checkpoint.marked_step

    def _show(self, steps: int, seconds: float) -> None:
        self._bar.set_postfix_str(f"{steps * self._experiment.students / max(seconds, 1e-9):.2e} student-steps/s", False)
        self._bar.update(self._step - self._bar.n)
