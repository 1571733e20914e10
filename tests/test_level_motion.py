"""The motion of eigenvalues in a step of SGD against all steps there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phasejax.observables.level_motion import PARTS, level_motion


def student(seed, n=6, m=10, samples=14):
    """W, what enters it, and derivatives of the losses by what leaves it: more noise along some levels than others."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(m, samples)) * np.linspace(0.3, 2, m)[:, None]
    return rng.normal(size=(n, m)), phi, rng.normal(size=(n, samples)) * np.linspace(2, 0.3, n)[:, None]


def second_order(w, batches):
    """Mean over all batch gradients of d^2 x_i / 2 d epsilon^2, by differences: (n,)."""

    def mean(epsilon):
        moved = w - epsilon * batches
        return np.linalg.eigvalsh(moved @ moved.transpose(0, 2, 1)).mean(0)

    def coarse(epsilon):
        return (mean(epsilon) + mean(-epsilon) - 2 * mean(0)) / (2 * epsilon**2)

    return (4 * coarse(1e-4) - coarse(2e-4)) / 3


@pytest.mark.parametrize(("batch", "replacement"), [(1, True), (2, True), (3, False)])
def test_mean_motion_is_that_of_all_batches_there_are(batch, replacement):
    w, phi, g = student(1)
    samples = phi.shape[1]
    gradients = np.einsum("ia,ja->aij", g, phi)
    picked = range(samples)
    chosen = itertools.product(picked, repeat=batch) if replacement else itertools.combinations(picked, batch)
    expected = second_order(w, np.array([gradients[list(picks)].mean(0) for picks in chosen]))
    with jax.enable_x64(True):
        found = level_motion(*map(jnp.asarray, (w, phi, g)))
    part = dict(zip(PARTS, np.asarray(found.parts), strict=True))
    p = 1 / batch if replacement else (samples - batch) / (batch * (samples - 1))
    predicted = part["finite_step"] + p * (part["ito"] + part["coulomb"])
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-4)

    # What the paper leaves out, or takes as equal, and isotropic noise of the same size, would all be seen.
    levels = np.linalg.eigvalsh(w @ w.T)
    gaps = levels[:, None] - levels + np.diag(np.full(6, np.inf))
    v = part["ito"].sum() / w.size
    isotropic = v * ((levels[:, None] + levels) / gaps).sum(1)
    for without in (p * part["ito"], p * (part["coulomb"] - part["equally_spaced"]), p * (part["coulomb"] - isotropic),
                    part["finite_step"]):  # fmt: skip
        assert np.abs(without).max() > 0.03 * np.abs(expected).max()


def test_drift_and_covariance_are_those_of_single_steps():
    w, phi, g = student(2)
    epsilon, (_, basis) = 1e-6, np.linalg.eigh(w @ w.T)
    moved = w - epsilon * np.einsum("ia,ja->aij", g, phi)
    steps = (np.linalg.eigvalsh(moved @ moved.transpose(0, 2, 1)) - np.linalg.eigvalsh(w @ w.T)) / epsilon
    with jax.enable_x64(True):
        found = level_motion(*map(jnp.asarray, (w, phi, g)))
    np.testing.assert_allclose(found.parts[0], steps.mean(0), atol=1e-3)
    np.testing.assert_allclose(found.covariance, np.cov(steps.T, bias=True), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(np.diagonal(found.noise), np.diagonal(found.covariance), rtol=1e-6)
    of_x = np.einsum("ai,abc,cj->bij", basis, (w @ moved.transpose(0, 2, 1) + moved @ w.T).swapaxes(0, 1), basis) / epsilon
    np.testing.assert_allclose(found.noise, of_x.var(0), rtol=1e-4)
