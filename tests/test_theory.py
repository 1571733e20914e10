"""Closed forms against each other, and against runs of the package that they are exact for."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import phasejax as pj
from phasejax.analysis import theory


def gaussian_levels(random, count, n, m):
    w = random.standard_normal((count, n, m))
    return np.linalg.eigvalsh(w @ w.transpose(0, 2, 1))


def test_the_laguerre_process_is_that_of_a_matrix_in_free_brownian_motion():
    """W stays Gaussian, so that the levels of a Gaussian start keep their law, but for the scale."""
    random, count, (n, m) = np.random.default_rng(1), 3000, (4, 8)
    start = gaussian_levels(random, count, n, m)
    temperature, variance, time = 0.5, 2.0, 1.5
    paths = theory.integrate(start, lambda x, _: theory.laguerre(x, m, variance), temperature, [0, time], 2e-2, random)
    expected = gaussian_levels(random, 20 * count, n, m) * (1 + temperature * variance * time)
    for level in range(n):
        assert scipy.stats.ks_2samp(paths[1][:, level], expected[:, level]).pvalue > 1e-3
    without = paths[1] - temperature * variance * m * time  # what the paper's equation would have without the Ito term
    assert scipy.stats.ks_2samp(without[:, -1], expected[:, -1]).pvalue < 1e-9


def test_one_spacing_has_its_stationary_law():
    """Two levels of a symmetric matrix in a harmonic well: the spacing's equation with rho = 1, and Wigner's surmise."""
    random, temperature, restoring = np.random.default_rng(2), 0.3, 1.0
    start = np.full((4000, 2), [5.0, 6.0])

    def orthogonal(x, _):  # of a symmetric matrix whose diagonal has twice the noise of what is off it
        return theory.Coefficients(restoring * (5.5 - x), 0 * x, np.full((2, 2), 1.0), np.sqrt(2) * np.eye(2))

    paths = theory.integrate(start, orthogonal, temperature, [0, 6 / restoring], 1e-2, random)
    spacing = paths[-1][:, 1] - paths[-1][:, 0]
    law = theory.spacing_law(restoring, V_S=2.0, D_S=2.0, temperature=temperature)
    assert scipy.stats.kstest(spacing, law.cdf).pvalue > 1e-3
    s = np.linspace(0, 4, 50)
    np.testing.assert_allclose(law.mean() * law.pdf(s * law.mean()), np.pi / 2 * s * np.exp(-np.pi * s**2 / 4), rtol=1e-12)
    for rho in (0.5, 1.0, 3.0):
        found = theory.spacing_law(0.7, V_S=rho * 1.3, D_S=1.3, temperature=0.2)
        gamma = scipy.special.gamma(1 + rho / 2) / scipy.special.gamma((1 + rho) / 2)
        assert found.mean() == pytest.approx(np.sqrt(2 * 0.2 * 1.3 / 0.7) * gamma)
        density = s[1:] ** rho * np.exp(-0.7 * s[1:] ** 2 / (2 * 0.2 * 1.3))
        np.testing.assert_allclose(found.pdf(s[1:]) / density, found.pdf(1.0) / np.exp(-0.7 / (2 * 0.2 * 1.3)), rtol=1e-9)


@pytest.mark.parametrize("inputs", [(1.0, 1.0), (0.0, np.sqrt(2))], ids=["additive", "multiplicative"])
def test_one_weight_has_its_stationary_variance(inputs):
    """y = 0 x + noise of variance 1: h = x^2, lambda = 1, q = E x^4 = 1 or 2, and s = T (q + B - 1)."""
    x, xi = np.meshgrid(inputs, (-1.0, 1.0))
    x, xi = x.reshape(-1, 1), xi.reshape(-1, 1)
    batch, temperatures = 2, [0.02, 0.2, 0.35]
    noise, q = float((x**2 * xi**2).mean()), float((x**4).mean())
    run = pj.simulate(
        pj.Experiment(
            network=pj.Network((1, 1), "identity"),
            task=pj.Arrays(x, xi, x, xi),
            sgd=pj.Sgd(batch_size=batch, order="iid"),
            grid=pj.Grid(temperature=temperatures, sigma_w=0.1, seeds=1500),
            schedule=pj.Schedule(steps=300, records_per_decade=1),
            observe=("weights",),
        )
    )
    w = run.weights.isel(step_decades=-1).squeeze().transpose("temperature", "seed").values
    for temperature, weight in zip(temperatures, w, strict=True):
        s = temperature * (q + batch - 1)
        expected = theory.stationary_variance(temperature, noise, 1.0, s)
        error = np.std(weight**2) / np.sqrt(len(weight))
        assert abs(np.mean(weight**2) - expected) < 4 * error
        other = theory.stationary_variance(temperature, noise, 1.0, 0.0)  # of the Langevin equation, infinitely short steps
        assert temperature < 0.1 or abs(np.mean(weight**2) - other) > 4 * error


@dataclass(frozen=True)
class Linear:
    """y = W x, 2 x 2, that also says what W is, so that samples can pull at it."""

    def init(self, key):
        return {"w": jax.random.normal(key, (2, 2))}

    def apply(self, weights, x):
        outputs = x @ weights["w"].T
        return jnp.concatenate([outputs, jnp.tile(weights["w"].reshape(1, 4), (len(x), 1))], 1), outputs


def pulled(outputs, targets):
    """Half the squared error, and a force on W of each sample's own."""
    return 0.5 * ((targets - outputs)[:, :2] ** 2).sum(1) + (targets * outputs)[:, 2:].sum(1)


@dataclass(frozen=True)
class GaussianMachine:
    """A restricted Boltzmann machine of Gaussian units: p(v) ~ exp(-v^T (9 - W W^T) v / 2)."""

    def init(self, key):
        return {"w": 2 * jnp.eye(2) + 0.1 * jax.random.normal(key, (2, 2))}

    def apply(self, weights, v):
        k = 9 * jnp.eye(2) - weights["w"] @ weights["w"].T
        determinant = k[0, 0] * k[1, 1] - k[0, 1] * k[1, 0]
        return jnp.stack([(v @ k * v).sum(1), jnp.tile(jnp.log(determinant), len(v))], 1), v


def improbable(outputs, targets):
    """Minus the logarithm of the probability density."""
    return (outputs[:, 0] - outputs[:, 1]) / 2


def stationary_levels(network, loss, x, y, batch, temperatures, steps, seeds):
    run = pj.simulate(
        pj.Experiment(
            network=network,
            task=pj.Arrays(x, y, x, y, loss=loss),
            sgd=pj.Sgd(batch_size=batch, order="iid"),
            grid=pj.Grid(temperature=temperatures, sigma_w=1.0, seeds=seeds),
            schedule=pj.Schedule(steps=steps, records_per_decade=1),
            observe=("eigenvalues",),
        )
    )
    return run.eigenvalues.isel(step=-1).squeeze().transpose("temperature", "seed", ...).values


@pytest.mark.long
def test_two_levels_of_the_linear_student():
    """The teacher-student model of Aarts, Lucini and Park (Phys. Rev. E 111 (2025) 015303): <S> = sqrt(pi) sqrt(A T).

    The teacher is twice the identity, and to every gradient a symmetric matrix of noise is added whose elements have
    variance A off the diagonal and 2 A on it. S is the spacing of the two singular values.
    """
    amplitude, batch, temperatures = 0.1, 4, [0.01, 0.08]
    signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * 5)).reshape(5, -1).T
    x, a = signs[:, :2], amplitude * signs[:, 2:] * [np.sqrt(2), 1, np.sqrt(2)]
    y = np.column_stack([2 * x, a[:, [0, 1, 1, 2]]])
    levels = stationary_levels(Linear(), pulled, x, y, batch, temperatures, 300, 2000)
    for temperature, found in zip(temperatures, np.diff(np.sqrt(levels))[..., 0], strict=True):
        stretched = temperature * 2 / (2 - temperature * (2 + batch - 1))  # of steps that are not infinitely short
        law = theory.spacing_law(1.0, V_S=2 * amplitude**2, D_S=2 * amplitude**2, temperature=stretched)
        assert law.mean() == pytest.approx(np.sqrt(np.pi) * amplitude * np.sqrt(stretched))
        assert scipy.stats.kstest(found, law.cdf).pvalue > 1e-3
        assert abs(found.mean() / law.mean() - 1) < 4 * law.std() / law.mean() / np.sqrt(found.size)


@pytest.mark.long
def test_two_levels_of_the_gaussian_boltzmann_machine():
    """Theirs too: <S> = sqrt(2 pi) sqrt(kappa T), kappa the twofold eigenvalue of W W^T, whatever the data's variance."""
    kappa = 4.0
    variance = 1 / (9 - kappa)
    angles = 2 * np.pi * np.arange(8) / 8
    circle = 2 * np.sqrt(variance) * np.column_stack([np.cos(angles), np.sin(angles)])
    v = np.concatenate([circle, 0 * circle])  # has the second and fourth moments of a Gaussian
    temperatures = np.array([0.004, 0.016])
    levels = stationary_levels(GaussianMachine(), improbable, v, v, 4, temperatures.tolist(), 1200, 2500)
    found = np.diff(levels)[..., 0]
    rate, noise = 2 * kappa * variance**2, 8 * (kappa * variance) ** 2
    law = theory.spacing_law(rate, V_S=noise, D_S=noise, temperature=1.0)
    assert law.mean() == pytest.approx(np.sqrt(2 * np.pi * kappa))
    units = found.mean(1) / np.sqrt(2 * np.pi * kappa * temperatures)
    errors = found.std(1) / np.sqrt(found.shape[1]) / np.sqrt(2 * np.pi * kappa * temperatures)
    # The well is harmonic for T -> 0 only.
    extrapolated, error = (4 * units[0] - units[1]) / 3, np.hypot(4 * errors[0], errors[1]) / 3
    assert abs(extrapolated - 1) < 4 * error
    assert abs(units[1] - 1) < 0.1
