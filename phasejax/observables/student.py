"""One student as observables see it, made from its slice of the State (Eqs 2.2-2.6, 3.3)."""

from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from phasejax import seed
from phasejax.kernels import linalg
from phasejax.network import Network
from phasejax.observables import stability
from phasejax.observables.level_dynamics import LevelDynamics, level_dynamics
from phasejax.state import State, Student, Task, Weights
from phasejax.tasks import loss_of


class Samples(NamedTuple):
    """One student on A samples, by layer. Samples run fastest, which is how the products over them are quick."""

    u: dict[str, Array]
    """u_a = W phi_a of each layer, (n_l, A)."""
    g: dict[str, Array]
    """g_a = d loss_a / d u_a of each layer, (n_l, A)."""
    entering: dict[str, Array]
    """What enters each layer, phi_a for a hidden one's, (n_(l-1), A)."""


def on_samples(network: Network, loss: Callable, layers: Weights, x: Array, y: Array) -> Samples:
    """Pre-activations, their gradients and the features.

    Args:
        network: for its activations.
        loss: of each sample.
        layers: weights from the one that x enters to the readout.
        x: (A, f), what enters the first of the layers.
        y: (A, n_L) or (A,), targets.
    """
    names = sorted(layers, key=int)

    def summed_loss(shifts: Weights) -> tuple[Array, tuple[Weights, Weights]]:
        u, entering, now = {}, {}, x.T
        for name in names:
            entering[name] = now
            u[name] = layers[name] @ now + shifts[name]
            now = u[name] if name == network.readout else network.phi(int(name))(u[name])
        return jnp.sum(loss(u[names[-1]].T, y)), (u, entering)

    zeros = {name: jnp.zeros((len(layers[name]), len(x)), x.dtype) for name in names}
    g, (u, entering) = jax.grad(summed_loss, has_aux=True)(zeros)
    return Samples(u, g, entering)


class View(NamedTuple):
    """How students of one kind of experiment are looked at."""

    network: Any
    task: Any
    beginning: Any
    plain: bool
    """Whether the displacement from the mark says the gradient (plain SGD at a constant rate)."""

    def initial(self, task: Task, which: Array, number: Array) -> Array:
        """phi(0) on the test inputs, (A, n_(L-1)), of the students with this start."""
        weights = seed.start(self.network, self.beginning, task, which, number)
        return self._on_test(task.frozen | weights, task)[1]

    def _on_test(self, layers: Weights, task: Task) -> tuple[Array, Array, Samples | None]:
        """Outputs and features on the test inputs, and what else a `Network` gives."""
        if not isinstance(self.network, Network):
            return *self.network.apply(layers, task.test_features), None
        found = on_samples(self.network, loss_of(self.task), layers, task.test_features, task.test_targets)
        return found.u[self.network.readout].T, found.entering[self.network.readout].T, found

    def student(
        self,
        state: State,
        initial: Array,
        task: Task,
        numbers: dict[str, Array],
        step: Array,
        window: Array,
        needs: Set[str],
    ) -> Student:
        """One student from its slice of the State.

        Args:
            state: without leading axes.
            initial: its features at step 0.
            task: its seed's.
            numbers: its cell's.
            step: updates done.
            window: updates since the mark.
            needs: what the observables chosen need: level dynamics and curvature are made for them alone.
        """
        layers = task.frozen | state.weights
        outputs, features, samples = self._on_test(layers, task)
        matrices = {name: w for name, w in state.weights.items() if w.ndim == 2}
        coefficients: dict[str, LevelDynamics] = {}
        if "level_dynamics" in needs and samples:
            found = {name: linalg.left_singular(w) for name, w in matrices.items()}
            values = {name: value for name, (value, _) in found.items()}
            for name, (_, basis) in found.items():
                if len(basis) > 1:
                    coefficients[name] = level_dynamics(basis, samples.u[name], samples.g[name])
        else:
            values = {name: linalg.singular_values(w) for name, w in matrices.items()}
        # Multiplied by, not divided by: whether XLA turns a division into this depends on how many seeds there are.
        per_update = 1 / jnp.where(window > 0, window, jnp.nan).astype(state.loss_sum.dtype)
        if self.plain:
            # W moves by the learning rate times the gradients' sum, so their mean need not be added up on the way.
            per_rate = 1 / numbers["learning_rate"]
            moved = {name: (state.mark[name] - w) * per_rate for name, w in state.weights.items()}
        else:
            moved = state.gradient_sum
        # A student may end the last update with weights that no batch has seen yet.
        finite = jnp.stack([jnp.isfinite(part).all() for part in (*state.weights.values(), outputs)]).all()
        return Student(
            weights=state.weights,
            layers=layers,
            features=features,
            initial_features=initial,
            outputs=outputs,
            train_loss=state.loss_sum * per_update,
            gradient_norm=norm(moved) * per_update,
            diverged_step=jnp.where((state.diverged_step < 0) & ~finite, step, state.diverged_step),
            eigenvalues={name: value**2 for name, value in values.items()},
            dynamics=coefficients,
            curvature=(
                stability.of_student(self.network, loss_of(self.task), state.weights, task) if "curvature" in needs else ()
            ),
            numbers=numbers,
            step=step,
        )


def norm(arrays: Weights) -> Array:
    """Norm of all the entries of several arrays."""
    return jnp.sqrt(sum(jnp.sum(array**2) for array in arrays.values()))
