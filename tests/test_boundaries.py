"""Boundaries recovered from data made with a known one, and intervals that cover as often as they say."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import phasejax
from phasejax import Grid
from phasejax.analysis import boundaries
from phasejax.analysis.statistics import crossings
from phasejax.experiment import Experiment, Network

TEMPERATURES = 2.0 ** np.arange(-5, 7)
SIGMAS = 2.0 ** -np.arange(-8, 4)


def run_with_line(t_c, seeds=100, width=0.3, rng=None):
    """A Dataset whose students converge below a temperature that scatters (in log T) around t_c(1/sigma_W)."""
    rng = rng or np.random.default_rng(0)
    inverse = 1 / SIGMAS
    own = np.log(t_c(inverse))[:, None] + width * rng.standard_normal((len(SIGMAS), seeds))
    # Eq 4.15 with V_S = 1: converged iff restoring * 4 sqrt(r) sigma^2 / (n2 - 1) >= T.
    bound = 4 * np.sqrt(0.5) * SIGMAS**2 / 15
    restoring = np.exp(own) / bound[:, None]
    shape = (1, len(TEMPERATURES), len(SIGMAS), seeds, 1)
    restoring = np.broadcast_to(restoring[None, None, :, :, None], shape).copy()
    dims = ("step", "temperature", "sigma_w", "seed", "reading")
    return xr.Dataset(
        {"restoring": (dims, restoring), "V_S": (dims, np.ones(shape)), "eigenvalues": ("level", np.ones(16)),
         "weights": (("node", "input"), np.ones((16, 32)))},
        coords={"temperature": TEMPERATURES, "sigma_w": SIGMAS, "inverse_sigma_w": ("sigma_w", inverse), "step": [100],
                "reading": ["drift"]},
        attrs={"experiment": Experiment().to_toml()},
    )  # fmt: skip


def test_a_known_line_is_recovered():
    data = run_with_line(lambda x: 2.0 / np.sqrt(1 + x))
    found = boundaries.transition(data)
    # 68 % converge where T is 0.47 standard deviations below the median.
    expected = 2.0 / np.sqrt(1 + found.inverse_sigma_w) * np.exp(0.3 * stats.norm.ppf(0.32))
    assert (np.abs(np.log2(found.T_c / expected)) < 0.5).all(), "within half a cell"
    assert (found.crossings.notnull().sum("crossing") == 1).all()
    assert ((found.T_c_low <= found.T_c) & (found.T_c <= found.T_c_high)).all()
    assert ((found.T_below <= found.T_c) & (found.T_c < found.T_above)).all()
    line = boundaries.contours(boundaries.fraction(data).fraction.isel(step=-1), 0.68)
    assert len(line) == 1
    x, t = line[0]
    along = 2.0 / np.sqrt(1 + x) * np.exp(0.3 * stats.norm.ppf(0.32))
    assert np.abs(np.log2(t / along)).max() < 0.5


def test_no_crossing_is_nan_and_several_are_listed():
    always = boundaries.transition(run_with_line(lambda x: 1e6 * x**0))
    assert np.isnan(always.T_c).all()
    assert always.crossings.isnull().all()
    back = run_with_line(lambda x: 1 + 0 * x)
    back.restoring[:, -2:, 0] = np.inf  # the first sigma_W converges again at the highest temperatures
    back.restoring[:, :, 1] = np.inf
    found = boundaries.transition(back)
    assert found.crossings.dims == ("sigma_w", "crossing")
    assert (found.crossings.notnull().sum("crossing") == np.array([2, 0] + [1] * 10)).all()
    share = boundaries.fraction(back).fraction.isel(step=-1)
    for column, row in zip(share.transpose("sigma_w", ...), found.crossings, strict=True):
        np.testing.assert_allclose(row.dropna("crossing"), crossings(column, 0.68, "temperature").dropna("crossing"))
    assert float(found.T_c[0]) == float(found.crossings[0].dropna("crossing")[1])
    values = xr.DataArray([1.0, 0.0, 1.0, 0.0], dims="temperature", coords={"temperature": [1.0, 4.0, 16.0, 64.0]})
    np.testing.assert_allclose(crossings(values, 0.5, "temperature"), [2.0, 8.0, 32.0])
    assert crossings(values, 2.0, "temperature").isnull().all()


def test_bootstrap_covers_as_often_as_it_says():
    truth = np.exp(0.3 * stats.norm.ppf(0.32))  # of the fraction as a function of T at seeds -> infinity ...
    fraction = xr.DataArray(stats.norm.sf(np.log(TEMPERATURES) / 0.3), {"temperature": TEMPERATURES}, dims="temperature")
    truth = float(crossings(fraction, 0.68, "temperature").max())  # ... and of its interpolation on the grid
    hits, trials = 0, 0
    for k in range(30):
        data = run_with_line(lambda x: x**0, rng=np.random.default_rng(k + 1)).isel(sigma_w=slice(0, 6))
        # Every cell must draw its own students here: the line of a column interpolates between independent cells.
        rng = np.random.default_rng(1000 + k)
        own = (
            np.exp(0.3 * rng.standard_normal(data.restoring.shape))
            / (4 * np.sqrt(0.5) * data.sigma_w.values**2 / 15)[:, None, None]
        )
        found = boundaries.transition(data.assign(restoring=(data.restoring.dims, own)), resamples=300)
        hits += int(((found.T_c_low <= truth) & (truth <= found.T_c_high)).sum())
        trials += found.sizes["sigma_w"]
    # Binomial: 180 trials at 68 % scatter by 3.5 %; the bootstrap itself is a little narrow at 100 seeds.
    assert 0.58 < hits / trials < 0.78


def test_clopper_pearson_interval():
    data = run_with_line(lambda x: x**0, seeds=10)
    found = boundaries.fraction(data, confidence=0.95)
    for k in range(11):
        at = found.where(np.isclose(found.fraction, k / 10))
        if at.fraction.notnull().any():
            interval = stats.binomtest(k, 10).proportion_ci(0.95, method="exact")
            assert float(at.low.max()) == pytest.approx(interval.low, abs=1e-9)
            assert float(at.high.max()) == pytest.approx(interval.high, abs=1e-9)


def test_students_without_finite_dynamics_have_not_converged():
    data = run_with_line(lambda x: 1e6 * x**0)
    assert boundaries.converged(data).all()
    data.restoring[..., 0, 0] = np.nan
    assert not boundaries.converged(data).isel(seed=0).any()


def test_a_layer_that_starts_at_a_scale_of_its_own_has_its_own_bound():
    data = run_with_line(lambda x: 2.0 / np.sqrt(1 + x))
    scaled = dataclasses.replace(Experiment(), network=Network(trainable=(2,), sigma_w_scale=(2.0,))).to_toml()
    # The bound goes with sigma_W^2, so four times the restoring drift passes for the same.
    four_times = data.assign(restoring=4 * data.restoring)
    assert not boundaries.converged(four_times).equals(boundaries.converged(data))
    assert boundaries.converged(four_times).equals(boundaries.converged(data.assign_attrs(experiment=scaled)))


@pytest.mark.long
def test_jamming_line_is_where_side_peaks_appear():
    """Those of this teacher ensemble vanish near 1/sigma_W = 0.68, not at sqrt 2, whatever the grid's resolution."""
    grid = Grid(temperature=(1.0,), sigma_w=tuple(2.0 ** (k / 4) for k in range(5)), seeds=60)
    experiment = dataclasses.replace(
        Experiment(), grid=grid, schedule=phasejax.Schedule(0), task=phasejax.TeacherStudent(samples=4)
    )
    run = phasejax.simulate(experiment, observe=("feature_density", "target_eigenvalues", "test_loss"))
    assert boundaries.measured_jamming_line(run) == pytest.approx((2**-0.75, 2**-0.5))
    assert boundaries.measured_jamming_line(run.isel(sigma_w=[4, 0])) == pytest.approx((0.5, 1))
    assert np.isnan(boundaries.measured_jamming_line(run.isel(sigma_w=slice(3)))).all()
    unbounded = run.assign_attrs(experiment=run.attrs["experiment"].replace("tanh", "relu"))
    assert np.isnan(boundaries.measured_jamming_line(unbounded)).all()
    assert pytest.approx(1.41421356) == boundaries.PAPER_JAMMING_LINE
