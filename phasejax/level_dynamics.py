"""Drift and noise of the mean level spacing S of X = W W^T, in four readings of the paper (Eqs 4.4, 4.8, B.7, B.9).

A sample's gradient of W has rank one, Delta_a = g_a phi_a^T with g_a = d loss_a / d u_a and u_a = W phi_a, so its gradient
of X is Delta^X_a = u_a g_a^T + g_a u_a^T. K = -mean_a Delta^X_a is the drift of X, and V a variance over the samples. With
an orthogonal basis U, K_i = (U^T K U)_ii, and

    K_S = (K_N - K_1) / (N - 1)                                                     drift of S
    D_S = (V_11 + V_NN) / (2 (N - 1)^2)                                             its diffusion
    V_S = (1 / (N - 1)) sum_(k = 1 ... N - 1) (V_(N,N-k) + V_(1,1+k)) / k           Coulomb repulsion, T V_S / S

A student has converged where  restoring >= T (n_2 - 1) / (4 sqrt(r) sigma_W^2) * V_S  (Eq 4.15, multiplied out because V_S
can be negative). The text leaves open which basis, which variance, and which sign of K_S restores:

`drift`     basis: eigenvectors of K, by K. V_ij = Var_a[(U^T Delta^X_a U)_ij]. restoring = |K_S|.
`x_basis`   basis: eigenvectors of X, by x, which perturbation theory asks for. V as above. restoring = -K_S.
`text`      basis as `drift`; V = U^T Var_a[Delta^X_a] U, the element-wise variance rotated (Appendix B to the letter).
            It is no variance: off the diagonal it turns its sign with that of an eigenvector, which is arbitrary, and
            V_S comes out negative for about half of the students. restoring = |K_S|.
`released`  what the authors' released code does: basis as `x_basis`, V as `text`, restoring = (|K_N| - |K_1|) / (N - 1),
            and V_(1,k) in place of V_(1,1+k) in the sum up to k = N - 2, so that it starts at the diagonal.
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.activations import activation
from phasejax.experiment import Network, Reading
from phasejax.linalg import eigenbasis

READINGS: tuple[str, ...] = get_args(Reading)


class LevelDynamics(NamedTuple):
    """Coefficients of Eq 4.8, each (reading,) in the order of `READINGS`."""

    K_S: Array
    V_S: Array
    D_S: Array
    restoring: Array
    """What the criterion compares with T V_S: the size or the sign of K_S, as the reading says."""


def sample_gradients(network: Network, layers: Sequence[Array], trained: int, x: Array, y: Array) -> tuple[Array, Array]:
    """u_a = W phi_a and g_a = d loss_a / d u_a of each sample, for one layer.

    Args:
        network: for its activation.
        layers: weights from the one that x enters to the readout.
        trained: position in `layers` of the layer in question.
        x: (A, f), what enters the first of the layers.
        y: (A, n_L), targets.

    Returns:
        u and g, each (A, n_l).
    """
    phi = activation(network.activation)

    def summed_loss(shift: Array) -> tuple[Array, Array]:
        h, u = x, x
        for k, w in enumerate(layers):
            z = h @ w.T
            if k == trained:
                u, z = z, z + shift
            h = phi(z) if k < len(layers) - 1 else z
        return 0.5 * jnp.sum((h - y) ** 2), u

    g, u = jax.grad(summed_loss, has_aux=True)(jnp.zeros((x.shape[0], layers[trained].shape[0]), x.dtype))
    return u, g


def level_dynamics(w: Array, u: Array, g: Array) -> LevelDynamics:
    """The coefficients in all readings, from W (n_l, n_(l-1)) and the samples' u and g, (A, n_l) each; n_l >= 2."""
    mean, element_wise = _moments(u, g)
    drift, by_drift = eigenbasis(-mean)
    _, by_x = eigenbasis(w @ w.T)

    def rotated(basis: Array) -> tuple[Array, Array]:
        """Diagonal of the drift, and the variance of the rotated gradient."""
        mean, variance = _moments(u @ basis, g @ basis)
        return -jnp.diagonal(mean), variance

    def turned(basis: Array, row: int) -> Array:
        """A row of U^T V U, V the element-wise variance."""
        return jnp.sum(jnp.sum(basis[:, row, None] * element_wise, axis=0)[:, None] * basis, axis=0)

    _, variance_by_drift = rotated(by_drift)
    along_x, variance_by_x = rotated(by_x)
    n = w.shape[0]
    ends = [(drift[0], drift[-1]), (along_x[0], along_x[-1]), (drift[0], drift[-1]), (along_x[0], along_x[-1])]
    # First and last row of V, in the order of the readings.
    rows = [
        (variance_by_drift[0], variance_by_drift[-1]),
        (variance_by_x[0], variance_by_x[-1]),
        (turned(by_drift, 0), turned(by_drift, -1)),
        (turned(by_x, 0), turned(by_x, -1)),
    ]
    spreads = [(last - first) / (n - 1) for first, last in ends]
    first, last = ends[3]
    restoring = [jnp.abs(spreads[0]), -spreads[1], jnp.abs(spreads[2]), (jnp.abs(last) - jnp.abs(first)) / (n - 1)]
    return LevelDynamics(
        K_S=jnp.stack(spreads),
        V_S=jnp.stack([coulomb(*row, from_diagonal=r == "released") for r, row in zip(READINGS, rows, strict=True)]),
        D_S=jnp.stack([(first[0] + last[-1]) / (2 * (n - 1) ** 2) for first, last in rows]),
        restoring=jnp.stack(restoring),
    )


def coulomb(first: Array, last: Array, from_diagonal: bool = False) -> Array:
    """V_S of Eq B.7 from the first and the last row of V, (N,) each.

    `from_diagonal` takes V_(1,k) in place of V_(1,1+k) up to k = N - 2, as the released code does.
    """
    n = first.shape[0]
    k = jnp.arange(1, n, dtype=first.dtype)
    away = jnp.concatenate([first[: n - 2], first[n - 1 :]]) if from_diagonal else first[1:]
    return jnp.sum((last[-2::-1] + away) / k) / (n - 1)


def _moments(u: Array, g: Array) -> tuple[Array, Array]:
    """Mean and variance over the samples of each element of u_a g_a^T + g_a u_a^T."""
    samples = u.shape[0]
    mean = (u.T @ g + g.T @ u) / samples
    # (u_i g_j + g_i u_j)^2 = u_i^2 g_j^2 + g_i^2 u_j^2 + 2 (u_i g_i)(u_j g_j): three products, no loop over samples.
    u2, g2, ug = u**2, g**2, u * g
    return mean, (u2.T @ g2 + g2.T @ u2 + 2 * (ug.T @ ug)) / samples - mean**2
