"""Mean field of the trained layer against its closed forms, and both boundaries on runs that are made up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import phasejax as pj
from phasejax.observables.stability import of_teacher
from phasejax.seed import make_task
from phasejax.studies.activations import lines
from phasejax.tasks import mse


def test_mean_field_meets_its_closed_forms():
    """Relu: E phi'^2 = 1/2 at any q. Erf: q = sigma^2 (2/pi) asin(2/3), E phi'^2 = (4/pi) (1 + 4 q)^(-1/2)."""
    for sigma in (0.3, 1.0, 5.0):
        assert lines.chi("identity", sigma) == pytest.approx(sigma**2, rel=1e-6)
        assert lines.chi("relu", sigma) == pytest.approx(sigma**2 / 2, rel=1e-3)
        q = sigma**2 * 2 / np.pi * np.arcsin(2 / 3)
        assert lines.chi("erf", sigma) == pytest.approx(sigma**2 * 4 / np.pi / np.sqrt(1 + 4 * q), rel=1e-6)
    assert lines.order_to_chaos("identity") == pytest.approx(1, rel=1e-6)
    assert lines.order_to_chaos("relu") == pytest.approx(np.sqrt(2), rel=1e-3)
    assert lines.order_to_chaos("tanh") > 1, "its slope is below 1 but at 0"


def test_slopes_are_those_of_the_activations():
    z = np.linspace(-4, 4, 800)
    for name, (phi, slope) in lines.NODES.items():
        np.testing.assert_allclose((phi(z + 1e-5) - phi(z - 1e-5)) / 2e-5, slope(z), atol=1e-6, err_msg=name)


def made(boundary, line):
    """A run whose students have learnt all but 1e-4 below the boundary and the line; above the boundary they diverged."""
    temperature, sigma = 2.0 ** np.arange(-6, 3, 0.5), 2.0 ** np.arange(-3, 7)
    loss = np.ones((2, temperature.size, sigma.size, 3))
    cold = temperature[:, None, None] < np.array(boundary)
    loss[1] = np.where(cold & (sigma[:, None] < line), 1e-4, 1.0)
    diverged = np.stack([np.full(loss[0].shape, -1), np.where(cold | np.zeros(loss[0].shape, bool), -1, 7)])
    loss[1][diverged[1] >= 0] = np.inf
    dims = ("step", "temperature", "sigma_w", "seed")
    coords = {"step": [0, 10], "temperature": temperature, "sigma_w": sigma, "seed": [0, 1, 2]}
    return xr.Dataset({"test_loss": (dims, loss), "diverged_step": (dims, diverged)}, coords)


def test_boundaries_are_found_where_they_are():
    left = lines.remaining(made([0.3, 1.2, 3.0], 10.0))
    assert float(left.max()) == 0, "who diverged knows nothing, and no more"
    assert lines.critical_temperature(left).values == pytest.approx(np.log2([0.3, 1.2, 3.0]), abs=0.5)
    jump = lines.critical_temperature(left.clip(min=-4))
    assert lines.critical_temperature(left - 8 * (left < -2)).values == pytest.approx(jump.values), "however much is learnt"
    assert jump.values == pytest.approx([-1.75, 0.25, 1.75], abs=1e-6), "in the middle of the cell"
    cold = left.isel(temperature=0)
    assert lines.jamming_line(cold).values == pytest.approx(np.log2(10), abs=1)
    assert np.isnan(lines.jamming_line(lines.remaining(made([0.3, 1.2, 3.0], 1e3)).isel(temperature=0))).all()


def test_a_linear_network_loses_stability_where_its_closed_form_says():
    """v = w3 (x) phi, so that H = w3 w3^T (x) E phi phi^T, of rank 3: the number of inputs."""
    network, kind = pj.Network((3, 32, 16, 1), "identity", trainable=(2,)), pj.TeacherStudent(samples=400, test_samples=2)

    @jax.jit  # compiled, so that rounding is that of a run
    def of_seed(label):
        task = make_task(network, kind, 1, jnp.float32, label)
        return of_teacher(network, mse, task), task.features, task.teacher["3"]

    for seed in range(8):
        found, phi, readout = jax.tree.map(lambda array: np.array(array, float), of_seed(jnp.int32(seed)))
        values, vectors = np.linalg.eigh(phi.T @ phi / len(phi))
        size = (readout**2).sum()
        sharpness, along = size * values[-1], phi @ vectors[:, -1]
        noise = size**2 * ((phi**2).sum(1) * along**2).mean() / sharpness
        assert found == pytest.approx((sharpness, noise), rel=1e-4)


@pytest.mark.long
def test_a_linear_network_is_lost_where_products_of_its_random_matrices_grow():
    """What is off goes by a <- (1 - epsilon |w3|^2 <phi phi^T>_batch) a in the three dimensions of phi: where its Lyapunov
    exponent changes sign, half an octave and more above s = 2, at which a few rare students make the mean square grow."""
    experiment = pj.Experiment(
        network=pj.Network((3, 32, 16, 1), "identity", trainable=(2,)),
        sgd=pj.Sgd(order="iid"),
        grid=pj.Grid(temperature=2.0 ** np.arange(-7, -2.9, 0.125), sigma_w=[0.125, 1.0], seeds=6),
        schedule=pj.Schedule(20_000, records_per_decade=1),
        observe=("test_loss", "teacher_sharpness", "teacher_noise_sharpness", "diverged_step"),
    )
    run = pj.simulate(experiment)
    lost, formula = lines.critical_temperature(lines.remaining(run)), lines.edge(run)
    temperature, random = 2.0 ** np.arange(-8, -2, 0.125), np.random.default_rng(0)
    grows = []
    for seed in range(6):
        task = make_task(experiment.network, experiment.task, 1, jnp.float32, jnp.int32(seed))
        phi, size = np.array(task.features, float), float((task.teacher["3"] ** 2).sum())
        phi = phi @ np.linalg.svd(phi, full_matrices=False)[2][:3].T
        off, growth = np.full((temperature.size, 3), 3**-0.5), np.zeros(temperature.size)
        for _ in range(4000):
            batch = phi[random.integers(0, len(phi), 4)]
            off = off - temperature[:, None] * size * (off @ batch.T) @ batch
            norm = np.linalg.norm(off, axis=1, keepdims=True)
            off, growth = off / norm, growth + np.log(norm[:, 0])
        grows.append(np.log2(np.interp(0, growth[growth.argmin() :], temperature[growth.argmin() :])))
    np.testing.assert_allclose(lost, grows, atol=0.15)
    assert (lost - formula).min() > 0.4
