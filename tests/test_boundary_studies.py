"""What the studies of the temperature boundary make of runs, on runs of which the answer is known."""

import numpy as np
import pytest
import xarray as xr
from conftest import small

import phasejax as pj
from phasejax.analysis.stability import diverged, edge_where_s_is_2, lost, relative, stability_edge, transition
from phasejax.analysis.statistics import log10
from phasejax.claims import ABSENT, check
from phasejax.studies.batch_size import claims as by_batch
from phasejax.studies.finite_size.figures import smooth_curve
from phasejax.studies.finite_size.numbers import disconnected, parts, rescaled
from phasejax.studies.stability.claims import other_teacher

TEMPERATURE = 2.0 ** (np.arange(-24, 17) / 4)
OFFSETS = np.array([-0.7, -0.2, 0.1, 0.55])
"""Octaves of T_0 of four teachers."""


def made_up(curve, students=1, noise=0.0, batch=4):
    """A run in which log10 of the loss is a curve of log2 T / T_0, and T_0 = 2 ** OFFSETS; `students` of each teacher."""
    teacher = np.repeat(np.arange(OFFSETS.size), students)
    edge = 2.0 ** OFFSETS[teacher]
    log_loss = curve(np.log2(TEMPERATURE[:, None] / edge))
    log_loss = log_loss + noise * np.random.default_rng(0).normal(size=log_loss.shape)
    loss = np.stack([np.full_like(log_loss, 1e-3), 10.0**log_loss])
    experiment = small(grid=pj.Grid(temperature=[1.0, 2.0], sigma_w=1.0, seeds=2), sgd=pj.Sgd(batch_size=batch))
    return xr.Dataset(
        {
            "test_loss": (("step", "temperature", "seed"), loss),
            "diverged_step": (("step", "temperature", "seed"), np.full(loss.shape, -1)),
            "teacher_sharpness": ("seed", 0.25 / edge),
            "teacher_noise_sharpness": ("seed", (2 - (batch - 1) * 0.25) / edge),
        },
        {"step": [0, 100], "temperature": TEMPERATURE, "seed": np.arange(teacher.size), "teacher": ("seed", teacher)},
        {"experiment": experiment.to_toml(), "format_version": 2, "axes": "temperature"},
    )


def rise(at, width=1.0):
    return lambda octaves: -6 + 4 / (1 + np.exp(-(octaves - at) / width))


@pytest.mark.parametrize("batch", [1, 4])
def test_temperatures_of_students_are_found_where_they_are(batch):
    run = made_up(rise(1.5), batch=batch)
    np.testing.assert_allclose(np.log2(stability_edge(run)), OFFSETS)
    np.testing.assert_allclose(np.log2(transition(run, 1e-4).isel(step=-1)), OFFSETS + 1.5, atol=0.02)
    # 10^-3 is at log2(T / T_0) = 1.5 + log 3.
    np.testing.assert_allclose(np.log2(lost(run).isel(step=-1)), OFFSETS + 1.5 + np.log(3), atol=0.02)
    assert transition(run, 1e-9).isnull().all()
    overflown = run.assign(diverged_step=run.diverged_step.where((run.temperature < 1) | (run.step == 0), 50))
    np.testing.assert_allclose(np.log2(diverged(overflown).isel(step=-1)), -0.125)
    np.testing.assert_allclose(np.log2(lost(overflown).isel(step=-1)), np.full(4, -0.125), atol=0.05)
    assert float(transition(overflown, 1e-4).isel(step=-1, seed=3)) != pytest.approx(2 ** (OFFSETS[3] + 1.5))


def test_temperature_is_the_parameter_of_single_samples_and_the_learning_rate_of_large_batches():
    """T_0 = 2 / q at B = 1, epsilon_0 = B T_0 = 2 / lambda at B >> q / lambda, and half of either where these meet."""
    sharpness, noise = 2.0, 6.0
    assert edge_where_s_is_2(sharpness, noise, 1) == pytest.approx(2 / noise)
    assert 1e7 * edge_where_s_is_2(sharpness, noise, int(1e7)) == pytest.approx(2 / sharpness, rel=1e-6)
    meet = 1 + noise / sharpness
    assert edge_where_s_is_2(sharpness, noise, int(meet)) == pytest.approx(1 / noise)


def test_values_against_t_over_t_0_are_those_of_every_teacher():
    run = made_up(lambda octaves: -6 + 0.5 * octaves)
    found = relative(log10(run.test_loss).isel(step=-1), stability_edge(run), (0.5, 1.0, 3.0, 2.0**10))
    np.testing.assert_allclose(
        found.transpose("relative_temperature", "seed")[:3], np.full((3, 4), [[-6.5], [-6], [-6 + 0.5 * np.log2(3)]])
    )
    assert found.sel(relative_temperature=2.0**10).isnull().all()


def test_variances_among_students_and_between_teachers_are_told_apart():
    rng = np.random.default_rng(1)
    teacher = np.repeat(np.arange(400), 8)
    values = xr.DataArray(
        3 + 2 * rng.normal(size=400)[teacher] + 0.7 * rng.normal(size=3200),
        dims="seed",
        coords={"teacher": ("seed", teacher)},
    )
    means = parts(values).mean("seed")
    table = values.values.reshape(400, 8)
    assert float(means.connected) == pytest.approx(table.var(1, ddof=1).mean())
    assert float(disconnected(means)) == pytest.approx(table.mean(1).var() - table.var(1, ddof=1).mean() / 8)
    assert float(means.connected) == pytest.approx(0.49, rel=0.1)
    assert float(disconnected(means)) == pytest.approx(4, rel=0.2)


def test_one_curve_for_all_leaves_no_variance_at_equal_t_over_t_0():
    """The null of finite size: what differs at equal T is the spread of T_0, and the curve convolved with it is all."""
    run = made_up(rise(1.5), students=4)
    alike = parts(rescaled(run).isel(step=-1)).mean("seed")
    at_equal_t = parts(log10(run.test_loss).isel(step=-1)).mean("seed")
    assert float(disconnected(alike).max()) < 1e-3 < 0.1 < float(disconnected(at_equal_t).max())
    within = (TEMPERATURE > 1) & (TEMPERATURE < 16)
    np.testing.assert_allclose(smooth_curve(run)[within], disconnected(at_equal_t)[within], rtol=0.05, atol=2e-3)
    other = other_teacher.of(run)
    assert float(disconnected(parts(rescaled(other).isel(step=-1)).mean("seed")).max()) > 0.1
    assert len(set(other.teacher_sharpness.values)) == len(set(run.teacher_sharpness.values)) == 4, (
        "a teacher's students have one"
    )


def test_a_teacher_without_a_temperature_at_one_batch_size_counts_at_none(monkeypatch):
    found = xr.Dataset(
        {"T_0": (("batch", "seed"), np.zeros((2, 3))), "T_c drawn": (("batch", "seed"), [[1, np.nan, 2], [3, 4, 5]])},
        {"batch": [1, 4]},
    )
    monkeypatch.setattr(by_batch, "edges", lambda tree: found)
    taken = by_batch.over_edge("T_c drawn")(xr.DataTree()).isel(step=0)
    for values in (taken.above, taken["at"]):
        np.testing.assert_array_equal(values.transpose("batch", "seed"), [[1, np.nan, 2], [3, np.nan, 5]])


@pytest.mark.parametrize("name", ["activations", "batch_size", "digits", "finite_size", "jamming", "stability", "theory"])
def test_claims_on_members_that_are_not_there_yet_are_not_judged(name):
    tree = xr.DataTree.from_dict({"drawn,batch_size=4" if name == "batch_size" else "another": made_up(rise(1.5))})
    assert {verdict.verdict for verdict in check(tree, pj.read_study(name).claims)} == {ABSENT}


@pytest.mark.parametrize("name", ["stability", "batch_size", "finite_size"])
def test_studies_are_whole(name):
    study = pj.read_study(name)
    assert study.title.endswith("?")
    assert [preset for preset, _ in study.study.presets] == ["quick", "desk"]
    members = study.study.at("quick").experiments()
    assert all(member.sgd.order == "iid" for member in members.values())
    assert all(claim.null and claim.over == "study" for claim in study.claims)
    assert study.figures
    if name == "batch_size":
        assert len({member.schedule.steps * member.sgd.batch_size for member in members.values()}) == 1, (
            "equal epsilon t at equal T"
        )
