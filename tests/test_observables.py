"""Observables against closed forms and against NumPy written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small

import phasejax
from phasejax import ExperimentError, FromDraw, Grid, Network, Observable, Schedule, TeacherStudent, seed
from phasejax.observables.standard import eigenvalues
from phasejax.state import Task


def test_marchenko_pastur_edges():
    """Eq 4.2: for a 512 x 1024 Gaussian matrix the spectrum ends at sigma^2 (1 -+ sqrt(r))^2."""
    sigma = 0.125
    w = sigma * np.random.default_rng(0).standard_normal((512, 1024)) / np.sqrt(1024)
    with jax.enable_x64(True):
        x = np.array(eigenvalues(jnp.asarray(w)))
    low, high = sigma**2 * (1 - np.sqrt(0.5)) ** 2, sigma**2 * (1 + np.sqrt(0.5)) ** 2
    # Edges fluctuate by n^(-2/3) (Tracy-Widom), about one per cent here.
    assert x[-1] == pytest.approx(high, rel=0.02)
    assert x[0] == pytest.approx(low, rel=0.02)
    assert x.mean() == pytest.approx(sigma**2, rel=0.01)


@pytest.mark.parametrize("shape", [(16, 32), (5, 3), (4, 4), (1, 7)])
def test_eigenvalues_are_those_of_w_w_transposed(shape):
    w = np.random.default_rng(1).standard_normal(shape)
    with jax.enable_x64(True):
        x = np.array(eigenvalues(jnp.asarray(w)))
    np.testing.assert_allclose(x, np.linalg.eigvalsh(w @ w.T), atol=1e-12)
    assert np.isnan(eigenvalues(jnp.full(shape, jnp.nan))).all()


def made(experiment, label):
    """The task of a seed."""

    def make(label):
        return seed.make_task(experiment.network, experiment.task, experiment.grid.replicas, experiment.precision, label)

    return jax.jit(make)(jnp.int32(label))


def test_the_standard_set_against_numpy():
    experiment = small(
        grid=Grid(temperature=(0.25, 1.0), sigma_w=(1.0, 0.125), seeds=2), schedule=Schedule(40), precision="float64"
    )
    probe = Observable(
        "probe",
        lambda s, t: jnp.stack([jnp.sum(s.features), s.numbers["sigma_w"], s.numbers["learning_rate"]]),
        "probe",
        ("part",),
    )
    data = phasejax.simulate(experiment, observe=["standard", probe])
    with jax.enable_x64(True):
        captured = jax.tree.map(np.array, made(experiment, 1))
    for i, j in ((0, 0), (1, 1), (0, 1)):
        cell = data.isel(temperature=i, sigma_w=j, seed=1)
        w, w0 = cell.weights.values[-1], cell.weights.values[0]
        w3, y = captured.teacher["3"], captured.test_targets
        phi, phi0 = np.tanh(captured.test_features @ w.T), np.tanh(captured.test_features @ w0.T)
        field = y @ w3
        teacher = captured.test_teacher_features
        end = cell.isel(step=-1)

        def cosine(a, b):
            return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())

        full = np.tanh(captured.features @ w.T)
        delta = ((full @ w3.T - captured.targets) * w3 * (1 - full**2)).T @ captured.features / len(full)
        expected = {
            "test_loss": 0.5 * np.mean((phi @ w3.T - y) ** 2),
            "G_t0": np.mean(phi * phi0),
            "G_00": np.mean(phi0**2),
            "G_tt": np.mean(phi**2),
            "alignment": cosine(field, phi),
            "feature_overlap": cosine(phi, teacher),
            "teacher_overlap": cosine(w, captured.teacher["2"]),
            # The window is the last epoch, 20 updates, and opened at step 20, whose weights are not in the file.
        }
        for name, value in expected.items():
            assert float(end[name]) == pytest.approx(value, rel=1e-10), name
        np.testing.assert_allclose(end.eigenvalues, np.linalg.eigvalsh(w @ w.T), rtol=1e-8)
        np.testing.assert_allclose(
            cell.target_eigenvalues, np.linalg.eigvalsh(captured.teacher["2"] @ captured.teacher["2"].T), rtol=1e-8
        )
        assert float(cell.full_gradient_norm[-1]) == pytest.approx(np.linalg.norm(delta), rel=1e-10)
        np.testing.assert_allclose(end.probe, [phi.sum(), float(cell.sigma_w), float(cell.learning_rate)], rtol=1e-10)


def test_the_gradient_while_w_moves_is_the_displacement_over_the_window():
    experiment = small(schedule=Schedule(10, records_per_decade=1), precision="float64")
    data = phasejax.simulate(experiment)
    moved = data.weights.sel(step_decades=10) - data.weights.sel(step_decades=0)
    expected = np.sqrt((moved**2).sum(("node", "input"))) / data.learning_rate / 10
    expected = expected.transpose(*data.gradient_norm.isel(step=-1).dims)
    np.testing.assert_allclose(data.gradient_norm.sel(step=10), expected, rtol=1e-10)
    assert np.isnan(data.gradient_norm.sel(step=0)).all()
    assert np.isnan(data.train_loss.sel(step=0)).all()


def test_the_gradient_of_the_last_epoch_is_the_displacement_over_it():
    long, short = (phasejax.simulate(small(schedule=Schedule(steps), precision="float64")) for steps in (40, 20))
    moved = long.weights.sel(step_decades=40) - short.weights.sel(step_decades=20)
    expected = np.sqrt((moved**2).sum(("node", "input"))) / long.learning_rate / 20
    found = long.gradient_norm.sel(step=40)
    np.testing.assert_allclose(found, expected.transpose(*found.dims), rtol=1e-9)


def test_the_window_is_the_last_epoch():
    """Train loss at 2 epochs, from sums over all records' windows: epochs are averaged apart from each other."""
    experiment = small(schedule=Schedule(40, records_per_decade=100), precision="float64")
    data = phasejax.simulate(experiment)
    assert {20, 40} <= set(data.step.values.tolist())
    first = phasejax.simulate(small(schedule=Schedule(20), precision="float64"))
    np.testing.assert_allclose(data.train_loss.sel(step=20), first.train_loss.sel(step=20), rtol=1e-12)
    # In the ordered cell training has made progress, so the second epoch's mean is the lower one.
    ordered = data.train_loss.sel(temperature=2**-5, sigma_w=0.125).mean("seed")
    assert float(ordered.sel(step=40)) < float(ordered.sel(step=20))


@pytest.mark.long
def test_several_trained_layers_have_a_variable_each():
    network = Network((3, 6, 4, 1), "relu", (1, 2))
    data = phasejax.simulate(small(network=network, schedule=Schedule(5)))
    assert data.eigenvalues_1.dims[-1] == "level_1"
    assert data.sizes["level_1"] == 6
    assert data.sizes["level_2"] == 4
    assert data.weights_2.dims[-2:] == ("node_2", "input_2")
    assert float(data.eigenvalues_1[0, 0, 0, 0, :3].max()) == 0  # 6 nodes of 3 inputs: rank 3


def test_ones_own_observable_must_have_a_name_of_its_own():
    with pytest.raises(ExperimentError, match="observe = 'test_loss'"):
        phasejax.simulate(small(), observe=[Observable("test_loss", lambda s, t: s.step, "mine")])


def test_scales_of_layers():
    draws = {"1": jnp.ones((2, 3)), "2": jnp.ones((4, 2))}
    task = Task(0, {}, draws, {}, {}, (), (), ())
    network = Network((3, 2, 4, 1), "tanh", (1, 2), sigma_w_scale=(1.0, 0.25))
    starts = seed.start(network, FromDraw(), task, jnp.int32(0), jnp.float32(8.0))
    assert {name: float(w[0, 0]) for name, w in starts.items()} == {"1": 8.0, "2": 2.0}


def test_an_observable_must_give_what_it_declares():
    for function, dims, word in (
        (lambda s, t: s.features, (), "2 axes"),
        (lambda s, t: s.step > 0, (), "bool"),
        (lambda s, t: None, (), "no array"),
        (lambda s, t: s.step, ("seed",), "dims"),
    ):
        with pytest.raises(ExperimentError, match=word):
            phasejax.simulate(small(), observe=[Observable("mine", function, "mine", dims)])
    for name in ("temperature", "level", "two words"):
        with pytest.raises(ExperimentError, match="observe"):
            phasejax.simulate(small(), observe=[Observable(name, lambda s, t: s.step, "mine")])
    with pytest.raises(ExperimentError, match="sometimes"):
        phasejax.simulate(small(), observe=[Observable("mine", lambda s, t: s.step, "mine", when="sometimes")])


def test_seeds_have_data_of_their_own_and_share_the_test_inputs():
    experiment = small(task=TeacherStudent(samples=8, test_samples=4), network=Network(trainable=(1,)))
    first, second = (made(experiment, label) for label in (0, 1))
    assert (first.test_features == second.test_features).all()
    assert not (first.features == second.features).any()
