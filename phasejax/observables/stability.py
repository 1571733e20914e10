"""How sharp the loss is, how sharp it looks to the noise, and whether a student can stay where it is.

Where every sample is fitted, weights that are off by w go by w' = w - epsilon mean_batch(H_a) w, with H_a = J_a^T S_a J_a,
J_a the Jacobian of sample a's outputs with respect to the trained arrays and S_a the second derivative of its loss with
respect to the outputs (1 for the mean squared error, diag p - p p^T for cross-entropy). With H = E[H_a],

    lambda = the largest eigenvalue of H, of eigenvector e                               sharpness
    q = E|H_a e|^2 / lambda, for one output v_a: E[|v|^2 (v.e)^2] / E[(v.e)^2]           noise sharpness
    s = T (q - lambda) + epsilon lambda / (1 + mu) = T [q + (B_eff - 1) lambda]          stability
        T = epsilon / (B (1 - mu)),  B_eff = B (1 - mu) / (1 + mu)

In a step from deviations along e their mean square grows where s > 2: exactly the edge for isotropic Gaussian v, at any
momentum mu, and for full batches, epsilon lambda = 2 (1 + mu); an estimate otherwise (Mulayoff & Michaeli, 2306.07850).
It is of batches drawn with replacement.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from phasejax.kernels import linalg
from phasejax.observables.observable import Observable
from phasejax.state import Student, Task, Weights

_SAMPLES = 512
"""At most so many training samples are looked at, of a student at every record; evenly spaced, the same always."""
_OF_TEACHER = 4096
"""At most so many of a teacher, once."""
_DIRECTIONS = 10
"""Dimension of the Krylov space in which e is looked for: spectra of H fall so fast that lambda is right to rounding."""
_AT_A_TIME = 2**15
"""Numbers in the gradients of single samples that are there at a time, of a student."""


class Curvature(NamedTuple):
    """Of the loss, as far as it shows in the outputs' first derivatives; both 0 where no output depends on the weights."""

    sharpness: Array
    """lambda, the largest eigenvalue of H."""
    noise_sharpness: Array
    """q."""


def curvature(network: Any, loss: Callable, trained: Weights, frozen: Weights, x: Array, y: Array) -> Curvature:
    """Sharpness and noise sharpness of one student on samples, without H ever being written down.

    Args:
        network: how outputs are made.
        loss: of each sample, convex in the outputs.
        trained: the arrays to differentiate by.
        frozen: the others.
        x: (A, f), what enters them.
        y: (A, n_L) or (A,), targets.
    """
    flat, shaped = ravel_pytree(trained)

    def outputs_on(x: Array) -> Callable[[Array], Array]:
        return lambda w: network.apply({**frozen, **shaped(w)}, x)[0]

    outputs, push = jax.linearize(outputs_on(x), flat)
    pull = jax.linear_transpose(push, flat)

    def bent(moved: Array) -> Array:
        """S_a times a change of the outputs, (A, n_L)."""
        return jax.jvp(jax.grad(lambda outputs: loss(outputs, y).sum()), (outputs,), (moved,))[1]

    e = _top(lambda w: pull(bent(push(w)))[0] / len(x), flat)
    moved = push(e)
    felt = bent(moved)
    sharpness = (moved * felt).sum() / len(x)

    def square(sample: tuple[Array, Array]) -> Array:
        x, felt = sample
        _, back = jax.vjp(outputs_on(x[None]), flat)
        return (back(felt[None])[0] ** 2).sum()

    together = int(np.clip(_AT_A_TIME // flat.size, 1, len(x)))
    mean_square = jax.lax.map(square, (x, felt), batch_size=together).mean()
    return Curvature(sharpness, jnp.where(sharpness == 0, 0, mean_square / sharpness))


def _top(apply: Callable[[Array], Array], like: Array) -> Array:
    """The eigenvector of a symmetric, positive operator's largest eigenvalue, by Lanczos's method, orthogonalised twice."""
    most = min(_DIRECTIONS, like.size)
    numbers = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl="threefry2x32")
    first = jax.random.normal(numbers, like.shape, jnp.float32).astype(like.dtype)
    basis = jnp.zeros((most, like.size), like.dtype).at[0].set(first / jnp.linalg.norm(first))

    def grow(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, within = carry
        image = apply(basis[k])
        within = within.at[k].set(basis @ image)
        rest = image
        for _ in range(2):
            rest = rest - (basis @ rest) @ basis
        norm = jnp.linalg.norm(rest)
        # Where the space is exhausted only rounding is left, which is no direction: its square may underflow, and a norm
        # that is too small would make it a long one. What is written down behind the last is dropped.
        left = norm > jnp.finfo(norm.dtype).eps * jnp.abs(within).max()
        return basis.at[k + 1].set(jnp.where(left, rest / jnp.where(left, norm, 1), 0), mode="drop"), within

    basis, within = jax.lax.fori_loop(0, most, grow, (basis, jnp.zeros((most, most), like.dtype)))
    lower = jnp.tril(within)  # an image is known only along the directions before
    vectors = linalg.eigenvectors(lower + jnp.tril(lower, -1).T)
    found = vectors[:, -1] @ basis
    norm = jnp.linalg.norm(found)
    return found / jnp.where(norm > 0, norm, 1)


def of_student(network: Any, loss: Callable, trained: Weights, task: Task) -> Curvature:
    """Of a student on a fixed part of its training set."""
    return curvature(network, loss, trained, task.frozen, *_some(task, _SAMPLES))


def of_teacher(network: Any, loss: Callable, task: Task) -> Curvature:
    """At the teacher's weights, on its student's training set or a large part of it."""
    trained = {name: task.teacher[name] for name in task.draw}
    return curvature(network, loss, trained, task.frozen, *_some(task, _OF_TEACHER))


def _some(task: Task, most: int) -> tuple[Array, Array]:
    count = len(task.features)
    if count <= most:
        return task.features, task.targets
    # Data may come in an order, one class after another.
    chosen = np.arange(most) * count // most
    return task.features[chosen], task.targets[chosen]


def stability(student: Student, task: Task) -> Array:
    """s, of the temperature and the learning rate of the student's cell."""
    numbers, (sharpness, noise_sharpness) = student.numbers, student.curvature
    rate = numbers["learning_rate"] / (1 + numbers.get("momentum", 0.0))
    return numbers["temperature"] * (noise_sharpness - sharpness) + rate * sharpness


def of_stability(network: Any, loss: Callable) -> tuple[Observable, ...]:
    """What can be recorded of it, where it is asked for by name."""
    about = "of E[J^T S J], J the derivative of the outputs by the trained arrays and S that of the loss by the outputs"
    return (
        Observable("sharpness", lambda s, t: s.curvature.sharpness,
                   f"sharpness lambda, the largest eigenvalue {about}, on training samples", needs=("curvature",),
                   by_name=True),
        Observable("noise_sharpness", lambda s, t: s.curvature.noise_sharpness,
                   "sharpness q as the noise sees it, E|J^T S J e|^2 / lambda along the eigenvector e of the sharpness",
                   needs=("curvature",), by_name=True),
        Observable("stability", stability,
                   "stability s = T [q + (B_eff - 1) lambda], below 2 where SGD at the cell's own learning rate can stay",
                   needs=("curvature", "temperature"), by_name=True),
        Observable("teacher_sharpness", lambda t: of_teacher(network, loss, t).sharpness,
                   f"sharpness lambda at the teacher's weights, the largest eigenvalue {about}", when="once",
                   needs=("teacher",), by_name=True),
        Observable("teacher_noise_sharpness", lambda t: of_teacher(network, loss, t).noise_sharpness,
                   "sharpness q as the noise sees it, at the teacher's weights", when="once", needs=("teacher",),
                   by_name=True),
    )  # fmt: skip
