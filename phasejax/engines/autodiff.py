"""The reference engine: nested vmap of jax.grad, for any network, loss and optax optimizer."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from phasejax.ensemble import each
from phasejax.experiment import Experiment
from phasejax.optimizers import Optimizer
from phasejax.seed import batch
from phasejax.state import Advance, Batches, Cells, Clock, State, Task, Weights
from phasejax.tasks import mean_loss_of

name = "autodiff"


def why_not(experiment: Experiment, devices: Sequence[Any]) -> str | None:
    """It applies to everything."""
    return None


def advance(experiment: Experiment, devices: Sequence[Any]) -> Advance:
    """The `advance` of one shard; equal parts of an experiment give the very same function."""
    on_cpu = devices[0].platform == "cpu"
    return _advance(experiment.network, experiment.task, experiment.optimizer, not experiment.plain, on_cpu)


@functools.lru_cache(maxsize=64)
def _advance(network: Any, task: Any, optimizer: Optimizer, summed: bool, on_cpu: bool) -> Advance:
    loss = mean_loss_of(task)

    def batch_loss(trained: Weights, frozen: Weights, x: Array, y: Array) -> Array:
        return loss(network.apply(frozen | trained, x)[0], y)

    def update(state: State, frozen: Weights, x: Array, y: Array, numbers: dict[str, Array], step: Array) -> State:
        """One student, one update."""
        value, gradient = jax.value_and_grad(batch_loss)(state.weights, frozen, x, y)
        updates, moments = optimizer.of(numbers).update(gradient, state.moments, state.weights)
        return state._replace(
            weights=optax.apply_updates(state.weights, updates),
            moments=moments,
            gradient_sum=jax.tree.map(jnp.add, state.gradient_sum, gradient) if summed else {},
            loss_sum=state.loss_sum + value,
            diverged_step=first_divergence(state.diverged_step, value, step),
        )

    cells_of_seed = jax.vmap(update, in_axes=(0, None, None, None, 0, None))

    def advance(state: State, tasks: Task, batches: Batches, cells: Cells, clock: Clock) -> State:
        def of_seed(state: State, task: Task, batches: Batches) -> State:
            def body(k: Array, state: State) -> State:
                x, y = batch(batches, task, clock.first + k)
                numbers = cells.numbers
                if not isinstance(clock.factors, tuple):
                    numbers = numbers | {"learning_rate": numbers["learning_rate"] * clock.factors[clock.first + k]}
                return cells_of_seed(state, task.frozen, x, y, numbers, clock.step + k)

            return jax.lax.fori_loop(0, clock.steps, body, state)

        return each(on_cpu, of_seed, state, tasks, batches)

    return advance


def first_divergence(diverged_step: Array, batch_loss: Array, step: Array) -> Array:
    """The first step at which a student's batch loss was not finite, -1 while there is none; elementwise."""
    return jnp.where((diverged_step < 0) & ~jnp.isfinite(batch_loss), step, diverged_step)
