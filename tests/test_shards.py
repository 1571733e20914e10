"""A run cut into slabs: whoever trains which seeds, the merged file is the one an uncut run gives."""

import dataclasses
import itertools

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import small

import phasejax
from phasejax import ExperimentError, Grid, StoreError, simulation
from phasejax import progress as progress_bars
from phasejax.cli import main
from phasejax.files import folder, netcdf, slabs
from phasejax.files.durable import held
from phasejax.files.layout import has_records, has_states, slabs_in
from phasejax.files.progress import progress
from phasejax.files.slabs import Shard, read_shard

FOUR = small(grid=Grid(temperature=(2**-5, 1.0), sigma_w=(256.0, 0.125), seeds=4, first_seed=7))


@pytest.fixture(scope="module")
def expected():
    return phasejax.simulate(FOUR).drop_attrs()


def after(calls):
    """An `interrupted` that says so after so many calls."""
    counter = itertools.count()
    return lambda: next(counter) >= calls


def begin(out, calls, **how):
    """Train until so many calls are done."""
    with pytest.raises(phasejax.Interrupted):
        phasejax.simulate(FOUR, out, interrupted=after(calls), **how)


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(map(str, arguments)))
    return left.value.code, "".join(capsys.readouterr())


def test_slabs_make_the_file_of_an_uncut_run(expected, tmp_path, capsys):
    run = tmp_path / "run"
    # Not in their order, and not in equal sizes: 7, 8, and 9 with 10.
    for k in (2, 0):
        phasejax.simulate(FOUR, run, shard=(k, 3)).close()
    code, words = said(capsys, "merge", run)
    assert (code, "lacks the seeds 8 to 8, they have not been begun" in words) == (2, True), words
    assert not run.with_suffix(".nc").exists()
    assert phasejax.open(run).seed.values.tolist() == [7, 9, 10]
    begin(run, 5, shard=(1, 3))
    assert "seeds-8-8 is not finished" in said(capsys, "merge", run)[1]
    code, words = said(capsys, "status", run)
    assert code == 0
    heads, *rows, together, advice = words.splitlines()
    assert heads.split()[:5] == ["run", "students", "step", "of", "done"]
    assert [row.split()[0].rpartition("/")[2] for row in rows] == ["seeds-7-7.nc", "seeds-8-8", "seeds-9-10.nc"]
    assert [row.endswith("nobody is writing") for row in rows] == [False, True, False]
    assert together.split()[0] == "all"
    assert "--resume" in advice
    phasejax.simulate(FOUR, run, shard=(1, 3), resume=True).close()
    code, words = said(capsys, "merge", run)
    assert (code, "run.nc" in words) == (0, True)
    merged = phasejax.open(run)
    xr.testing.assert_identical(merged.drop_attrs(), expected)
    assert phasejax.Experiment.from_toml(merged.attrs["experiment"]) == FOUR
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"], "the slabs go when the file is whole"
    assert "is there already" in said(capsys, "merge", run)[1]
    records = str(len(FOUR.ladder.records()))
    assert said(capsys, "status", run)[1].splitlines()[1].split()[-3:] == [records, records, "finished"]
    assert "finished already" in said(capsys, "run", "--resume", run, "--shard", "0/3")[1]


def test_a_bar_shows_where_somebody_looks_on_how_far_a_file_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress_bars, "watched", lambda: True)
    for index in range(2):
        phasejax.simulate(FOUR, tmp_path / "run", shard=(index, 2), progress=False).close()
    assert capsys.readouterr().err == ""
    phasejax.merge(tmp_path / "run")
    assert "merging:" in capsys.readouterr().err
    phasejax.simulate(FOUR, tmp_path / "whole", progress=True).close()
    assert "writing whole.nc:" in capsys.readouterr().err


def test_an_uncut_run_goes_on_in_shards_and_in_other_shards(expected, tmp_path):
    run = tmp_path / "run"
    begin(run, 7)
    step = progress(run).step
    assert 0 < step < 60
    begin(run, 3, shard=(0, 2), resume=True)
    assert progress(run / "seeds-7-8").step >= step, "it goes on from where the uncut run was"
    phasejax.simulate(FOUR, run, shard=(0, 4), resume=True).close()  # a slab of the slab
    assert set(slabs_in(run)) == {range(7, 9), range(7, 8)}
    phasejax.simulate(FOUR, run, shard=(1, 2), resume=True).close()
    phasejax.simulate(FOUR, run, shard=(0, 2), resume=True).close()
    assert set(slabs_in(run)) == {range(7, 9), range(7, 8), range(8, 9), range(9, 11)}
    slabs.merge(run)
    xr.testing.assert_identical(phasejax.open(run).drop_attrs(), expected)


def test_a_slab_killed_before_its_first_state_begins_where_the_uncut_run_is(tmp_path, monkeypatch):
    run = tmp_path / "run"
    begin(run, 7)
    step = progress(run).step

    def killed(self, checkpoint):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder.Store, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            phasejax.simulate(FOUR, run, shard=(0, 2), resume=True)
    assert has_records(run / "seeds-7-8")
    assert not has_states(run / "seeds-7-8")
    begin(run, 0, shard=(0, 2), resume=True)
    assert progress(run / "seeds-7-8").step >= step > 0


def test_a_run_whose_slab_is_being_written_is_refused_at_once(tmp_path):
    run = tmp_path / "run"
    begin(run, 3, shard=(0, 2))
    begin(run, 3, shard=(1, 2))
    with held(run / "seeds-9-10"):
        for how in ({}, {"shard": (2, 4)}, {"shard": (1, 2)}):
            with pytest.raises(StoreError, match=r"seeds-9-10 is being written by process"):
                slabs.plan(run, FOUR, resume=True, **how)
        assert [piece.out.name for piece in slabs.plan(run, FOUR, Shard(0, 2), resume=True)] == ["seeds-7-8"]


def test_a_file_in_the_place_of_a_finished_slab_is_named(tmp_path):
    run = tmp_path / "run"
    begin(run, 3, shard=(0, 2))
    (run / "seeds-7-8.nc").touch()
    for how in ({}, {"shard": (0, 2)}):
        with pytest.raises(StoreError, match=r"seeds-7-8\.nc is not a run .*, and --resume .*seeds-7-8 goes on"):
            slabs.plan(run, FOUR, resume=True, **how)
    (run / "seeds-7-8.nc").unlink()
    assert has_states(run / "seeds-7-8")
    assert [piece.out.name for piece in slabs.plan(run, FOUR, Shard(0, 2), resume=True)] == ["seeds-7-8"]


def test_going_on_with_finished_slabs_merges_them(expected, tmp_path, capsys):
    run = tmp_path / "run"
    for index in range(2):
        phasejax.simulate(FOUR, run, shard=(index, 2)).close()
    assert "merge" in said(capsys, "status", run)[1]
    assert said(capsys, "run", "--resume", run)[0] == 0
    with xr.open_dataset(run.with_suffix(".nc")) as merged:
        xr.testing.assert_identical(merged.drop_attrs(), expected)
    with pytest.raises(StoreError, match=r"run\.nc exists already: move it away"):
        phasejax.simulate(FOUR, run, shard=(0, 2), overwrite=True)


def test_slabs_make_the_state_of_an_uncut_run(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    phasejax.simulate(FOUR, whole).close()
    for index in (1, 0):
        phasejax.simulate(FOUR, run, shard=(index, 2)).close()
    kept = {path: path.read_bytes() for path in run.glob("*.nc")}

    def refused(words):
        with pytest.raises(StoreError, match=words):
            slabs.merge(run)
        for path, content in kept.items():
            path.write_bytes(content)

    with netCDF4.Dataset(run / "seeds-9-10.nc", "a") as nc:
        nc["state"]["loss_sum"][0] = 7.0
    refused(r"seeds-9-10\.nc is damaged: its training state is not the one that was written: delete it")
    with netCDF4.Dataset(run / "seeds-9-10.nc", "a") as nc:
        nc["state"].step = 59
    refused(r"seeds-9-10\.nc has another kind of state than .*seeds-7-8\.nc: delete it")
    with xr.open_dataset(run / "seeds-9-10.nc") as data:
        copy = data.load()
    copy.to_netcdf(run / "seeds-9-10.nc")
    refused(r"seeds-9-10\.nc has no training state: delete it")
    copy.isel(step=slice(-1)).to_netcdf(run / "seeds-9-10.nc")
    refused(r"seeds-9-10\.nc lacks some of its records: delete it")
    slabs.merge(run)
    (header, leaves), (expected_header, expected) = (netcdf.state(path.with_suffix(".nc")) for path in (run, whole))
    assert header == expected_header
    assert leaves.keys() == expected.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[name])


def test_a_run_in_shards_goes_on_in_one_process(expected, tmp_path):
    run = tmp_path / "run"
    begin(run, 9, shard=(0, 2))
    resumed = phasejax.simulate(FOUR, run, resume=True)
    xr.testing.assert_identical(resumed.drop_attrs(), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]


def test_the_records_so_far_of_slabs_at_different_steps(expected, tmp_path):
    run = tmp_path / "run"
    begin(run, 9, shard=(0, 2))
    begin(run, 5, shard=(1, 2))
    so_far = phasejax.open(run)
    steps = min(phasejax.open(slab).sizes["step"] for slab in slabs_in(run).values())
    assert 0 < so_far.sizes["step"] == steps < expected.sizes["step"]
    at = {axis: so_far[axis] for axis in ("step", "step_decades", "step_ends")}
    xr.testing.assert_identical(so_far.drop_attrs(), expected.sel(at))


def test_slabs_that_do_not_belong_together_are_named(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    phasejax.simulate(FOUR, run, shard=(0, 2)).close()
    with pytest.raises(StoreError, match="seeds-7-8 has some of the seeds 7 to 7: --resume"):
        phasejax.simulate(FOUR, run, shard=(0, 4))
    with pytest.raises(StoreError, match=r"exists already.*--resume"):
        phasejax.simulate(FOUR, run, shard=(0, 2))
    with pytest.raises(StoreError, match="holds another experiment"):
        phasejax.simulate(dataclasses.replace(FOUR, precision="float64"), run, shard=(1, 2))
    with pytest.raises(ExperimentError, match=r"shard = '4/5' is not possible: there are 4 seeds"):
        phasejax.simulate(FOUR, run, shard=(4, 5))

    monkeypatch.setattr(simulation.importlib.metadata, "version", lambda name: "9.9")
    phasejax.simulate(FOUR, run, shard=(1, 2)).close()
    monkeypatch.undo()
    code, words = said(capsys, "merge", run)
    assert (code, "seeds-9-10.nc was made with phasejax version 9.9" in words) == (2, True), words

    phasejax.simulate(FOUR, tmp_path / "other", shard=(1, 4)).close()
    (tmp_path / "other" / "seeds-8-8.nc").rename(run / "seeds-8-8.nc")
    assert "seeds-7-8.nc and" in said(capsys, "merge", run)[1]
    (run / "seeds-8-8.nc").rename(run / "seeds-70-70.nc")
    assert "seeds-70-70.nc has seeds that are not in" in said(capsys, "merge", run)[1]
    (run / "seeds-70-70.nc").rename(run / "seeds-9-10.nc")
    assert "seeds-9-10.nc comes from another experiment" in said(capsys, "merge", run)[1]
    (run / "seeds-9-10.nc").write_bytes(b"nothing")
    assert "seeds-9-10.nc is not a run" in said(capsys, "merge", run)[1]
    assert not run.with_suffix(".nc").exists()


def test_overwriting_a_run_takes_its_slabs_with_it(tmp_path):
    run = tmp_path / "run"
    begin(run, 3, shard=(0, 2))
    begin(run, 3, overwrite=True)
    assert not slabs_in(run)


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "15", "SLURM_ARRAY_TASK_COUNT": "16"}, Shard(3, 16)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "16"}, Shard(5, 16)),
        ({"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_MAX": "8",
          "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "3"},
         Shard(7, 12)),
    ],
)  # fmt: skip
def test_slurm_says_which_shard(environment, shard):
    assert read_shard("auto", environment) == shard


def test_what_is_no_shard_is_refused():
    for text in ("3", "16/16", "-1/4", "1/0", "a/b", ""):
        with pytest.raises(ExperimentError, match=r"shard = .* i from 0 to n - 1"):
            read_shard(text, {})
    with pytest.raises(ExperimentError, match="SLURM_ARRAY_TASK_ID and SLURM_PROCID are not set"):
        read_shard("auto", {})
    gap = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "3",
        "SLURM_ARRAY_TASK_MAX": "7",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    with pytest.raises(ExperimentError, match="leaves out some of 3 to 7"):
        read_shard("auto", gap)
