"""The paper's topology as a C++ kernel for CPUs, compiled on first use for one network shape, called through `jax.ffi`.

The kernel (`kernels/native.cc`) holds one student a vector lane, and runs on the thread that calls it: one JAX device a core
makes use of all of them.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.engines import fused
from phasejax.ensemble import Advance, State
from phasejax.experiment import Experiment
from phasejax.kernels import build
from phasejax.task import Batches, Task


def why_not(experiment: Experiment, on_cpu: bool) -> str | None:
    """A sentence why this engine does not apply to an experiment, or None if it does: then the kernel has been built."""
    reason = None if on_cpu else "it is for CPUs"
    reason = reason or fused.why_not(experiment)
    if reason is None:
        try:
            _target(experiment)
        except build.BuildError as error:
            reason = f"its kernel could not be built: {' '.join(str(error).split())}"
    return reason


def _target(experiment: Experiment) -> str:
    n1, n2 = experiment.network.widths[-3:-1]
    return build.target("native.cc", "advance", experiment.precision, N1=n1, N2=n2, BATCH=experiment.sgd.batch_size)


def engine(experiment: Experiment) -> Advance:
    """The `advance` of one shard for an experiment to which this engine applies."""
    return _engine(_target(experiment))


@functools.cache
def _engine(target: str) -> Advance:
    def advance(
        state: State, tasks: Task, batches: Batches, rates: Array, step: Array, first: Array, n_steps: Array
    ) -> State:
        weights = state.weights[0]
        seeds, temperatures, sigmas, n2, n1 = weights.shape
        # The kernel knows seeds and cells only; these reshapes move nothing.
        cells = (
            weights.reshape(seeds, -1, n2, n1),
            state.loss_sum.reshape(seeds, -1),
            state.diverged_step.reshape(seeds, -1),
        )
        call = jax.ffi.ffi_call(target, cells, input_output_aliases={0: 0, 1: 1, 2: 2})
        w, loss_sum, diverged = call(
            *cells, batches.features, batches.targets[..., 0], tasks.teacher[-1][:, 0], jnp.repeat(rates, sigmas),
            step, first, n_steps,
        )  # fmt: skip
        shape = (seeds, temperatures, sigmas)
        return state._replace(
            weights=(w.reshape(weights.shape),), loss_sum=loss_sum.reshape(shape), diverged_step=diverged.reshape(shape)
        )

    return advance
