"""A finished run made longer is, at its end, the long run to the bit."""

import dataclasses
import itertools

import numpy as np
import pytest
import xarray as xr
from conftest import ANOTHER_ENGINE, FEW, small

import phasejax as pj
from phasejax.files.folder import final_state

SHORT = small(
    observe=(*FEW, "full_gradient_norm"),
    schedule=pj.Schedule(40),
    grid=pj.Grid(temperature=[2**-5, 1.0], sigma_w=[1.0], seeds=4),
)
LONG = dataclasses.replace(SHORT, schedule=pj.Schedule(100))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The long run, and its state at the end."""
    path = tmp_path_factory.mktemp("long") / "run"
    pj.simulate(LONG, path).close()
    return xr.load_dataset(path.with_suffix(".nc")), final_state(path.with_suffix(".nc"))[0]


def same(path, expected):
    data, state = expected
    found, _ = final_state(path.with_suffix(".nc"))
    assert (found.step, found.marked_step) == (state.step, state.marked_step)
    for name, leaf in state.leaves.items():
        np.testing.assert_array_equal(found.leaves[name], leaf, name)
    with xr.open_dataset(path.with_suffix(".nc")) as longer:
        for axis in ("step", "step_decades", "step_ends"):
            assert longer[axis].values.tolist() == data[axis].values.tolist()
        for name in set(data.data_vars) - {"train_loss", "gradient_norm"}:
            np.testing.assert_array_equal(longer[name], data[name], name)
        # An epoch's averages are the long run's wherever both have them: windows that were open at the old end may differ.
        both = longer.train_loss.notnull() & data.train_loss.notnull()
        assert both.isel(step=slice(1, None)).mean() > 0.8
        np.testing.assert_array_equal(longer.train_loss.where(both), data.train_loss.where(both))
    assert [path.name for path in path.parent.iterdir()] == ["run.nc"]


def test_it_goes_on_from_its_last_state(tmp_path, expected):
    pj.simulate(SHORT, tmp_path / "run").close()
    longer = pj.simulate(LONG, tmp_path / "run", resume=True)
    assert int(longer.step[-1]) == 100
    longer.close()
    same(tmp_path / "run", expected)


def test_an_interruption_on_the_way_loses_neither(tmp_path, expected):
    pj.simulate(SHORT, tmp_path / "run").close()
    before = (tmp_path / "run.nc").read_bytes()
    counter = itertools.count()
    with pytest.raises(pj.Interrupted):
        pj.simulate(LONG, tmp_path / "run", resume=True, checkpoint_seconds=0, interrupted=lambda: next(counter) > 0)
    assert (tmp_path / "run.nc").read_bytes() == before
    with pj.open(tmp_path / "run") as so_far:
        assert int(so_far.step[-1]) == 40
    with pytest.raises(pj.StoreError, match="holds another experiment"):
        pj.simulate(SHORT, tmp_path / "run", resume=True)
    pj.simulate(LONG, tmp_path / "run", resume=True).close()
    same(tmp_path / "run", expected)


def test_it_may_be_cut_on_the_way(tmp_path, expected):
    pj.simulate(SHORT, tmp_path / "run").close()
    for shard in ((1, 2), (0, 2)):
        pj.simulate(LONG, tmp_path / "run", resume=True, shard=shard).close()
    pj.simulate(LONG, tmp_path / "run", resume=True).close()
    same(tmp_path / "run", expected)


@pytest.mark.long
def test_where_it_cannot_it_says_which_lengths_can(tmp_path):
    odd = dataclasses.replace(SHORT, schedule=pj.Schedule(41))
    pj.simulate(odd, tmp_path / "odd").close()
    with pytest.raises(pj.StoreError, match=r"no longer run records step 41, where it ended. Runs of 40, 60, .* steps"):
        pj.simulate(LONG, tmp_path / "odd", resume=True)
    annealed = dataclasses.replace(SHORT, schedule=pj.Schedule(40, rate="cosine"))
    pj.simulate(annealed, tmp_path / "annealed").close()
    longer = dataclasses.replace(annealed, schedule=pj.Schedule(100, rate="cosine"))
    with pytest.raises(pj.StoreError, match="its learning rate goes by shares of its own 40 steps"):
        pj.simulate(longer, tmp_path / "annealed", resume=True)
    for other in (dataclasses.replace(LONG, sgd=pj.Sgd(order="iid")), dataclasses.replace(SHORT, schedule=pj.Schedule(20))):
        with pytest.raises(pj.StoreError, match="holds another experiment"):
            pj.simulate(other, tmp_path / "odd", resume=True)
    pj.simulate(SHORT, tmp_path / "run", engine=ANOTHER_ENGINE).close()
    with pytest.raises(pj.StoreError, match="was made with engine"):
        pj.simulate(LONG, tmp_path / "run", engine="autodiff", resume=True)
    assert not (tmp_path / "odd").exists()
