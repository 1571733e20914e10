"""All students at once: the State pytree, and the compiled functions that make, advance and observe it.

Students are laid out (seed, temperature, sigma_w). The seed axis is sharded over a one-dimensional mesh of devices, and
students never talk to each other. On a CPU each shard takes its seeds one after another, so that the arithmetic of a
seed is the same, to the bit, whatever runs beside it.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from phasejax.experiment import Experiment, Grid, Schedule
from phasejax.observables import Observable, view
from phasejax.sgd import optimiser
from phasejax.task import Batches, Task, make_batches, make_task, start

# Counts how often each function is traced, by name: a change of temperatures, sigma_W, labels or steps must not add one.
traces: dict[str, int] = {}


class State(NamedTuple):
    """The training state of an ensemble; leading axes (seed, temperature, sigma_w) wherever none are given."""

    weights: tuple[Array, ...]
    """Trained layers, (..., n_l, n_(l-1)) each."""
    moments: Any
    """The optimiser's own state (optax), one a student."""
    mark: tuple[Array, ...]
    """Weights when the averaging window was opened."""
    gradient_sum: tuple[Array, ...]
    """Sum of batch gradients since the mark; empty for plain SGD, where the displacement from the mark says it."""
    loss_sum: Array
    """Sum of batch losses, each before its update, since the mark."""
    diverged_step: Array
    """int32: the first update whose batch loss was not finite; -1 while there is none."""


# One shard's (state, tasks, batches, learning rates, step, first batch, number of steps) -> state.
Advance = Callable[[State, Task, Batches, Array, Array, Array, Array], State]


def initial_state(experiment: Experiment, task: Task, sigma_w: Array) -> State:
    """One seed's students at step 0 with the given (sigma_w,) scales, leading axes (temperature, sigma_w)."""
    column = jax.vmap(lambda sigma: start(experiment.network, task, sigma))(sigma_w)
    shape = (len(experiment.learning_rates), sigma_w.shape[0])
    weights = tuple(jnp.broadcast_to(w[None], (shape[0], *w.shape)) for w in column)
    # A learning rate does not enter an optimiser's initial state.
    moments = jax.vmap(jax.vmap(optimiser(experiment.sgd, 0.0).init))(weights)
    sums = () if experiment.sgd.plain else tuple(jnp.zeros_like(w) for w in weights)
    return State(weights, moments, weights, sums, jnp.zeros(shape, sigma_w.dtype), jnp.full(shape, -1, jnp.int32))


def each_seed(on_cpu: bool, one_seed: Callable, *stacked: Any) -> Any:
    """Apply a function of one seed to pytrees with a leading seed axis.

    On a CPU one after another: a seed stays in cache, and its arithmetic cannot depend on its neighbours. On a GPU they
    must run side by side, and XLA may round a seed differently beside others.
    """
    return jax.lax.map(lambda args: one_seed(*args), stacked) if on_cpu else jax.vmap(one_seed)(*stacked)


@dataclass(frozen=True)
class Ensemble:
    """The compiled functions of one kind of experiment on one set of devices. The arrays they take are

    `learning_rates` (temperature,), `sigma_w` (sigma_w,), both in the experiment's precision; `step`, `start`, `n_steps`,
    `window` and `first_epoch` int32 scalars; `labels` int32 (seed,), as many as `pad` says.
    """

    devices: int
    place: Callable[[np.ndarray], Array]
    """Put an array with a leading seed axis on the devices."""
    tasks: Callable[[Array], Task]
    """labels -> tasks."""
    init: Callable[[Task, Array], State]
    """(tasks, sigma_w) -> state at step 0."""
    batches: Callable[[Task, Array], Batches]
    """(tasks, first_epoch) -> the batches of a block of epochs."""
    advance: Callable[[State, Task, Batches, Array, Array, Array, Array], State]
    """(state, tasks, batches, learning_rates, step, start, n_steps) -> state; the given state's buffers are used up."""
    mark: Callable[[State], State]
    """state -> state with its averaging window opened anew; the given state's buffers are used up."""
    observe: dict[str, Callable[..., dict[str, Array]]]
    """By occasion: (state, tasks, learning_rates, sigma_w, step, window) -> {name: (seed, temperature, sigma_w, ...)};
    for "once": tasks -> {name: (seed, ...)}."""

    def pad(self, labels: Sequence[int]) -> np.ndarray:
        """Labels filled up with further ones until every device has equally many, and at least two.

        (With a single seed XLA unrolls the loop over seeds and may round differently.)
        """
        each = max(2, -(-len(labels) // self.devices))
        extra = range(max(labels) + 1, max(labels) + 1 + each * self.devices - len(labels))
        return np.array([*labels, *extra], np.int32)


def build(experiment: Experiment, advance: Advance, observables: Sequence[Observable], devices: Sequence[Any]) -> Ensemble:
    """The compiled functions for an experiment.

    Experiments that differ only in the values (not the number) of temperatures, sigma_W and seed labels, or in the
    schedule, share them.
    """
    kind = replace(
        experiment,
        schedule=Schedule(),
        grid=Grid(
            temperatures=() if experiment.grid.learning_rates else _counting(experiment.grid.temperatures),
            learning_rates=_counting(experiment.grid.learning_rates),
            sigma_w=_counting(experiment.grid.sigma_w),
            seeds=1,
        ),
    )
    return _build(kind, advance, tuple(observables), tuple(devices))


def _counting(axis: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(k) for k in range(1, len(axis) + 1))


@functools.lru_cache(maxsize=16)
def _build(
    experiment: Experiment, advance: Advance, observables: tuple[Observable, ...], devices: tuple[Any, ...]
) -> Ensemble:
    mesh = jax.make_mesh((len(devices),), ("seed",), axis_types=(AxisType.Auto,), devices=devices)
    seed, everywhere = PartitionSpec("seed"), PartitionSpec()
    on_cpu = devices[0].platform == "cpu"

    def sharded(name: str, function: Callable, specs: tuple, donate: tuple[int, ...] = ()) -> Callable:
        def traced(*args: Any) -> Any:
            traces[name] = traces.get(name, 0) + 1
            return function(*args)

        mapped = jax.shard_map(traced, mesh=mesh, in_specs=specs, out_specs=seed, check_vma=False)
        return jax.jit(mapped, donate_argnums=donate)

    def mark(state: State) -> State:
        cleared = jax.tree.map(jnp.zeros_like, (state.gradient_sum, state.loss_sum))
        return state._replace(mark=jax.tree.map(jnp.copy, state.weights), gradient_sum=cleared[0], loss_sum=cleared[1])

    def observe(chosen: list[Observable]) -> Callable:
        def of_student(state: State, task: Task, rate: Array, sigma: Array, step: Array, window: Array) -> dict[str, Array]:
            student = view(experiment.network, state, task, rate, sigma, step, window)
            return {o.name: o.function(student, task) for o in chosen}

        cells = jax.vmap(of_student, in_axes=(0, None, None, 0, None, None))
        cells = jax.vmap(cells, in_axes=(0, None, 0, None, None, None))

        def of_shard(state: State, tasks: Task, rates: Array, sigmas: Array, step: Array, window: Array) -> dict[str, Array]:
            return each_seed(on_cpu, lambda s, t: cells(s, t, rates, sigmas, step, window), state, tasks)

        return of_shard

    def observe_tasks(tasks: Task) -> dict[str, Array]:
        return each_seed(on_cpu, lambda task: {o.name: o.function(task) for o in observables if o.when == "once"}, tasks)

    state_specs = (seed, seed, everywhere, everywhere, everywhere, everywhere)
    occasions = {when: [o for o in observables if o.when == when] for when in ("records", "decades", "ends")}
    return Ensemble(
        devices=len(devices),
        place=lambda array: jax.device_put(array, NamedSharding(mesh, seed)),
        tasks=sharded(
            "tasks", lambda labels: each_seed(on_cpu, lambda label: make_task(experiment, label), labels), (seed,)
        ),
        init=sharded(
            "init",
            lambda tasks, sigma_w: each_seed(on_cpu, lambda task: initial_state(experiment, task, sigma_w), tasks),
            (seed, everywhere),
        ),
        batches=sharded(
            "batches",
            lambda tasks, epoch: each_seed(on_cpu, lambda task: make_batches(experiment, task, epoch), tasks),
            (seed, everywhere),
        ),
        advance=sharded("advance", advance, (seed, seed, seed, *(everywhere,) * 4), donate=(0,)),
        mark=sharded("mark", mark, (seed,), donate=(0,)),
        observe={
            when: sharded(f"observe {when}", observe(chosen), state_specs) for when, chosen in occasions.items() if chosen
        }
        | {"once": sharded("observe once", observe_tasks, (seed,))},
    )
