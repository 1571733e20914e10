"""The comparison of precisions sees a difference where there is one, and says so in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1]))  # experiments/ is in the checkout only

from experiments import precision

SEEDS = 40


def made_up(seed, shift=1.0):
    """A run of log-normal losses and eigenvalues, the losses of the ordered phase multiplied by `shift`."""
    rng = np.random.default_rng(seed)
    dims, sigma_w = ("step", "temperature", "sigma_w", "seed"), [256.0, 0.125]
    shape = (2, 4, 2, SEEDS)
    factor = np.where(np.array(sigma_w) < 1, shift, 1.0)[:, None] * np.ones((2, 4, 2, SEEDS))
    factor[:, 2:] = 1
    return xr.Dataset(
        {
            "test_loss": (dims, factor * np.exp(0.1 * rng.standard_normal(shape))),
            "G_t0": (dims, rng.standard_normal(shape)),
            "eigenvalues": ((*dims, "level"), np.exp(rng.standard_normal((*shape, 3)))),
        },
        {"step": [0, 2000], "epoch": ("step", [0.0, 2.0]), "temperature": list(precision.COLD + precision.HOT),
         "sigma_w": sigma_w},
    )  # fmt: skip


def test_equal_ensembles_show_no_difference_and_a_shifted_loss_does():
    found = precision.compare(made_up(1), made_up(2))
    assert found.tests == 3 * 2 * (1 + 1 + 3)
    assert all(abs(value) < 4 * error for value, error in found.loss.values())
    assert "no difference at the 5 % level" in precision.sentence(found, made_up(1))

    found = precision.compare(made_up(1, shift=1.5), made_up(2))
    assert found.loss["ordered"][0] == pytest.approx(0.5, abs=4 * found.loss["ordered"][1])
    assert all(abs(found.loss[phase][0]) < 4 * found.loss[phase][1] for phase in ("jammed", "paramagnetic"))
    assert ": a difference at the 5 % level" in precision.sentence(found, made_up(1))
    assert "2,000 steps (2 epochs), 40 seeds" in precision.sentence(found, made_up(1))


def test_seeds_are_drawn_in_pairs():
    """What both precisions share of a seed does not count as an error of their difference."""
    common = np.random.default_rng(3).standard_normal(SEEDS)
    value, error = precision.difference(common + 0.25, common, relative=False)
    assert value == pytest.approx(0.25)
    assert error < 1e-12


def test_it_draws_a_panel_for_each_phase_and_quantity():
    figure = precision.draw(made_up(1), made_up(2))
    assert [ax.get_title().split(",")[0] for ax in figure.axes[:3]] == list(precision.PHASES)
    assert all(len(ax.lines) == 4 for ax in figure.axes)
