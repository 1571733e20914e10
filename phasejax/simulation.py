"""`simulate(experiment)` -> Dataset: the loop that joins training and files."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from phasejax import engines, observables
from phasejax.checks import refuse, shown
from phasejax.engines import Engine
from phasejax.ensemble import MATMUL_PRECISION
from phasejax.experiment import Experiment
from phasejax.files import reading, slabs
from phasejax.files.durable import StoreError
from phasejax.files.folder import Store, keep_experiment
from phasejax.files.layout import paths
from phasejax.files.netcdf import Record
from phasejax.files.reading import finished
from phasejax.files.slabs import Shard
from phasejax.files.state import Checkpoint, require
from phasejax.files.variables import opened
from phasejax.identity import Identity, identify
from phasejax.kernels.build import stand_ins
from phasejax.kernels.linalg import used_for
from phasejax.observables import Observable
from phasejax.observables.standard import standard
from phasejax.progress import bar, doing, say, watched
from phasejax.provenance import commit, compiled_by, device_name, versions
from phasejax.schedule import Stop
from phasejax.starts import FromRun
from phasejax.training import Training, settings_of

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "xarray", "netCDF4")
# Calls are cut so that one ends about so long after it was begun: nothing that is asked of a run waits longer.
_CALL_SECONDS = 3.0


class Interrupted(Exception):
    """A run stopped before its end because it was asked to; its checkpoint is written, and `resume=True` goes on."""


def simulate(
    experiment: Experiment | str,
    out: str | Path | None = None,
    *,
    observe: Sequence[str | Observable] | None = None,
    engine: str | Engine = "auto",
    devices: Sequence[Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    shard: Shard | tuple[int, int] | None = None,
    progress: bool | None = None,
    checkpoint_seconds: float = 30.0,
    interrupted: Callable[[], bool] = lambda: False,
) -> xr.Dataset:
    """Train the whole ensemble and return its records.

    Args:
        experiment: what to run, or the name of a preset.
        out: where the netCDF file goes, `runs/desk` or `runs/desk.nc`; None keeps the result in memory.
        observe: what is recorded, in place of the experiment's own: names, and observables of your own; "standard" among
            them stands for all of the package's.
        engine: how to advance students: a name, "auto" for the fastest that applies, or an engine of your own.
        devices: JAX devices over which seeds are spread; None takes all there are, with CPUs one a core.
        resume: go on with the run in `out`, from its last checkpoint. A finished one is returned as it is, or made longer if
            the experiment differs from it in `schedule.steps` only.
        overwrite: delete what is in `out`; with `shard` only its own slab.
        shard: (i, n) trains the i-th, from 0, of n slabs of seeds, in a folder of its own under `out`; once all are there,
            `phasejax.merge` makes the one file.
        progress: show a progress bar on standard error, and name the engine; None does so in terminals and notebooks.
        checkpoint_seconds: a checkpoint is written after the first call after this many seconds.
        interrupted: asked every few seconds; once it says True a checkpoint is written and `Interrupted` raised.

    Returns:
        A Dataset with dims (step, the axes of the grid, seed), (step, temperature, sigma_w, seed) for the paper's, further
        ones for vectors (level) and for what is recorded more rarely (step_decades, step_ends). With `out` it is opened from
        the file, lazily; with `shard` it has what all slabs have so far.

    Raises:
        ExperimentError: the engine does not apply, JAX does not start, an observable fails or its name is taken, or there is
            no such shard.
        StoreError: `out` exists, cannot be written to, holds another experiment, or the disk is too small.
        Interrupted: `interrupted` said so, or Ctrl-C was pressed; a second Ctrl-C is a KeyboardInterrupt. Whatever else ends
            a run, its last state is written if it can be.
    """
    experiment = Experiment.preset(experiment) if isinstance(experiment, str) else experiment
    if observe is not None:
        experiment = dataclasses.replace(experiment, observe=tuple(observe))
    if out is None:
        if shard:
            raise refuse("out", None, "a shard needs an output, which it shares with the others")
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            simulate(experiment, run, engine=engine, devices=devices, progress=progress,
                     checkpoint_seconds=checkpoint_seconds, interrupted=interrupted).close()  # fmt: skip
            with opened(paths(run)[1]) as found:
                return found.load()

    pieces = slabs.plan(out, experiment, shard and Shard(*shard), resume, overwrite)
    if not pieces:
        return slabs.finish(out, shard is None, progress)
    experiment.require_resolved()
    folder, _ = paths(out)
    progress = watched() if progress is None else progress
    on = list(devices or all_devices())
    with settings_of(experiment), _on_ctrl_c(interrupted) as asked:
        chosen = observables.choose(experiment, standard(experiment.network, experiment.task, experiment.schedule.weights))
        trained_by, passed_over = engines.choose(experiment, engine, on)
        if progress:
            say(f"engine {trained_by.name} on {device_name(on)}. {passed_over}".strip())
        with doing("tracing", progress):
            identity = identify(experiment, trained_by, chosen.observables, on)
        attributes = _attributes(experiment, trained_by.name, on, identity, chosen.left_out)
        said: set[str] = set()
        for piece in pieces:
            if resume and finished(piece.out, piece.experiment):
                continue  # by another process, while this one trained the pieces before
            given = None
            if isinstance(experiment.start, FromRun):
                given = reading.weights_to_start_from(experiment.start, piece.experiment)
            with doing("compiling", progress):
                advance = trained_by.advance(piece.experiment, on)
                training = Training(piece.experiment, advance, chosen.observables, on, given, identity.programs)
                space = _space(piece.experiment, *training.ensemble.check(piece.experiment, chosen.observables))
            for sentence in set(stand_ins()) - said:
                said.add(sentence)
                if progress and sentence.partition(" could not be built: ")[2] in passed_over:
                    continue  # it has just been said
                words = f"{sentence}. Slower code of the libraries takes its place."
                say(words) if progress else warnings.warn(words, stacklevel=2)
            if piece.out != folder:
                keep_experiment(folder, experiment)
            matrices = {name: w.shape[2:] for name, w in training.state.weights.items() if w.ndim == 4}
            own = attributes | {
                "experiment": piece.experiment.to_toml(),
                "stand_ins": "; ".join(stand_ins()),
                "spectra": used_for(matrices, on[0].platform == "cpu"),
            }
            with Store(piece.out, piece.experiment, chosen.observables, own, identity, resume, overwrite, space) as files:
                if progress and files.left_by:
                    say(f"{files.left_by} is gone and left {files.folder}: going on with it.")
                checkpoint = files.latest()
                if piece.source and not checkpoint:
                    files.take_over(piece.source)
                    checkpoint = files.latest()
                _Run(training, files, checkpoint, progress, checkpoint_seconds, asked).to_the_end()
                files.consolidate(progress)
    return slabs.finish(out, shard is None, progress)


def all_devices() -> Sequence[Any]:
    """All JAX devices; with CPUs every core this process may use is one, if JAX has not started without them."""
    cores = len(os.sched_getaffinity(0))
    said = jax.config.values["jax_num_cpu_devices"] not in (
        None,
        -1,
    ) or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not said:
        try:
            jax.config.update("jax_num_cpu_devices", cores)
        except RuntimeError:  # JAX has started
            if jax.devices()[0].platform == "cpu" and len(jax.devices()) < cores:
                warnings.warn(
                    f"JAX has started with {len(jax.devices())} of this machine's {cores} cores, and phasejax uses as many: "
                    f'jax.config.update("jax_num_cpu_devices", {cores}) before anything else takes all.',
                    stacklevel=3,
                )
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = shown(str(error).partition("\n")[0]) or "it has no such device"
        raise refuse("JAX_PLATFORMS", jax.config.values["jax_platforms"], f"JAX does not start there: {reason}") from None


@contextlib.contextmanager
def _on_ctrl_c(interrupted: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Ask for the end of the run at Ctrl-C, if nobody else listens to it; a second one is the usual KeyboardInterrupt."""
    pressed: list[int] = []
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def handler(number: int, frame: Any) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(number)

    if ours:
        signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(pressed) or interrupted()
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _space(experiment: Experiment, record_bytes: Mapping[str, int], state_bytes: int) -> int:
    """Bytes that a run takes at most: segments and the finished file, which has them once more, and four states."""
    due = [when for stop in experiment.stops() if stop.record for when in stop.occasions()]
    return 2 * sum(due.count(when) * size for when, size in record_bytes.items()) + 4 * state_bytes


def _attributes(
    experiment: Experiment, engine: str, devices: Sequence[Any], identity: Identity, left_out: Sequence[str]
) -> dict[str, str]:
    """Global attributes that say what made a file; the experiment among them is enough to make it again."""
    return {
        "title": "Phases of stochastic gradient descent: an ensemble of neural networks",
        "Conventions": "CF-1.11",
        "references": "Park, Lucini, Aarts, arXiv:2509.01349",
        "experiment": experiment.to_toml(),
        "axes": " ".join(experiment.grid.axes),
        "not_recorded": "; ".join(left_out),
        "phasejax_version": importlib.metadata.version("phasejax"),
        "versions": versions(_PACKAGES),
        "compiled_by": compiled_by(),
        "commit": commit(),
        "identity": identity.whole,
        "programs": identity.programs,
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
        training: Training,
        files: Store,
        checkpoint: Checkpoint | None,
        progress: bool,
        checkpoint_seconds: float,
        interrupted: Callable[[], bool],
    ) -> None:
        self._training, self._files = training, files
        self._checkpoint_seconds, self._interrupted = checkpoint_seconds, interrupted
        if checkpoint is not None:
            require(checkpoint, training.arrays(), training.experiment.grid.seeds, files.folder)
            training.restore(checkpoint.leaves, checkpoint.step, checkpoint.marked_step)
        self._stops = [stop for stop in training.experiment.stops() if checkpoint is None or stop.step > training.step]
        self._began_at, self._began, self._saved = training.step, time.monotonic(), time.monotonic()
        self._steps_per_call = 1
        self._running: tuple[int, float, jax.Array | None] = (0, 0.0, None)
        self._records: list[tuple[int, dict[str, jax.Array]]] = []
        steps = training.experiment.schedule.steps
        self._bar = bar(total=steps, initial=training.step, unit="step", disable=not (progress and watched()))

    def to_the_end(self) -> None:
        """Do every stop after the checkpoint."""
        with self._bar:
            try:
                self._climb()
            except (Interrupted, StoreError):
                raise
            except BaseException:
                # Whatever it was, the way so far need not be lost. A state in the midst of a call cannot be read, and a stop
                # that is done in part must be done again.
                if self._whole:
                    with contextlib.suppress(Exception):
                        self._commit()
                raise

    def _climb(self) -> None:
        training = self._training
        self._whole = True
        for stop in self._stops:
            while training.step < stop.step:
                self._call(stop.step)
                if training.step < stop.step:
                    self._breathe()
            self._whole = False
            if stop.record:
                self._observe(stop)
            if stop.mark:
                training.mark()
            self._whole = True
            self._breathe(last=stop is self._stops[-1])

    def _call(self, step: int) -> None:
        """Train towards `step`, for as long as a call may take, and wait for the call before.

        So a device has the next call while the host does what is due after the last one.
        """
        self._whole = False
        began = time.monotonic()
        steps = self._training.call(min(step - self._training.step, self._steps_per_call))
        # Steps that end at a stop are whole once what is due there is done.
        self._whole = self._training.step < step
        (before, since, ended), self._running = self._running, (steps, began, self._training.ended())
        jax.block_until_ready(ended)
        # What a student does does not depend on where its steps are cut into calls, so the clock may decide.
        self._steps_per_call = max(1, int(before * _CALL_SECONDS / (time.monotonic() - since)))

    def _breathe(self, last: bool = False) -> None:
        """Between calls: write a checkpoint when it is time, stop if asked to, and show how far it is."""
        self._files.tell(self._training.step, self._speed())
        leaving = not last and self._interrupted()
        if leaving or last or time.monotonic() - self._saved > self._checkpoint_seconds:
            self._commit()
        step, experiment = self._training.step, self._training.experiment
        if leaving:
            raise Interrupted(f"stopped at step {step:,} of {experiment.schedule.steps:,}")
        self._bar.set_postfix_str(f"{self._speed() * experiment.students:.2e} student-steps/s", False)
        self._bar.update(step - self._bar.n)

    def _speed(self) -> float:
        """Steps per second since this process began or resumed."""
        return (self._training.step - self._began_at) / max(time.monotonic() - self._began, 1e-9)

    def _observe(self, stop: Stop) -> None:
        values = self._training.observe(stop)
        for array in values.values():
            array.copy_to_host_async()
        self._records.append((stop.step, values))

    def _commit(self) -> None:
        """Write the records since the last commit, and the state.

        Not beside the training, in a thread: it takes a moment in half a minute.
        """
        seeds, training = self._training.experiment.grid.seeds, self._training
        records = [Record(s, {n: np.array(v)[:seeds] for n, v in values.items()}) for s, values in self._records]
        self._files.commit(records, Checkpoint(training.step, training.marked_step, training.leaves(), self._speed()))
        self._records, self._saved = [], time.monotonic()
