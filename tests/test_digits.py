"""Levels that stand off a random bulk: Tracy and Widom's edge, a planted direction, and what softmax never moves."""

import numpy as np
import pytest
import xarray as xr

import phasejax as pj
from phasejax.studies.digits import levels


def test_a_random_matrix_exceeds_the_edge_once_in_twenty():
    random = np.random.default_rng(0)
    for nodes, inputs in ((32, 64), (10, 32)):
        w = random.normal(size=(3000, nodes, inputs)) / np.sqrt(inputs)
        largest = np.linalg.svd(w, compute_uv=False)[:, 0] ** 2
        assert np.mean(largest > levels.edge(nodes, inputs)) == pytest.approx(0.05, abs=0.015)


def test_the_median_is_that_of_the_density():
    random = np.random.default_rng(0)
    w = random.normal(size=(4, 160, 320)) / np.sqrt(320)
    assert np.median(np.linalg.svd(w, compute_uv=False) ** 2) == pytest.approx(levels.median(32, 64), rel=0.01)


def digits(**parts):
    return pj.Experiment(
        task=pj.Digits(),
        network=pj.Network((64, 32, 10)),
        grid=pj.Grid(temperature=[2**-6, 2**-4], sigma_w=[0.5, 1.0], seeds=2),
        schedule=pj.Schedule(360, weights="ends"),
        observe=("eigenvalues", "weights", "diverged_step"),
        **parts,
    )


@pytest.fixture(scope="module")
def run():
    pytest.importorskip("sklearn")
    return pj.simulate(digits(), engine="autodiff")


def test_a_planted_direction_stands_where_theory_puts_it(run):
    """theta u v^T in noise makes a level (1 + theta^2)(r + theta^2)/theta^2 if theta^4 > r (Benaych-Georges, Nadakuditi)."""
    random, (nodes, inputs), theta = np.random.default_rng(0), levels.shape(run, 1), 2.0
    assert (nodes, inputs) == (32, 64)
    u, v = (of / np.linalg.norm(of, axis=-1, keepdims=True) for of in (random.normal(size=(50, n)) for n in (nodes, inputs)))
    w = random.normal(size=(50, nodes, inputs)) / np.sqrt(inputs) + theta * u[:, :, None] * v[:, None, :]
    x = np.sort(np.linalg.svd(w, compute_uv=False) ** 2)
    assert x[:, -1].mean() == pytest.approx((1 + theta**2) * (nodes / inputs + theta**2) / theta**2, rel=0.03)
    planted = xr.Dataset({"eigenvalues_1": (("step", "seed", "level_1"), x[None])}, {"sigma_w": 1.0}, run.attrs)
    assert float(levels.outliers(planted, 1).mean()) == pytest.approx(1.05, abs=0.1)
    assert float(levels.bulk(planted, 1).scale.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("weakest", "strongest"), [(1.4, 2.0), (1.8, 3.0), (2.5, 6.0)])
@pytest.mark.parametrize("count", [2, 9, 12, 15])
def test_as_many_directions_are_found_as_are_planted(run, count, weakest, strongest):
    random, (nodes, inputs) = np.random.default_rng(0), levels.shape(run, 1)
    u, v = (np.linalg.qr(random.normal(size=(100, n, count)))[0] for n in (nodes, inputs))
    w = random.normal(size=(100, nodes, inputs)) / np.sqrt(inputs) + (
        u * np.linspace(weakest, strongest, count)
    ) @ v.swapaxes(1, 2)
    x = np.sort(np.linalg.svd(w, compute_uv=False) ** 2)
    planted = xr.Dataset({"eigenvalues_1": (("step", "seed", "level_1"), x[None])}, {"sigma_w": 1.0}, run.attrs)
    found = levels.bulk(planted, 1)
    lost = 0.05 * count if weakest < 1.5 else 0  # the weakest are hardly above the edge
    assert float(found.outliers.mean()) == pytest.approx(count, abs=0.25 + lost)
    assert float(found.scale.mean()) == pytest.approx(1, abs=0.1)


def test_softmax_leaves_one_direction_alone(run):
    """The gradient by the logits sums to zero over the classes, so that the readout's column sums never move."""
    w = run.weights_2
    moved = np.abs(w - w.isel(step_ends=0)).max()
    sums = w.sum("node_2")
    assert float(np.abs(sums.isel(step_ends=-1) - sums.isel(step_ends=0)).max()) < 1e-5 < 0.1 < float(moved)
    assert int(levels.outliers(run, 2).isel(step=-1).max()) <= 9


def test_shuffled_labels_are_the_same_labels_of_other_images():
    pytest.importorskip("sklearn")
    from phasejax.studies.digits.tasks import ShuffledDigits

    ours, theirs = ShuffledDigits().load(), pj.Digits().load()
    for k in (0, 2):
        np.testing.assert_array_equal(ours[k], theirs[k])
    for k in (1, 3):
        np.testing.assert_array_equal(np.sort(ours[k]), np.sort(theirs[k]))
        assert np.mean(ours[k] == theirs[k]) < 0.2
