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
            It is no variance: off the diagonal it turns its sign with that of an eigenvector, which is arbitrary (`linalg`
            has a rule), and V_S comes out negative for about half of the students. restoring = |K_S|.
`released`  what the authors' released code does: basis as `x_basis`, V as `text`, restoring = (|K_N| - |K_1|) / (N - 1),
            and V_(1,k) in place of V_(1,1+k) in the sum up to k = N - 2, so that it starts at the diagonal.
"""

from typing import NamedTuple, get_args

import jax.numpy as jnp
from jax import Array

from phasejax.experiment import Reading
from phasejax.kernels.linalg import eigenvectors
from phasejax.kernels.samples import end_rows, products

READINGS: tuple[str, ...] = get_args(Reading)


class LevelDynamics(NamedTuple):
    """Coefficients of Eq 4.8, each (reading,) in the order of `READINGS`."""

    K_S: Array
    V_S: Array
    D_S: Array
    restoring: Array
    """What the criterion compares with T V_S: the size or the sign of K_S, as the reading says."""


def level_dynamics(by_x: Array, u: Array, g: Array) -> LevelDynamics:
    """The coefficients in all readings, from the eigenvectors of X and the samples' u and g, (n_l, A) each; n_l >= 2."""
    n = len(u)
    product, squares, mixed = products(u, g)
    mean = product + product.T
    by_drift = eigenvectors(-mean)
    # (u_i g_j + g_i u_j)^2 = u_i^2 g_j^2 + g_i^2 u_j^2 + 2 (u_i g_i)(u_j g_j): products, no loop over samples.
    element_wise = squares + squares.T + 2 * mixed - mean**2

    def in_basis(basis: Array) -> tuple[Array, Array, Array]:
        """First and last element of the drift, and first and last row of both variances, (2, n) each."""
        means, mean_squares = end_rows(basis, u, g)
        turned = basis[:, [0, -1]].T @ element_wise @ basis
        return -means[[0, 1], [0, -1]], mean_squares - means**2, turned

    drift, variance_by_drift, turned_by_drift = in_basis(by_drift)
    along_x, variance_by_x, turned_by_x = in_basis(by_x)
    # First and last, in the order of the readings.
    ends = [drift, along_x, drift, along_x]
    rows = [variance_by_drift, variance_by_x, turned_by_drift, turned_by_x]
    spreads = [(last - first) / (n - 1) for first, last in ends]
    first, last = ends[3]
    restoring = [jnp.abs(spreads[0]), -spreads[1], jnp.abs(spreads[2]), (jnp.abs(last) - jnp.abs(first)) / (n - 1)]
    return LevelDynamics(
        K_S=jnp.stack(spreads),
        V_S=jnp.stack([coulomb(*row, from_diagonal=r == "released") for r, row in zip(READINGS, rows, strict=True)]),
        D_S=jnp.stack([(first[0] + last[-1]) / (2.0 * (n - 1) ** 2) for first, last in rows]),
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
