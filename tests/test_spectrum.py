"""Functions of the spectrum against closed forms."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from phasejax import Network
from phasejax.analysis import run, spectrum


@pytest.mark.parametrize(("sigma", "ratio"), [(1.0, 0.5), (0.125, 0.5), (256.0, 0.1), (2.0, 0.99)])
def test_marchenko_pastur_integrates_to_one_and_has_mean_sigma_squared(sigma, ratio):
    low, high = spectrum.marchenko_pastur_edges(sigma, ratio)
    x = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 20_001))) / 2  # dense at the edges
    density = spectrum.marchenko_pastur(x, sigma, ratio)
    assert np.trapezoid(density, x) == pytest.approx(1, rel=1e-4)
    assert np.trapezoid(x * density, x) == pytest.approx(sigma**2, rel=1e-4)
    assert spectrum.marchenko_pastur(np.array([-1.0, 0.0, low * 0.99, high * 1.01]), sigma, ratio) == pytest.approx(0)


def test_the_layer_looked_at_is_the_last_with_a_spectrum(finished):
    experiment, path = finished
    with xr.open_dataset(path) as data:
        for network, suffix, scale in (
            (Network(trainable=(2,)), "", 1),
            (Network((3, 8, 6, 4, 2), "relu", (2, 3), (0.5, 3.0)), "_3", 3),
            (Network((3, 8, 6, 1), "tanh", (1, 3), (0.5, 3.0)), "_1", 0.5),
            (Network((3, 8, 6, 1), "tanh", (3,)), "", 1),
        ):
            other = data.assign_attrs(experiment=dataclasses.replace(experiment, network=network).to_toml())
            assert run.layer(other).suffix == suffix
            np.testing.assert_allclose(spectrum.layer_sigma_w(other), scale * data.sigma_w)


def test_edges_of_the_paper():
    assert spectrum.marchenko_pastur_edges(1 / 8, 0.5)[1] == pytest.approx(0.046, rel=0.02)
    assert spectrum.marchenko_pastur_edges(2.0**8, 0.5)[1] == pytest.approx(1.9e5, rel=0.02)


def test_functions_of_a_run(finished):
    _, path = finished
    with xr.open_dataset(path) as data:
        x = data.eigenvalues
        spacing = spectrum.level_spacing(data)
        assert spacing.dims == ("step", "temperature", "sigma_w", "seed")
        np.testing.assert_allclose(spacing, (x[..., -1] - x[..., 0]) / 15)
        rate = spectrum.rate(data)
        assert np.isnan(rate.sel(step=0)).all()
        np.testing.assert_allclose(rate.isel(step=-1), np.log(spacing[-1] / spacing[0]) / 3, rtol=1e-6)
        np.testing.assert_allclose(spectrum.memory(data).sel(step=0), 1, rtol=1e-5)
        assert float(spectrum.memory(data).max()) < 1 + 1e-5
        assert spectrum.trace_ratio(data).sel(step=0, sigma_w=1.0).mean() == pytest.approx(1, rel=0.2)


def test_spacing_ratios_of_known_ensembles(finished):
    """Even levels; independent ones, 2 log 2 - 1; three of the Gaussian orthogonal ensemble, 4 - 2 sqrt 3."""
    _, path = finished
    random = np.random.default_rng(1)
    with xr.open_dataset(path) as data:
        assert spectrum.spacing_ratio(data).dims == ("step", "temperature", "sigma_w", "seed")

        def mean(levels):
            many = xr.Dataset({"eigenvalues": (("seed", "level"), levels)}, attrs=data.attrs)
            return float(spectrum.spacing_ratio(many).mean())

    assert mean(np.arange(5.0)[None]) == 1
    assert mean(np.sort(random.random((20_000, 7)))) == pytest.approx(2 * np.log(2) - 1, abs=4e-3)
    a = random.standard_normal((40_000, 3, 3))
    assert mean(np.linalg.eigvalsh(a + a.swapaxes(1, 2))) == pytest.approx(4 - 2 * np.sqrt(3), abs=6e-3)
