"""One bootstrap and one finder of crossings, for figures and claims alike."""

import numpy as np
import pytest
import xarray as xr

from phasejax.analysis.statistics import bootstrap, crossings


def test_the_bootstraps_error_of_a_mean_is_the_textbooks():
    values = xr.DataArray(np.random.default_rng(1).standard_normal(200), dims="seed")
    means = values.weighted(bootstrap(values, 2000)).mean("seed")
    assert float(means[0]) == pytest.approx(float(values.mean()))
    assert float(means[1:].std()) == pytest.approx(float(values.std()) / np.sqrt(200), rel=0.1)


def test_replicas_of_a_teacher_are_drawn_together():
    """Sixteen replicas that differ in nothing are one draw: the error is that of the teachers' mean."""
    teachers = np.repeat(np.arange(20), 16)
    between = np.random.default_rng(2).standard_normal(20)
    values = xr.DataArray(between[teachers], {"teacher": ("seed", teachers)}, dims="seed")
    weights = bootstrap(values, 2000)
    assert all(len(np.unique(weights.values[:, teachers == k], axis=1).T) == 1 for k in range(20))
    error = float(values.weighted(weights).mean("seed")[1:].std())
    assert error == pytest.approx(between.std() / np.sqrt(20), rel=0.1)
    apart = float(values.weighted(bootstrap(values.drop_vars("teacher"), 2000)).mean("seed")[1:].std())
    assert apart < error / 3


@pytest.mark.parametrize("rising", [False, True])
def test_crossings_of_a_known_wave(rising):
    t = np.logspace(0, 3, 400)
    wave = xr.DataArray(np.sin(np.log10(t) * 2 * np.pi)[::-1], {"temperature": t[::-1]}, dims="temperature")
    found = crossings(wave, 0.5, "temperature", rising).dropna("crossing").values
    up, down = 10 ** (np.arange(3) + 1 / 12), 10 ** (np.arange(3) + 5 / 12)
    expected = up if rising else np.sort(np.concatenate([up, down]))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    both = xr.concat([wave, 0 * wave], "sigma_w")
    assert crossings(both, 0.5, "temperature").notnull().sum("crossing").values.tolist() == [6, 0]
    assert crossings(both, xr.DataArray([0.5, 2.0], dims="level"), "temperature").dims == ("sigma_w", "level", "crossing")
