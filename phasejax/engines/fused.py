"""The paper's topology with a hand-derived gradient, in plain XLA.

One trained layer of tanh nodes between frozen features and a scalar frozen readout. All cells of a seed share its
batches, so the forward pass of a whole seed is one (B x n1)(n1 x n2 cells) product and its update a rank-B one:

    u_b = W phi_b,  f_b = tanh(u_b),  e_b = w3 . f_b - y_b,  W <- W - (epsilon / B) sum_b e_b [w3 o (1 - f_b^2)] phi_b^T

Cells run fastest in memory: sums over nodes and samples are then sums of long vectors.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.engines.autodiff import first_divergence
from phasejax.ensemble import each
from phasejax.experiment import Experiment
from phasejax.network import Network
from phasejax.state import Advance, Batches, Cells, Clock, State, Task

name = "fused"


def why_not(experiment: Experiment, devices: Sequence[Any] = ()) -> str | None:
    """A sentence why this engine does not apply to an experiment, or None if it does."""
    network, task = experiment.network, experiment.task
    if experiment.sgd.optimizer != "sgd" or not experiment.plain:
        return "it knows plain SGD at a constant learning rate only"
    if not isinstance(network, Network) or not network.soft_committee:
        return "it knows one trained layer of tanh nodes, the last before a single frozen output, only"
    if task.loss != "mse" or not hasattr(task, "draw"):
        return "it knows half the squared error on data of each seed's own only"
    return None


def advance(experiment: Experiment, devices: Sequence[Any]) -> Advance:
    """The `advance` of one shard."""
    (trained,) = experiment.network.trained
    return _advance(trained, experiment.network.readout, devices[0].platform == "cpu")


@functools.cache
def _advance(trained: str, last: str, on_cpu: bool) -> Advance:
    def advance(state: State, tasks: Task, batches: Batches, cells: Cells, clock: Clock) -> State:
        rates, first = cells.numbers["learning_rate"], clock.first

        def of_seed(w: Array, loss_sum: Array, diverged: Array, readout: Array, batches: Batches) -> tuple[Array, ...]:
            count, n2, n1 = w.shape
            batch = batches.features.shape[1]
            w3 = readout.reshape(1, n2, 1)
            scaled_rates = rates[None] / batch

            def body(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                w, loss_sum, diverged = carry
                phi, y = batches.features[first + k], batches.targets[first + k]
                f = jnp.tanh((phi @ w).reshape(batch, n2, count))
                error = jnp.sum(w3 * f, axis=1) - y
                value = 0.5 * jnp.mean(error**2, axis=0)
                g = (error * scaled_rates)[:, None] * w3 * (1 - f * f)
                w = w - phi.T @ g.reshape(batch, n2 * count)
                return w, loss_sum + value, first_divergence(diverged, value, clock.step + k)

            columns = w.transpose(2, 1, 0).reshape(n1, n2 * count)
            columns, loss_sum, diverged = jax.lax.fori_loop(0, clock.steps, body, (columns, loss_sum, diverged))
            return columns.reshape(n1, n2, count).transpose(2, 1, 0), loss_sum, diverged

        stacked = (state.weights[trained], state.loss_sum, state.diverged_step, tasks.frozen[last], batches)
        w, loss_sum, diverged = each(on_cpu, of_seed, *stacked)
        return state._replace(weights={trained: w}, loss_sum=loss_sum, diverged_step=diverged)

    return advance
