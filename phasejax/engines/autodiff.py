"""The reference engine: nested vmap of jax.grad, for any network, activation and optax optimiser."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import Array

from phasejax.activations import activation
from phasejax.ensemble import Advance, State, each
from phasejax.experiment import Network, Sgd
from phasejax.network import features, loss, output
from phasejax.observables import student_layers
from phasejax.sgd import optimiser
from phasejax.task import Batches, Task


@functools.cache
def engine(network: Network, sgd: Sgd, on_cpu: bool) -> Advance:
    """The `advance` of one shard, for any network and optimiser; equal arguments give the very same function."""
    phi = activation(network.activation)

    def batch_loss(trained: tuple[Array, ...], task: Task, batch: Batches) -> Array:
        layers = student_layers(network, task, trained)
        return loss(output(layers[-1], features(layers[:-1], batch.features, phi)), batch.targets)

    def update(state: State, task: Task, batch: Batches, learning_rate: Array, step: Array) -> State:
        """One student, one update."""
        value, gradient = jax.value_and_grad(batch_loss)(state.weights, task, batch)
        updates, moments = optimiser(sgd, learning_rate).update(gradient, state.moments, state.weights)
        return state._replace(
            weights=optax.apply_updates(state.weights, updates),
            moments=moments,
            gradient_sum=() if sgd.plain else jax.tree.map(jnp.add, state.gradient_sum, gradient),
            loss_sum=state.loss_sum + value,
            diverged_step=first_divergence(state.diverged_step, value, step),
        )

    cells = jax.vmap(update, in_axes=(0, None, None, None, None))
    cells = jax.vmap(cells, in_axes=(0, None, None, 0, None))

    def advance(
        state: State, tasks: Task, batches: Batches, rates: Array, step: Array, first: Array, n_steps: Array
    ) -> State:
        def of_seed(state: State, task: Task, batches: Batches) -> State:
            def body(k: Array, state: State) -> State:
                batch = Batches(batches.features[first + k], batches.targets[first + k])
                return cells(state, task, batch, rates, step + k)

            return jax.lax.fori_loop(0, n_steps, body, state)

        return each(on_cpu, of_seed, state, tasks, batches)

    return advance


def first_divergence(diverged_step: Array, batch_loss: Array, step: Array) -> Array:
    """The first step at which a student's batch loss was not finite, -1 while there is none; elementwise."""
    return jnp.where((diverged_step < 0) & ~jnp.isfinite(batch_loss), step, diverged_step)
