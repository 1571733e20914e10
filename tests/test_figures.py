"""What is drawn is what the Dataset says."""

import numpy as np
import pytest
import xarray as xr
from conftest import small

import phasejax
from phasejax import ExperimentError, Grid, Network, Schedule, Sgd, figures
from phasejax.figures.maps import edges


def test_loss_map_shows_the_mean_test_loss_at_the_end(finished):
    _, path = finished
    with xr.open_dataset(path) as data:
        figure = figures.loss_map(data)
        ax, bar = figure.axes
        image = ax.collections[0].get_array()
        np.testing.assert_allclose(image, data.test_loss.isel(step=-1).mean("seed"), rtol=1e-6)
    assert (ax.get_xscale(), ax.get_yscale(), bar.get_yscale()) == ("log", "log", "log")
    assert "60 steps (3 epochs), 3 seeds" in ax.get_title()


def test_eigenvalue_flow_shows_every_student(finished):
    _, path = finished
    with xr.open_dataset(path) as data:
        figure = figures.eigenvalue_flow(data)
        cells = ((2**-5, 0.125), (1.0, 0.125), (2**-5, 256.0))  # the grid's nearest to the paper's
        assert len(figure.axes) == 3
        for ax, (temperature, sigma) in zip(figure.axes, cells, strict=True):
            assert len(ax.collections) == 16
            x = data.eigenvalues.sel(temperature=temperature, sigma_w=sigma)
            drawn = ax.collections[15].get_segments()
            assert len(drawn) == 3
            np.testing.assert_allclose([path[:, 1] for path in drawn], x.isel(level=15).transpose("seed", "step"))
        assert figure.axes[0].get_lines(), "the ordered phase shows where it should go"


def test_diverged_students_are_hatched_and_left_out_of_the_mean():
    data = phasejax.simulate(small(schedule=Schedule(5)))
    data.test_loss[-1, 2, 1, 0] = np.inf
    figure = figures.loss_map(data)
    image, hatched = figure.axes[0].collections
    expected = float(data.test_loss[-1, 2, 1, 1:].mean())
    assert image.get_array()[2, 1] == pytest.approx(expected, rel=1e-6)
    assert (~hatched.get_array().mask).sum() == 1


@pytest.mark.parametrize("parts", [
    {"grid": Grid(temperatures=(1.0,), sigma_w=(1.0,), seeds=1)},
    {"network": Network((3, 6, 4, 1), "relu", (1, 2))},
    {"grid": Grid(learning_rates=(0.1, 0.2), sigma_w=(1.0, 2.0), seeds=2), "sgd": Sgd(optimiser="adam")},
    {"schedule": Schedule(0)},
])  # fmt: skip
def test_other_runs_can_be_drawn_too(tmp_path, parts):
    data = phasejax.simulate(small(**({"schedule": Schedule(5)} | parts)))
    assert len(figures.draw_all(data, tmp_path)) == 4
    with pytest.raises(ExperimentError, match="only = 99"):
        figures.draw_all(data, tmp_path, [99])


def test_edges_lie_halfway_on_a_logarithmic_axis():
    np.testing.assert_allclose(edges(np.array([1.0, 4.0, 16.0])), [0.5, 2, 8, 32])
    np.testing.assert_allclose(edges(np.array([3.0])), [3 / np.sqrt(2), 3 * np.sqrt(2)])
