"""The study of the levels' motion: its data are what they claim to be, and its sums are of what the levels do."""

import dataclasses
import itertools

import numpy as np
import pytest

import phasejax as pj
from phasejax.claims import DIFFERS, check
from phasejax.studies import Study
from phasejax.studies.folder import read_study
from phasejax.studies.theory import levels
from phasejax.studies.theory.tasks import Noise


def test_any_four_signs_are_independent():
    x, y, _, _ = Noise().load()
    signs = np.concatenate([x, y], axis=1)
    assert signs.shape == (256, 17)
    for count in (1, 2, 3, 4):
        for columns in itertools.combinations(signs.T, count):
            assert np.prod(columns, axis=0).sum() == 0
    noise = np.einsum("ai,aj->aij", y, x).reshape(256, -1)
    np.testing.assert_array_equal(noise.T @ noise / 256, np.eye(66))
    assert (np.square(x).sum(1) == 11).all()


def test_it_is_written_down_with_the_observables_of_its_members():
    study = read_study("theory").study.at("quick")
    assert Study.from_toml(study.to_toml()).experiments() == study.experiments()
    assert "phasejax.studies.theory.observables:motion" in study.to_toml()


@pytest.mark.long
def test_without_noise_levels_move_by_drift_and_finite_step():
    """Batches of all samples: what is left of the motion is of third order in the learning rate."""
    study = read_study("theory").study.at("quick")
    run = pj.simulate(
        study.experiments()["steps_iid"].changed(
            {"task.samples": 40, "sgd.batch_size": 40, "sgd.order": "cyclic", "grid.temperature": [1e-4, 2e-4],
             "grid.sigma_w": 1.0, "grid.seeds": 2, "schedule.steps": 1, "precision": "float64"}
        )
    )  # fmt: skip
    moved, parts = levels.displacement(run).isel(step=-1), levels.predicted(run).isel(step=-1)
    left = moved - parts.sel(part=["drift", "finite_step"]).sum("part")
    np.testing.assert_allclose(left.isel(temperature=1), 8 * left.isel(temperature=0), rtol=0.1, atol=1e-8)
    assert np.abs(parts.sel(part="finite_step")).max() > 10 * np.abs(left).max()


@pytest.mark.long
def test_the_whole_of_it_is_drawn_and_judged(tmp_path):
    whole = read_study("theory")
    base = dataclasses.replace(whole.study.at("quick").base, schedule=pj.Schedule(steps=1000))
    small = {name: {**dict(of), "grid.seeds": 12} for name, of in whole.study.members}
    tree = Study(base, members=small).run(tmp_path / "runs", progress=False)
    verdicts = {verdict.claim.key: verdict for verdict in check(tree, whole.claims)}
    assert all(one.measured for one in verdicts.values())
    assert verdicts["paper_trace"].verdict == DIFFERS
    assert verdicts["cyclic_cancels"].verdict != DIFFERS
    assert {one.null for one in verdicts.values()} == {DIFFERS}
    for draw in whole.figures:
        draw(tree).savefig(tmp_path / f"{draw.__name__}.png", dpi=40)
