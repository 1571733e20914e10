"""The paper's topology as a C++ kernel for CPUs, compiled on first use for one network shape, called through `jax.ffi`.

The kernel (`native.cc`) holds one student a vector lane, and runs on the thread that calls it: one JAX device a core
makes use of all of them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from phasejax.engines import fused
from phasejax.experiment import Experiment
from phasejax.kernels import build
from phasejax.state import Advance, Batches, Cells, Clock, State, Task

name = "native"


def why_not(experiment: Experiment, devices: Sequence[Any]) -> str | None:
    """A sentence why this engine does not apply to an experiment, or None if it does: then the kernel has been built."""
    reason = None if devices[0].platform == "cpu" else "it is for CPUs"
    reason = reason or fused.why_not(experiment)
    if reason is None:
        try:
            build.target(*_kernel(experiment)[:3], **_kernel(experiment)[3])
        except build.BuildError as error:
            reason = f"its kernel could not be built: {' '.join(str(error).split())}"
    return reason


def _kernel(experiment: Experiment) -> tuple[str, str, str, dict[str, int]]:
    n1, n2 = experiment.network.widths[-3:-1]
    return "native.cc", "advance", experiment.precision, {"N1": n1, "N2": n2, "BATCH": experiment.sgd.batch_size}


def advance(experiment: Experiment, devices: Sequence[Any]) -> Advance:
    """The `advance` of one shard for an experiment to which this engine applies."""
    source, kernel, precision, sizes = _kernel(experiment)
    (trained,) = experiment.network.trained
    return _advance(build.target(source, kernel, precision, **sizes), trained, experiment.network.readout)


@functools.cache
def _advance(target: str, trained: str, last: str) -> Advance:
    def advance(state: State, tasks: Task, batches: Batches, cells: Cells, clock: Clock) -> State:
        students = (state.weights[trained], state.loss_sum, state.diverged_step)
        call = jax.ffi.ffi_call(target, students, input_output_aliases={0: 0, 1: 1, 2: 2})
        w, loss_sum, diverged = call(
            *students, batches.features, batches.targets[..., 0], tasks.frozen[last][:, 0], cells.numbers["learning_rate"],
            clock.step, clock.first, clock.steps,
        )  # fmt: skip
        return state._replace(weights={trained: w}, loss_sum=loss_sum, diverged_step=diverged)

    return advance
