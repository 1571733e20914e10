"""Drift and noise of the level spacing against sums written out, and against the motion of eigenvalues they predict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phasejax import Network
from phasejax.kernels.linalg import left_singular
from phasejax.observables.level_dynamics import READINGS, coulomb, level_dynamics
from phasejax.observables.student import on_samples
from phasejax.tasks import mse


def student(seed, n0=5, n1=7, n2=4, samples=60):
    rng = np.random.default_rng(seed)
    layers = [rng.normal(size=s) / np.sqrt(s[1]) for s in ((n1, n0), (n2, n1), (1, n2))]
    return layers, rng.normal(size=(samples, n0)), rng.normal(size=(samples, 1))


def written_out(w, phi1, w3, y):
    """u, g and the gradient of X of every sample, by loops over Eqs 2.28 and 4.4."""
    us, gs, deltas = [], [], []
    for x, target in zip(phi1, y, strict=True):
        u = w @ x
        g = (w3 @ np.tanh(u) - target) * w3[0] * (1 - np.tanh(u) ** 2)
        delta = np.outer(g, x)
        us.append(u)
        gs.append(g)
        deltas.append(w @ delta.T + delta @ w.T)
    return np.array(us), np.array(gs), np.array(deltas)


def test_coefficients_against_sums_over_samples():
    (w1, w, w3), x, y = student(1)
    phi1 = np.tanh(x @ w1.T)
    _, _, deltas = written_out(w, phi1, w3, y)
    n = len(w)
    k_matrix, element_wise = -deltas.mean(0), deltas.var(0)
    k_values, by_drift = np.linalg.eigh(k_matrix)
    _, by_x = np.linalg.eigh(w @ w.T)
    for basis in (by_drift, by_x):  # the sign that is agreed on; n is even
        basis *= np.sign(basis[:-1]).prod(0)

    def rotated_variance(basis):
        return np.array([basis.T @ d @ basis for d in deltas]).var(0)

    along_x = np.diag(by_x.T @ k_matrix @ by_x)
    expected = {
        "drift": (k_values, rotated_variance(by_drift), abs(k_values[-1] - k_values[0])),
        "x_basis": (along_x, rotated_variance(by_x), along_x[0] - along_x[-1]),
        "text": (k_values, by_drift.T @ element_wise @ by_drift, abs(k_values[-1] - k_values[0])),
        "released": (along_x, by_x.T @ element_wise @ by_x, abs(along_x[-1]) - abs(along_x[0])),
    }
    with jax.enable_x64(True):
        layers = {"2": jnp.asarray(w), "3": jnp.asarray(w3)}
        samples = on_samples(Network(), mse, layers, jnp.asarray(phi1), jnp.asarray(y))
        found = level_dynamics(left_singular(layers["2"])[1], samples.u["2"], samples.g["2"])
    for position, reading in enumerate(READINGS):
        k, v, restoring = expected[reading]
        v_s = 2 * v[n - 1, 0] / (n - 1) ** 2  # Eq B.7 as printed, indices from 0
        for j in range(1, n - 1):
            v_s += (v[n - 1, n - 1 - j] + v[0, j - 1 if reading == "released" else j]) / j / (n - 1)
        assert float(found.K_S[position]) == pytest.approx((k[-1] - k[0]) / (n - 1), rel=1e-10), reading
        assert float(found.V_S[position]) == pytest.approx(v_s, rel=1e-9), reading
        assert float(found.D_S[position]) == pytest.approx((v[0, 0] + v[-1, -1]) / 2 / (n - 1) ** 2, rel=1e-9), reading
        assert float(found.restoring[position]) == pytest.approx(restoring / (n - 1), rel=1e-9), reading


def test_compact_coulomb_sum_equals_its_double_sum():
    """B.3 with B.5: sum over j of V_Nj / (N - j) + V_1j / (j - 1), divided by N - 1."""
    v = np.random.default_rng(2).normal(size=(9, 9))
    v = v + v.T
    n = len(v)
    double = sum(v[n - 1, j] / (n - 1 - j) for j in range(n - 1)) + sum(v[0, j] / j for j in range(1, n))
    with jax.enable_x64(True):
        assert float(coulomb(jnp.asarray(v[0]), jnp.asarray(v[-1]))) == pytest.approx(double / (n - 1), rel=1e-12)


def test_eigenvalues_move_as_drift_noise_and_repulsion_say():
    """One SGD step from a fixed W, averaged over many batches: drift + Coulomb + Ito + terms of order epsilon.

    E dx_i / epsilon = K_i + T sum_(j != i) V_ij / (x_i - x_j) + T sum_k Var[(U^T Delta U')_ik]
                       + epsilon [sum_(j != i) K_ij^2 / (x_i - x_j) + (U^T E[Delta] E[Delta]^T U)_ii]
    with batches of B drawn with replacement, in the eigenbasis of X. Eq 4.3 as printed lacks the last two terms.
    """
    (w1, w, w3), x, y = student(3, samples=40)
    phi1 = np.tanh(x @ w1.T)
    _, g, deltas = written_out(w, phi1, w3, y)
    per_sample = g[:, :, None] * phi1[:, None, :]
    rate, batch, draws = 0.02, 4, 400_000
    temperature = rate / batch
    levels, basis = np.linalg.eigh(w @ w.T)

    rotated = basis.T @ deltas @ basis
    k_matrix, variance = -rotated.mean(0), rotated.var(0)
    gaps = levels[:, None] - levels[None, :] + np.diag(np.full(len(levels), np.inf))
    turned = basis.T @ per_sample
    ito = turned.var(0).sum(1)
    mean = turned.mean(0)
    predicted = (
        np.diag(k_matrix)
        + temperature * ((variance / gaps).sum(1) + ito)
        + rate * ((k_matrix**2 / gaps).sum(1) + (mean @ mean.T).diagonal())
    )

    rng = np.random.default_rng(4)
    moved = []
    for _ in range(10):
        picks = rng.integers(0, len(x), (draws // 10, batch))
        stepped = w - rate * per_sample[picks].mean(1)
        moved.append((np.linalg.eigvalsh(stepped @ stepped.transpose(0, 2, 1)) - levels) / rate)
    moved = np.concatenate(moved)
    error = moved.std(0) / np.sqrt(draws)
    assert (np.abs(moved.mean(0) - predicted) < 4 * error + 0.02 * np.abs(temperature * ito)).all()
    without_ito = np.abs(moved.mean(0) - predicted + temperature * ito)
    assert (without_ito > 4 * error).any(), "the test could not tell whether the Ito term is there"


def test_students_that_are_not_finite_have_no_dynamics():
    w = jnp.ones((4, 7)).at[0, 0].set(jnp.nan)
    found = level_dynamics(left_singular(w)[1], jnp.ones((4, 6)), jnp.full((4, 6), jnp.nan))
    assert all(bool(jnp.isnan(part).all()) for part in found)
