"""A study makes experiments that differ in anything, trains them as any run, and opens them as one tree."""

import itertools

import numpy as np
import pytest
import xarray as xr
from conftest import FEW, small

import phasejax as pj
from phasejax.studies import Study, open_study

BASE = small(grid=pj.Grid(temperature=[2**-5, 0.25], sigma_w=1.0, seeds=2), observe=FEW)


def test_members_are_the_product_and_those_that_are_named():
    study = Study(
        BASE,
        vary={
            "sgd.batch_size": [1, 4],
            "network": [pj.Network((3, 8, 4, 1)), pj.Network((3, 8, 4, 1), "relu")],
        },
        members={"decayed": {"grid.weight_decay": 0.1, "sgd.order": "iid"}},
    )
    members = study.experiments()
    assert len(members) == 5
    assert {member.sgd.batch_size for member in members.values()} == {1, 4}
    assert members["decayed"].grid.weight_decay == 0.1
    assert members["decayed"].grid.temperature == (2**-5, 0.25)
    assert Study.from_toml(study.to_toml()) == study


def test_it_trains_what_is_missing_and_opens_all_of_it(tmp_path):
    study = Study(BASE, vary={"sgd.batch_size": [2, 4]}, question="Does B matter?")
    counter = itertools.count()
    with pytest.raises(pj.Interrupted):
        study.run(tmp_path / "batch", checkpoint_seconds=0, interrupted=lambda: next(counter) > 8)
    tree = study.run(tmp_path / "batch")
    assert list(tree.children) == ["batch_size=2", "batch_size=4"]
    assert tree.attrs["question"] == "Does B matter?"
    alone = pj.simulate(study.experiments()["batch_size=4"])
    xr.testing.assert_identical(tree["batch_size=4"].to_dataset().drop_attrs().load(), alone.drop_attrs())
    before = (tmp_path / "batch" / "batch_size=2.nc").stat().st_mtime_ns
    study.run(tmp_path / "batch").close()
    assert (tmp_path / "batch" / "batch_size=2.nc").stat().st_mtime_ns == before
    assert pj.open(tmp_path / "batch").identical(open_study(tmp_path / "batch"))
    with pytest.raises(pj.StoreError, match="holds another study"):
        Study(BASE, vary={"sgd.batch_size": [8]}).run(tmp_path / "batch")
    with pytest.raises(pj.StoreError, match="holds no study"):
        open_study(tmp_path)


@pytest.mark.parametrize("clock", ["epochs", "time"])
def test_records_fall_together_on_the_clock(clock):
    members = Study(BASE, vary={"sgd.batch_size": [1, 4, 16]}, clock=clock).experiments()
    assert [member.schedule.steps for member in members.values()] == [240, 60, 15]
    times = [np.array(member.ladder.records()) * member.sgd.batch_size for member in members.values()]
    np.testing.assert_array_equal(times[0], times[2])
    np.testing.assert_array_equal(times[1], times[2])
    assert len(times[0]) > 5
    with pytest.raises(pj.ExperimentError, match="the steps of the member batch_size=7 would be"):
        Study(pj.Experiment(sgd=pj.Sgd(order="iid")), vary={"sgd.batch_size": [7, 4]}, clock=clock)


def test_what_time_is_not_of_all_cells_alike_is_refused():
    with pytest.raises(pj.ExperimentError, match="not those of the base times a number"):
        Study(BASE, members={"a": {"grid.temperature": [0.1, 0.3]}}, clock="time")


@pytest.mark.parametrize(("parts", "words"), [
    ({"vary": {"sgd.batchsize": [1]}}, "sgd.batch_size"),
    ({"vary": {"batch_size": [1]}}, "name a field of an experiment"),
    ({"vary": {"sgd.batch_size": 3}}, "must be a list"),
    ({"vary": {"sgd.batch_size": [3]}}, "needs it to divide"),
    ({"vary": {"sgd.batch_size": [4, 4]}}, "two members have this name"),
    ({"vary": {"sgd.batch_size": [4]}, "clock": "hours"}, "steps, epochs, time"),
    ({"base": 3, "vary": {"sgd.batch_size": [4]}}, "it must be an Experiment"),
])  # fmt: skip
def test_nonsense_is_refused_in_one_sentence(parts, words):
    with pytest.raises(pj.ExperimentError, match=words) as refusal:
        Study(**({"base": BASE} | parts))
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)
