"""Above T = 2^-2 training is chaotic: there engines agree as distributions over the ensemble, observable by observable."""

import functools

import jax
import numpy as np
import pytest
from conftest import small
from scipy.stats import kstwo

import phasejax
from phasejax import ExperimentError, Grid, Schedule, Sgd

CHAOTIC = (0.5, 64.0)
# A family of tests errs with at most this probability if engines do agree: each has this over their number (Bonferroni),
# whatever their dependence. Seeds are fixed and shared, so the outcome is always the same, and closer than chance.
LEVEL = 0.01


def ends(engine="autodiff", precision="float32", order="cyclic", temperature=CHAOTIC):
    """The last record of an ensemble: {variable: (cell, component, seed)}, where it has a seed and is defined."""
    grid = Grid(temperature=temperature, sigma_w=(256.0, 1.0, 0.125), seeds=256)
    experiment = small(grid=grid, schedule=Schedule(400, records_per_decade=1), sgd=Sgd(order=order), precision=precision)
    try:
        run = phasejax.simulate(experiment, engine=engine)
    except ExperimentError as reason:
        if "compiler" not in str(reason):
            raise
        pytest.skip(str(reason))
    found = {}
    for name, values in run.data_vars.items():
        if {"seed", "temperature"} <= set(values.dims):
            last = values.isel({dim: -1 for dim in values.dims if str(dim).startswith("step")})
            last = last.transpose("temperature", "sigma_w", ..., "seed").values
            found[name] = last.reshape(6, -1, last.shape[-1]).astype(float)
    return found


def p_values(a, b):
    """Two-sided Kolmogorov-Smirnov tests of two samples of equal size along the last axis (asymptotic, ties allowed)."""
    both = np.concatenate([a, b], -1)
    order = np.argsort(both, -1, kind="stable")
    n, values = a.shape[-1], np.take_along_axis(both, order, -1)
    gap = np.abs(np.cumsum(np.where(order < n, 1, -1), -1)) / n
    last_of_its_value = np.concatenate([values[..., 1:] != values[..., :-1], np.ones_like(values[..., :1], bool)], -1)
    distance = np.where(last_of_its_value, gap, 0).max(-1)
    distinct, where = np.unique(distance, return_inverse=True)
    return kstwo.sf(distinct, n // 2)[where]


def rejected(a, b):
    """Names of variables whose distributions differ in some cell and component, at `LEVEL` for all of them together."""
    p = {name: p_values(a[name], b[name]) for name in a}
    threshold = LEVEL / sum(value.size for value in p.values())
    return {name for name, value in p.items() if (value < threshold).any()}


@functools.cache
def reference(precision, order):
    return ends("autodiff", precision, order)


def agree(found, expected):
    assert found.keys() == expected.keys() >= {"test_loss", "G_t0", "eigenvalues", "V_S", "weights", "feature_density"}
    apart = np.abs(found["weights"] - expected["weights"]).max((1, 2)) / np.abs(expected["weights"]).max((1, 2))
    assert apart.max() > 0.01, "these trajectories have parted, or it would be enough to compare them"
    assert not rejected(found, expected)


ORDERS = ["cyclic", *(pytest.param(order, marks=pytest.mark.long) for order in ("shuffled", "iid"))]
PRECISIONS = ["float32", pytest.param("float64", marks=pytest.mark.long)]


@pytest.mark.long
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_kernel_has_equal_distributions_where_training_is_chaotic(order, precision):
    agree(ends("native", precision, order), reference(precision, order))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_gpu_kernel_has_them_too(order, precision):
    if jax.devices()[0].platform != "gpu":
        pytest.skip("needs a GPU: interpreted it would take minutes")
    agree(ends("pallas", precision, order), reference(precision, order))


@pytest.mark.long
def test_a_learning_rate_off_by_a_fifth_is_seen():
    other = ends(temperature=tuple(1.2 * t for t in CHAOTIC))
    assert {"test_loss", "eigenvalues", "gradient_norm"} & rejected(other, reference("float32", "cyclic"))


def test_p_values_are_scipys():
    from scipy.stats import ks_2samp

    a, b = np.random.default_rng(0).integers(0, 40, (2, 5, 64)).astype(float)
    b += np.arange(5)[:, None] * 4
    expected = [ks_2samp(x, y, method="asymp").pvalue for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(p_values(a, b), expected, rtol=1e-9)
