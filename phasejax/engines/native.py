"""Any `Network` as a C++ kernel for CPUs, compiled on first use for one kind of experiment, called through `jax.ffi`.

The kernel (`native.cc`) holds one student a vector lane, and runs on the thread that calls it: one JAX device a core
makes use of all of them. Widths, activations, loss, rule and batch size are compiled in; every number of a cell is an
argument.
"""

import functools
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from phasejax import names
from phasejax.experiment import Experiment
from phasejax.kernels import build, native
from phasejax.optimizers import BUILT_IN, Optimizer
from phasejax.state import Advance, Batches, Cells, Clock, State, Task
from phasejax.tasks import loss_of

name = "native"

_Moments = optax.TraceState | optax.ScaleByAdamState


class _Kind(NamedTuple):
    """What tells one program from another, beside its kernel."""

    layers: tuple[str, ...]
    """From the one on that the data are given on."""
    trained: frozenset[str]
    optimizer: Optimizer
    summed: bool
    outputs: int
    """Nodes of the last layer; 0 if targets are labels."""


def why_not(experiment: Experiment, devices: Sequence[Any]) -> str | None:
    """A sentence why this engine does not apply to an experiment, or None if it does: then the kernel has been built."""
    if devices[0].platform != "cpu":
        return "it is for CPUs"
    if experiment.sgd.optimizer not in BUILT_IN:
        return f"the optimizer {names.name_of(experiment.sgd.optimizer)} is Python of your own"
    if reason := native.unknown(experiment.network, loss_of(experiment.task)):
        return reason
    try:
        _target(experiment)
    except build.BuildError as error:
        return f"its kernel could not be built: {' '.join(str(error).split())}"
    return None


def _layers(experiment: Experiment) -> range:
    """Numbers of the layers that batches enter: frozen ones before them have been applied to data of a seed's own."""
    first = min(experiment.network.trainable) if hasattr(experiment.task, "draw") else 1
    return range(first, len(experiment.network.widths))


def _target(experiment: Experiment) -> str:
    read = experiment.optimizer.read
    rule = "Adam" if experiment.sgd.optimizer == "adam" else "Momentum" if "momentum" in read else "Sgd"
    macros = native.sizes(
        experiment.network, loss_of(experiment.task), _layers(experiment), RULE=rule, DECAY=int("weight_decay" in read),
        SUMMED=int(not experiment.plain), BATCH=experiment.sgd.batch_size, MEAN_GRADIENT=0,
    )  # fmt: skip
    return build.target("native.cc", "advance", experiment.precision, **macros)


def advance(experiment: Experiment, devices: Sequence[Any]) -> Advance:
    """The `advance` of one shard for an experiment to which this engine applies."""
    network = experiment.network
    outputs = 0 if native.labelled(loss_of(experiment.task)) else network.widths[-1]
    kind = _Kind(tuple(map(str, _layers(experiment))), frozenset(network.trained), experiment.optimizer,
                 not experiment.plain, outputs)  # fmt: skip
    return _advance(_target(experiment), kind)


@functools.lru_cache(maxsize=64)
def _advance(target: str, kind: _Kind) -> Advance:
    def advance(state: State, tasks: Task, batches: Batches, cells: Cells, clock: Clock) -> State:
        dtype = state.loss_sum.dtype
        if tasks.own:
            x, y, indices = batches.features, batches.targets, jnp.zeros((1, 1, 1), jnp.int32)
        else:
            x, y, indices = tasks.features, tasks.targets, batches.indices
        if kind.outputs:
            y = jnp.broadcast_to(y.astype(dtype), (*y.shape[:-1], kind.outputs))
        factors = jnp.ones(1, dtype) if isinstance(clock.factors, tuple) else clock.factors

        moments = [part for part in _parts(state.moments) if isinstance(part, _Moments)]
        slots = [state.weights, *(array for part in moments for array in _arrays(part))]
        slots += [state.gradient_sum] if kind.summed else []
        given: list[Any] = [state.loss_sum, state.diverged_step]
        changed = [0, 1]
        given += [_numbers(kind.optimizer, cells, dtype), factors, x, y, indices, clock.step, clock.first, clock.steps]
        for layer in kind.layers:
            if layer in kind.trained:
                changed += range(len(given), len(given) + len(slots))
                given += [slot[layer] for slot in slots]
            else:
                given.append(tasks.frozen[layer])
        given += [part.count for part in moments if isinstance(part, optax.ScaleByAdamState)]

        shapes = [jax.ShapeDtypeStruct(given[k].shape, given[k].dtype) for k in changed]
        call = jax.ffi.ffi_call(target, shapes, input_output_aliases={k: place for place, k in enumerate(changed)})
        loss_sum, diverged, *arrays = call(*given)
        trained = [layer for layer in kind.layers if layer in kind.trained]
        weights, *others = (dict(zip(trained, arrays[k :: len(slots)], strict=True)) for k in range(len(slots)))
        gradient_sum = others.pop() if kind.summed else {}

        def trained_on(part: Any) -> Any:
            if isinstance(part, optax.TraceState):
                return optax.TraceState(*others)
            if isinstance(part, optax.ScaleByAdamState):
                return optax.ScaleByAdamState(part.count + clock.steps, *others)
            return part

        return state._replace(
            weights=weights,
            moments=jax.tree.map(trained_on, state.moments, is_leaf=lambda part: isinstance(part, _Moments)),
            gradient_sum=gradient_sum,
            loss_sum=loss_sum,
            diverged_step=diverged,
        )

    return advance


def _parts(moments: Any) -> list[Any]:
    return jax.tree.leaves(moments, is_leaf=lambda part: isinstance(part, _Moments))


def _arrays(part: _Moments) -> tuple[Any, ...]:
    return (part.trace,) if isinstance(part, optax.TraceState) else (part.mu, part.nu)


def _numbers(optimizer: Optimizer, cells: Cells, dtype: Any) -> Array:
    """The numbers of the rule in the order of the kernel's, (number, cell)."""
    keywords = inspect.signature(optimizer.factory).parameters
    given: dict[str, Any] = {name: keyword.default for name, keyword in keywords.items()}
    given |= dict.fromkeys(optimizer.zero, 0.0) | {name: cells.numbers[name] for name in optimizer.read}
    if optimizer.factory is BUILT_IN["adam"]:
        # What b leaves of one is rounded once where b is Python's own number, as optax does it.
        rows = [given["learning_rate"], *(row for b in (given["b1"], given["b2"]) for row in (b, 1 - b)), given["eps"]]
    else:
        rows = [given[name] for name in ("learning_rate", "momentum", "weight_decay")
                if name == "learning_rate" or name in optimizer.read]  # fmt: skip
    return jnp.stack([jnp.broadcast_to(jnp.asarray(row, dtype), cells.start.shape) for row in rows])
