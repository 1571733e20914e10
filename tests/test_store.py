"""Files: what a run leaves, what an interruption leaves, and that going on gives the same."""

import dataclasses
import fcntl
import json
import os
import shutil
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import small

import phasejax
from phasejax import Experiment, Grid, Schedule, StoreError
from phasejax.files import durable, folder, layout, netcdf, reading, slabs, state
from phasejax.files.progress import progress, table


def test_plain_xarray_reads_all_that_is_promised(finished):
    experiment, path = finished
    with xr.open_dataset(path) as data:
        assert data.test_loss.dims == ("step", "temperature", "sigma_w", "seed")
        assert data.eigenvalues.dims == ("step", "temperature", "sigma_w", "seed", "level")
        coordinates = {
            "temperature",
            "learning_rate",
            "batch_size",
            "sigma_w",
            "inverse_sigma_w",
            "seed",
            "step",
            "epoch",
            "level",
        }
        assert coordinates <= set(data.coords)
        np.testing.assert_array_equal(data.temperature, experiment.grid.temperature)
        np.testing.assert_array_equal(data.learning_rate, np.array(experiment.grid.temperature) * 4)
        np.testing.assert_array_equal(data.inverse_sigma_w, 1 / np.array(experiment.grid.sigma_w))
        np.testing.assert_array_equal(data.step, experiment.ladder.records())
        np.testing.assert_allclose(data.epoch, data.step * 4 / 80)
        assert data.batch_size == 4
        promised = {
            "test_loss", "train_loss", "gradient_norm", "full_gradient_norm", "G_t0", "G_00", "G_tt", "alignment",
            "teacher_overlap", "feature_overlap", "feature_density",
            "K_S", "V_S", "D_S", "restoring", "eigenvalues", "target_eigenvalues", "diverged_step", "weights",
        }  # fmt: skip
        assert promised == set(data.data_vars)
        for name in (*data.data_vars, *data.coords):
            assert data[name].attrs["long_name"], name
            assert data[name].attrs["units"] == "1", name
        for attribute in ("experiment", "versions", "commit", "device", "precision", "command_line", "created", "engine"):
            assert data.attrs[attribute], attribute
        assert Experiment.from_toml(data.attrs["experiment"]) == experiment
        assert data.step_decades.values.tolist() == [0, 1, 10, 60]
        assert data.step_ends.values.tolist() == [0, 60]
        assert np.isfinite(data.eigenvalues).all()
        assert data.reading.values.tolist() == ["drift", "x_basis", "text", "released"]
        np.testing.assert_allclose(data.feature_density.sum("feature") * 2 / data.sizes["feature"], 1, rtol=1e-5)
    assert not path.with_suffix("").exists(), "the working folder goes when the file is whole"


def test_phasejax_open_is_xarray_open(finished):
    _, path = finished
    for name in (path, path.with_suffix("")):
        with phasejax.open(name) as data, xr.open_dataset(path) as expected:
            xr.testing.assert_identical(data, expected)


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda of: done.append(Path(f"/proc/self/fd/{of}").resolve().name) or fsync(of))
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("renamed") or replace(old, new))
    with durable.atomically(tmp_path / "file", tmp_path) as temporary:
        temporary.write_text("whole")
    assert done == [temporary.name, "renamed", tmp_path.name]


class PowerCut(BaseException):
    """Not an Exception, so that nothing can recover from it."""


def interrupted(experiment, path, monkeypatch, commits, cut=lambda files: None):
    """Run until so many commits are on disk, then die."""
    original, done = folder.Store.commit, []

    def commit(self, records, checkpoint):
        if len(done) == commits:
            cut(self)
            raise PowerCut
        original(self, records, checkpoint)
        done.append(checkpoint.step)

    with monkeypatch.context() as patch:
        patch.setattr(folder.Store, "commit", commit)
        with pytest.raises(PowerCut):
            phasejax.simulate(experiment, path, checkpoint_seconds=0)


@pytest.mark.parametrize("commits", [0, 1, 2, 5, 11])
def test_resumed_equals_uninterrupted_to_the_bit(finished, tmp_path, monkeypatch, commits):
    experiment, path = finished
    interrupted(experiment, tmp_path / "run", monkeypatch, commits)
    assert not (tmp_path / "run.nc").exists()
    resumed = phasejax.simulate(experiment, tmp_path / "run", resume=True)
    with xr.open_dataset(path) as expected:
        xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())


def test_records_so_far_open_while_a_run_is_unfinished(finished, tmp_path, monkeypatch):
    experiment, path = finished
    interrupted(experiment, tmp_path / "run", monkeypatch, 6)
    so_far = phasejax.open(tmp_path / "run")
    assert 0 < so_far.sizes["step"] < len(experiment.ladder.records())
    with xr.open_dataset(path) as expected:
        steps = {"step": so_far.step, "step_decades": so_far.step_decades, "step_ends": so_far.step_ends}
        xr.testing.assert_identical(so_far.drop_attrs(), expected.sel(steps).drop_attrs())


def test_records_that_are_made_and_not_written_are_counted(finished, tmp_path):
    experiment, _ = finished
    seen = []
    phasejax.simulate(experiment, tmp_path / "run", checkpoint_seconds=1e9,
                      interrupted=lambda: seen.append(progress(tmp_path / "run"))).close()  # fmt: skip
    records = experiment.ladder.records()
    assert [one.records for one in seen] == [0] * len(seen)
    assert [(one.step, one.made) for one in seen] == [
        (stop.step, sum(record <= stop.step for record in records)) for stop in experiment.stops()[:-1]
    ]
    assert seen[-1].seconds_left is not None
    assert len(table(seen[-2:]).splitlines()) == 4


@pytest.mark.parametrize(
    "told", ["", "{", "[]", "nan", '{"step": 1e999}', '{"step": 10, "speed": "fast"}', '{"step": -1}', "9" * 999]
)
def test_what_a_writer_says_of_itself_may_be_anything(finished, tmp_path, monkeypatch, told):
    experiment, _ = finished
    interrupted(experiment, tmp_path / "run", monkeypatch, 6)
    before = progress(tmp_path / "run")
    with durable.held(tmp_path / "run") as lock:
        lock.tell(told)
        assert progress(tmp_path / "run")._replace(owner="") == before
        lock.tell('{"step": 60, "speed": 1.5, "at": 1e9}')
        now = progress(tmp_path / "run")
        assert (now.step, now.speed, now.made) == (60, 1.5, len(experiment.ladder.records()))
        assert now.owner == before.owner or now.owner.startswith("process")


def test_a_run_that_ends_while_it_is_opened_is_opened(finished, tmp_path, monkeypatch):
    experiment, path = finished
    interrupted(experiment, tmp_path / "run", monkeypatch, 6)
    original = reading.segments

    def ends_just_after(run):
        monkeypatch.setattr(reading, "segments", original)
        found = original(run)
        shutil.copy(path, tmp_path / "run.nc")
        layout.discard(run)
        return found

    monkeypatch.setattr(reading, "segments", ends_just_after)
    assert phasejax.open(tmp_path / "run").sizes["step"] == len(experiment.ladder.records())


@pytest.mark.parametrize("damage", ["cut short", "flipped byte", "empty", "altered", "renamed"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(finished, tmp_path, monkeypatch, damage):
    experiment, path = finished
    interrupted(experiment, tmp_path / "run", monkeypatch, 6)
    states = sorted((tmp_path / "run").glob("state-*.npz"), key=lambda p: int(p.stem.split("-")[1]))
    assert len(states) == 2, "the last two states are kept"
    whole = bytearray(states[-1].read_bytes())
    if damage == "flipped byte":
        whole[len(whole) // 2] ^= 1
    if damage in ("altered", "renamed"):  # a file whose own checksums are right
        with np.load(states[-1]) as arrays:
            other = dict(arrays)
        weights = other.pop("weights/2")
        other |= {"weights/2": np.nextafter(weights, 1)} if damage == "altered" else {"weights/1": weights}
        np.savez(states[-1], **other)
    else:
        states[-1].write_bytes({"cut short": whole[: len(whole) // 2], "flipped byte": whole, "empty": b""}[damage])
    began = []
    original = folder.Store.latest
    monkeypatch.setattr(folder.Store, "latest", lambda self: began.append(original(self)) or began[-1])
    resumed = phasejax.simulate(experiment, tmp_path / "run", resume=True)
    assert began[0].step == int(states[0].stem.split("-")[1])
    with xr.open_dataset(path) as expected:
        xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())


def test_outputs_are_not_overwritten_or_mixed_up(finished, tmp_path, monkeypatch):
    experiment, path = finished
    before = path.read_bytes()
    for out in (path, path.with_suffix("")):
        with pytest.raises(StoreError, match=r"exists already.*--resume.*--overwrite"):
            phasejax.simulate(experiment, out)
    assert path.read_bytes() == before
    other = dataclasses.replace(experiment, schedule=Schedule(61, records_per_decade=9))
    with pytest.raises(StoreError, match=r"holds another experiment"):
        phasejax.simulate(other, path, resume=True)
    phasejax.simulate(experiment, path, resume=True).close()  # finished already: returned as it is
    assert path.read_bytes() == before

    interrupted(experiment, tmp_path / "run", monkeypatch, 2)
    with pytest.raises(StoreError, match=r"holds another experiment"):
        phasejax.simulate(other, tmp_path / "run", resume=True)
    replaced = phasejax.simulate(other, tmp_path / "run", overwrite=True)
    assert int(replaced.step[-1]) == 61


def intrude(kind, whole, file):
    """Put something else where a finished run goes; `whole` is that run."""
    if kind == "empty":
        file.write_bytes(b"")
    elif kind == "foreign":
        xr.Dataset({"precipitation": ("day", [1.0, 2.0])}).to_netcdf(file)
    elif kind == "of another experiment":
        phasejax.simulate(small(schedule=Schedule(61)), file).close()
    elif kind == "cut short":
        file.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    else:
        with xr.open_dataset(whole) as data:
            axis = {"without a record": "step", "without a seed": "seed"}[kind]
            data.isel({axis: slice(None, -1)}).to_netcdf(file)


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "is not a run of phasejax, or not a whole one"),
        ("foreign", "is not a run of phasejax"),
        ("of another experiment", "is a run of another experiment"),
        ("cut short", "is not a run of phasejax, or not a whole one"),
        ("without a record", "lacks some of its records"),
        ("without a seed", "lacks some of its seeds"),
    ],
)
def test_a_file_in_the_place_of_the_finished_one_costs_no_checkpoint(finished, tmp_path, monkeypatch, kind, words):
    experiment, path = finished
    run, file = tmp_path / "run", tmp_path / "run.nc"
    intrude(kind, path, file)
    file.rename(tmp_path / "intruder")
    interrupted(experiment, run, monkeypatch, 4)
    (tmp_path / "intruder").rename(file)
    before, intruder = contents(run), file.read_bytes()
    asked = (
        lambda: phasejax.simulate(experiment, run, resume=True),
        lambda: phasejax.simulate(experiment, run, resume=True, shard=(0, 2)),
        lambda: slabs.finish(run, whole=True),
        lambda: slabs.merge(run),
        lambda: progress(run),
    )
    for ask in asked:
        with pytest.raises(StoreError, match=rf"run\.nc {words}.*move {file} away, and --resume {run} goes on\.$"):
            ask()
    assert (contents(run), file.read_bytes()) == (before, intruder)
    file.unlink()
    resumed = phasejax.simulate(experiment, run, resume=True)
    with xr.open_dataset(path) as expected:
        xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())


def test_a_file_that_comes_while_a_run_is_going_is_not_written_over(finished, tmp_path, monkeypatch):
    experiment, path = finished
    run, file, original = tmp_path / "run", tmp_path / "run.nc", folder.Store.commit
    with monkeypatch.context() as patch:
        patch.setattr(folder.Store, "commit", lambda *given: (file.write_text("precious"), original(*given)))
        with pytest.raises(StoreError, match=r"run\.nc is not a run"):
            phasejax.simulate(experiment, run)
    assert file.read_text() == "precious"
    file.unlink()
    resumed = phasejax.simulate(experiment, run, resume=True)
    with xr.open_dataset(path) as expected:
        xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())


def test_a_finished_file_is_read_through_before_the_folder_goes(finished, tmp_path, monkeypatch):
    experiment, path = finished
    run, file = tmp_path / "run", tmp_path / "run.nc"
    interrupted(experiment, run, monkeypatch, 4)
    before, whole = contents(run), bytearray(path.read_bytes())
    with netCDF4.Dataset(path) as nc:
        values = nc["weights"][1].data.tobytes()
    whole[whole.index(values) + len(values) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"run\.nc is damaged: its weights cannot be read: move it away"):
        phasejax.simulate(experiment, run, resume=True)
    assert contents(run) == before
    shutil.copy(path, file)
    phasejax.simulate(experiment, run, resume=True).close()
    assert not run.exists()


def test_what_is_no_run_is_not_overwritten(tmp_path):
    (tmp_path / "run.nc").write_text("precious")
    with pytest.raises(StoreError, match=r"run\.nc exists and is not a run of phasejax"):
        phasejax.simulate(small(), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run.nc").read_text() == "precious"


def test_a_second_writer_is_refused(tmp_path):
    experiment = small()
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / "lock", "w") as lock:
        lock.write("process 1 on earth\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="process 1 on earth"):
            phasejax.simulate(experiment, tmp_path / "run", overwrite=True)
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "lock"]


def test_a_full_disk_is_one_sentence_and_resumable(finished, tmp_path, monkeypatch):
    experiment, path = finished
    original, calls = np.savez, []

    def full(*arguments, **arrays):
        calls.append(1)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        original(*arguments, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(StoreError, match=r"\(No space left on device\): the run takes up to .* --resume"):
            phasejax.simulate(experiment, tmp_path / "run", checkpoint_seconds=0)
    assert not list((tmp_path / "run").glob("*.tmp"))
    resumed = phasejax.simulate(experiment, tmp_path / "run", resume=True)
    with xr.open_dataset(path) as expected:
        xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())


def newest_state(run):
    return max(run.glob("state-*.npz"), key=layout.step_of)


def save_again(path, change=lambda leaves: leaves, **changed):
    """A state with other arrays, whose checksum is right, or another header; None removes what the header has."""
    with np.load(path) as arrays:
        header = json.loads(arrays["header"].tobytes())
        leaves = change({name: arrays[name] for name in arrays.files if name != "header"})
    header |= {"sha256": str(state.Digest(leaves)), **changed}
    encoded = json.dumps({name: of for name, of in header.items() if of is not None}).encode()
    np.savez(path, header=np.frombuffer(encoded, np.uint8), **leaves)


def attribute(path, name, value=None):
    """Set a global attribute of a file, or remove it."""
    with netCDF4.Dataset(path, "a") as nc:
        nc.delncattr(name) if value is None else nc.setncattr(name, value)


def test_what_a_later_version_wrote_is_refused_by_name(finished, tmp_path, monkeypatch):
    experiment, path = finished
    run, file = tmp_path / "run", tmp_path / "later.nc"
    shutil.copy(path, file)
    with xr.open_dataset(path) as data:
        assert data.attrs["format_version"] == 2
    attribute(file, "format_version", 3)
    attribute(file, "phasejax_version", "9.9")
    words = r"has format version '3', and this phasejax knows up to 2: use phasejax '9\.9', which wrote it\.$"
    asked = (phasejax.open, reading.load_run, reading.read_experiment, progress, folder.final_state, slabs.merge)
    for ask in asked:
        with pytest.raises(StoreError, match=rf"later\.nc {words}"):
            ask(file)
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(StoreError, match=rf"later\.nc {words}"):
            phasejax.simulate(experiment, file, **how)
    interrupted(experiment, run, monkeypatch, 4)
    segment = layout.segments(run)[1]
    whole = contents(run)
    attribute(segment, "format_version", 3)
    attribute(segment, "phasejax_version", "9.9")
    with pytest.raises(StoreError, match=rf"{segment.name} {words}"):
        phasejax.open(run)
    segment.write_bytes(whole[segment.name])
    save_again(newest_state(run), format_version=3, phasejax_version="9.9")
    before = contents(run)
    for ask in (progress, lambda run: phasejax.simulate(experiment, run, resume=True)):
        with pytest.raises(StoreError, match=rf"state-\d+\.npz {words}"):
            ask(run)
    assert {**contents(run), "lock": b""} == before


def test_what_names_no_version_is_of_the_first(finished, tmp_path, monkeypatch):
    experiment, path = finished
    run, file = tmp_path / "run", tmp_path / "first.nc"
    shutil.copy(path, file)
    attribute(file, "format_version")
    with phasejax.open(file) as data, xr.open_dataset(path) as expected:
        xr.testing.assert_identical(data.drop_attrs(), expected.drop_attrs())
    assert progress(file).finished
    interrupted(experiment, run, monkeypatch, 4)
    for segment in layout.segments(run):
        attribute(segment, "format_version")
    save_again(newest_state(run), segments={})  # nor did its states know the digests of segments
    with xr.open_dataset(path) as expected:
        so_far = phasejax.open(run)
        xr.testing.assert_identical(so_far.test_loss.load(), expected.test_loss.sel(step=so_far.step).load())
        resumed = phasejax.simulate(experiment, run, resume=True)
        xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())
    # Its states had no names for their arrays, and were made by other code: refused, and never taken for damaged ones.
    interrupted(experiment, tmp_path / "old", monkeypatch, 4)
    save_again(newest_state(tmp_path / "old"), format_version=None, sha256="of another kind", identity="that of other code")
    assert progress(tmp_path / "old").step == layout.states(tmp_path / "old")[0][0]
    with pytest.raises(StoreError, match="old was begun with other programs"):
        phasejax.simulate(experiment, tmp_path / "old", resume=True)


def test_the_last_state_is_in_the_finished_file(finished):
    experiment, path = finished
    last, _ = folder.final_state(path)
    assert (last.step, set(last.leaves) >= {"weights/2", "mark/2", "loss_sum", "diverged_step"}) == (60, True)
    with xr.open_dataset(path) as data:
        of_last = data.weights.isel(step_decades=-1).transpose("seed", "temperature", "sigma_w", "node", "input")
        np.testing.assert_array_equal(last.leaves["weights/2"], of_last.values.reshape(3, 9, 16, 32))
        diverged = data.diverged_step.isel(step=-1).transpose("seed", "temperature", "sigma_w")
        np.testing.assert_array_equal(last.leaves["diverged_step"], diverged.values.reshape(3, 9))
    some, _ = folder.final_state(path, slice(1, 3))
    assert some.leaves.keys() == last.leaves.keys()
    for name, leaf in some.leaves.items():
        assert leaf.dtype == last.leaves[name].dtype
        np.testing.assert_array_equal(leaf, last.leaves[name][1:3])
    with netCDF4.Dataset(path) as nc:
        group = nc["state"]
        assert {"step", "marked_step", "identity", "engine", "sha256"} <= set(group.ncattrs())
        assert experiment.grid.seeds == len(group.dimensions["seed"])
        for variable in group.variables.values():
            filters = variable.filters()
            assert (filters["fletcher32"], filters["zlib"]) == (True, False), variable.name


def test_a_last_state_that_is_damaged_is_not_gone_on_with(finished, tmp_path):
    _, path = finished
    file = tmp_path / "run.nc"
    shutil.copy(path, file)
    with netCDF4.Dataset(file, "a") as nc:  # whose own checksum is right
        values = nc["state"]["loss_sum"]
        values[0] = values[0] + 1
    with pytest.raises(StoreError, match=r"run\.nc is damaged: its training state is not the one that was written: only"):
        folder.final_state(file)
    whole = bytearray(path.read_bytes())
    values = folder.final_state(path)[0].leaves["loss_sum"][0].tobytes()
    whole[whole.rindex(values) + 5] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"run\.nc is damaged: its loss_sum cannot be read: only"):
        folder.final_state(file)
    with xr.open_dataset(path) as data:
        data.to_netcdf(tmp_path / "copy.nc")
    with pytest.raises(StoreError, match=r"copy\.nc has no training state: only training the run again"):
        folder.final_state(tmp_path / "copy.nc")


def test_names_of_arrays_come_back_from_a_file_as_they_were(tmp_path):
    leaves = {name: np.full((2, 3, 3), k, np.float32) for k, name in enumerate(["a/b/0", "a%2Fb", "a b", "ä", "x_1.y"])}
    netCDF4.Dataset(tmp_path / "file.nc", "w").close()
    netcdf.keep_state(tmp_path / "file.nc", {"step": 7}, leaves)
    header, found = netcdf.state(tmp_path / "file.nc")
    assert header["step"] == 7
    assert found.keys() == leaves.keys()
    assert all((found[name] == leaf).all() for name, leaf in leaves.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda leaves: {"other" if name == "loss_sum" else name: leaf for name, leaf in leaves.items()},
         r"its loss_sum being absent and not float32 \(3, 9\)"),
        (lambda leaves: leaves | {"more": leaves["loss_sum"]}, r"its more being float32 \(3, 9\) and not absent"),
        (lambda leaves: leaves | {"loss_sum": leaves["loss_sum"].astype("f8")}, r"loss_sum being float64 .* not float32"),
        (lambda leaves: leaves | {"loss_sum": leaves["loss_sum"][:, :2]}, r"being float32 \(3, 2\) and not"),
        (lambda leaves: leaves | {"loss_sum": leaves["loss_sum"][:2]}, r"being float32 \(2, 9\) and not"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("few_observables")
def test_a_state_of_other_arrays_is_refused(tmp_path, monkeypatch, change, words):
    run = tmp_path / "run"
    interrupted(small(), run, monkeypatch, 3)
    save_again(newest_state(run), change)
    with pytest.raises(StoreError, match=rf"The state in {run} is not one of this run, .*{words}"):
        phasejax.simulate(small(), run, resume=True)


@pytest.mark.usefixtures("few_observables")
def test_records_of_two_runs_are_not_mixed(tmp_path, monkeypatch):
    run, other = tmp_path / "run", tmp_path / "other"
    for experiment, path in ((small(), run), (small(schedule=Schedule(61)), other)):
        interrupted(experiment, path, monkeypatch, 4)
    mine = layout.segments(run)[1]
    shutil.copy(other / mine.name, mine)
    with pytest.raises(StoreError, match=rf"{mine.name} and .* have records of different runs"):
        phasejax.open(run)
    with pytest.raises(
        StoreError, match=rf"{mine.name} is not what .*, or has records of another run; --overwrite starts anew"
    ):
        phasejax.simulate(small(), run, resume=True)
    assert not run.with_suffix(".nc").exists()


@pytest.mark.usefixtures("few_observables")
@pytest.mark.parametrize("anew", [True, False])
def test_nothing_is_written_into_a_folder_that_was_removed(tmp_path, monkeypatch, anew):
    run, original, done = tmp_path / "run", folder.Store.commit, []

    def commit(self, records, checkpoint):
        done.append(checkpoint.step)
        if len(done) == 3:
            shutil.rmtree(run)
            if anew:
                run.mkdir()
                (run / "lock").write_text("process 1 on earth\n")
        original(self, records, checkpoint)

    monkeypatch.setattr(folder.Store, "commit", commit)
    with pytest.raises(StoreError, match=rf"{run} was removed or begun anew while this process was writing it: nothing"):
        phasejax.simulate(small(), run, checkpoint_seconds=0)
    assert len(done) == 3
    assert (contents(run) if anew else run.exists()) == ({"lock": b"process 1 on earth\n"} if anew else False)


@pytest.mark.usefixtures("few_observables")
def test_no_file_is_made_of_a_folder_that_was_begun_anew(tmp_path, monkeypatch):
    run, original = tmp_path / "run", folder.Store.consolidate

    def consolidate(self, show):
        (run / "lock").rename(run / "lock of before")
        (run / "lock").write_text("process 1 on earth\n")
        return original(self, show)

    monkeypatch.setattr(folder.Store, "consolidate", consolidate)
    with pytest.raises(StoreError, match=rf"{run} was removed or begun anew"):
        phasejax.simulate(small(), run)
    assert not run.with_suffix(".nc").exists()


def test_a_last_state_that_is_lost_before_the_file_is_made_is_trained_again(finished, tmp_path, monkeypatch):
    experiment, path = finished
    run, original = tmp_path / "run", folder.Store.consolidate
    with monkeypatch.context() as patch:
        patch.setattr(
            folder.Store, "consolidate", lambda self, show: (os.truncate(newest_state(run), 9), original(self, show))
        )
        with pytest.raises(StoreError, match=f"lacks the state at its end: --resume {run} trains up to it again"):
            phasejax.simulate(experiment, run, checkpoint_seconds=0)
    resumed = phasejax.simulate(experiment, run, resume=True)
    with xr.open_dataset(path) as expected:
        xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())


def test_a_folder_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError, match="cannot be written to"):
        phasejax.simulate(small(), tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("content", [None, b"", b"not a netCDF file"])
def test_what_is_no_run_is_not_opened(tmp_path, content):
    if content is not None:
        (tmp_path / "run.nc").write_bytes(content)
    for read in (phasejax.open, reading.read_experiment):
        with pytest.raises(StoreError):
            read(tmp_path / "run.nc")


def test_a_file_of_another_make_is_no_run(tmp_path):
    netCDF4.Dataset(tmp_path / "other.nc", "w").close()
    with pytest.raises(StoreError, match="not a run"):
        reading.read_experiment(tmp_path / "other.nc")


@pytest.mark.usefixtures("few_observables")
def test_seeds_that_do_not_divide_among_devices_resume_on_another_number(tmp_path, monkeypatch):
    import jax

    experiment = small(grid=Grid(temperature=(1.0,), sigma_w=(1.0,), seeds=5))
    expected = phasejax.simulate(experiment)
    interrupted(experiment, tmp_path / "run", monkeypatch, 7)
    resumed = phasejax.simulate(experiment, tmp_path / "run", resume=True, devices=jax.devices()[:1])
    xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())
