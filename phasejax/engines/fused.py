"""The paper's topology with a hand-derived gradient, in plain XLA.

One trained layer of tanh nodes between frozen features and a scalar frozen readout. All cells of a seed share its
batches, so the forward pass of a whole seed is one (B x n1)(n1 x n2 cells) product and its update a rank-B one:

    u_b = W phi_b,  f_b = tanh(u_b),  e_b = w3 . f_b - y_b,  W <- W - (epsilon / B) sum_b e_b [w3 o (1 - f_b^2)] phi_b^T

Cells run fastest in memory: sums over nodes and samples are then sums of long vectors.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.engines.autodiff import first_divergence
from phasejax.ensemble import Advance, State, each
from phasejax.experiment import Experiment
from phasejax.task import Batches, Task


def why_not(experiment: Experiment) -> str | None:
    """A sentence why this engine does not apply to an experiment, or None if it does."""
    if not experiment.sgd.plain:
        return "it knows plain SGD only"
    if not experiment.network.soft_committee:
        return "it knows one trained layer of tanh nodes, the last before a single frozen output, only"
    return None


@functools.cache
def engine(on_cpu: bool) -> Advance:
    """The `advance` of one shard; the shapes come with the arrays."""

    def advance(
        state: State, tasks: Task, batches: Batches, rates: Array, step: Array, first: Array, n_steps: Array
    ) -> State:
        def of_seed(w: Array, loss_sum: Array, diverged: Array, readout: Array, batches: Batches) -> tuple[Array, ...]:
            temperatures, sigmas, n2, n1 = w.shape
            cells, batch = temperatures * sigmas, batches.features.shape[1]
            w3 = readout.reshape(1, n2, 1)
            scaled_rates = jnp.repeat(rates, sigmas)[None] / batch

            def body(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                w, loss_sum, diverged = carry
                phi, y = batches.features[first + k], batches.targets[first + k]
                f = jnp.tanh((phi @ w).reshape(batch, n2, cells))
                error = jnp.sum(w3 * f, axis=1) - y
                value = 0.5 * jnp.mean(error**2, axis=0)
                g = (error * scaled_rates)[:, None] * w3 * (1 - f * f)
                w = w - phi.T @ g.reshape(batch, n2 * cells)
                return w, loss_sum + value, first_divergence(diverged, value, step + k)

            columns = w.reshape(cells, n2, n1).transpose(2, 1, 0).reshape(n1, n2 * cells)
            carry = (columns, loss_sum.reshape(cells), diverged.reshape(cells))
            columns, loss_sum, diverged = jax.lax.fori_loop(0, n_steps, body, carry)
            w = columns.reshape(n1, n2, cells).transpose(2, 1, 0).reshape(w.shape)
            return w, loss_sum.reshape(temperatures, sigmas), diverged.reshape(temperatures, sigmas)

        stacked = (state.weights[0], state.loss_sum, state.diverged_step, tasks.teacher[-1], batches)
        w, loss_sum, diverged = each(on_cpu, of_seed, *stacked)
        return state._replace(weights=(w,), loss_sum=loss_sum, diverged_step=diverged)

    return advance
