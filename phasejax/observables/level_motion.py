"""How the eigenvalues of X = W W^T move in a step of SGD, to second order and for any covariance of its noise (Eq 4.3).

With W = U S V^T, x_i = s_i^2, and a sample's gradient Delta_a = g_a phi_a^T turned into m = U^T Delta_a V, a step of
learning rate epsilon by a batch drawn with replacement, T = epsilon / B, moves level i on average by epsilon times

    -2 s_i E m_ii                                                   drift, K_i
    + T sum_k Var_a m_ik                                            Ito: from dW dW^T, over all columns k of W
    + T sum_(j != i) V_ij / (x_i - x_j)                             Coulomb, V_ij = Var_a Y_ij, Y_ij = s_i m_ji + s_j m_ij
    + epsilon [sum_k (E m_ik)^2 + sum_(j != i) (E Y_ij)^2 / (x_i - x_j)]    of a finite step, there without noise too

and about this mean levels i and j move with covariance epsilon T Cov_a(Y_ii, Y_jj). Without replacement, in a random order
anew each epoch, T is epsilon (D - B) / (B (D - 1)) for a single step; the noise of a whole epoch at fixed W sums to 0.

It is second-order perturbation theory: right while epsilon^2 [V_ij / B + (E Y_ij)^2] is small against (x_i - x_j)^2.
Eq 4.3 of the paper has neither the Ito term nor that of a finite step; (B.5) takes x_i - x_j = (i - j) S; (B.4) leaves out
the covariance of different levels.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from phasejax.kernels.linalg import left_singular
from phasejax.kernels.samples import products

PARTS = ("drift", "ito", "coulomb", "equally_spaced", "finite_step")
"""Of the motion per epsilon: to be multiplied by 1, T, T, T and epsilon. The fourth is the third in the paper's reading."""


class LevelMotion(NamedTuple):
    """Of one layer's levels, ascending."""

    parts: Array
    """(part, n_l), in the order of `PARTS`."""
    noise: Array
    """V_ij, (n_l, n_l): its diagonal is that of the covariance."""
    covariance: Array
    """Cov_a(Y_ii, Y_jj), (n_l, n_l)."""


def level_motion(w: Array, phi: Array, g: Array) -> LevelMotion:
    """The motion of the levels of W in a step of SGD.

    Args:
        w: (n_l, n_(l-1)).
        phi: (n_(l-1), A), what enters the layer, of the samples that batches are drawn from.
        g: (n_l, A), the derivatives of their losses by W phi.
    """
    values, basis = left_singular(w)
    levels = values**2
    turned_u, turned_g = basis.T @ (w @ phi), basis.T @ g
    product, squares, mixed = products(turned_u, turned_g)
    mean = product + product.T
    noise = squares + squares.T + 2 * mixed - mean**2
    own = jnp.diagonal(product)
    covariance = 4 * (mixed - own[:, None] * own[None])

    n, samples = g.shape
    same = jnp.eye(n, dtype=bool)
    gaps = jnp.where(same, jnp.inf, levels[:, None] - levels[None])
    places = jnp.arange(n, dtype=w.dtype)
    even = jnp.where(same, jnp.inf, places[:, None] - places[None]) * (levels[-1] - levels[0]) / max(n - 1, 1)
    gradient = turned_g @ phi.T / samples
    square = (gradient**2).sum(axis=1)
    parts = [
        -jnp.diagonal(mean),
        (turned_g**2) @ (phi**2).sum(axis=0) / samples - square,
        (noise / gaps).sum(axis=1),
        (noise / even).sum(axis=1),
        square + (mean**2 / gaps).sum(axis=1),
    ]
    return LevelMotion(jnp.stack(parts), noise, covariance)
