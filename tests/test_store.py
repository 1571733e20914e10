"""Files: what a run leaves, what an interruption leaves, and that going on gives the same."""

import dataclasses
import fcntl
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
from phasejax.files import durable, folder, layout, reading, slabs


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
        np.testing.assert_array_equal(data.temperature, experiment.temperatures)
        np.testing.assert_array_equal(data.learning_rate, np.array(experiment.temperatures) * 4)
        np.testing.assert_array_equal(data.inverse_sigma_w, 1 / np.array(experiment.grid.sigma_w))
        np.testing.assert_array_equal(data.step, experiment.record_steps())
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
    assert 0 < so_far.sizes["step"] < len(experiment.record_steps())
    with xr.open_dataset(path) as expected:
        steps = {"step": so_far.step, "step_decades": so_far.step_decades, "step_ends": so_far.step_ends}
        xr.testing.assert_identical(so_far.drop_attrs(), expected.sel(steps).drop_attrs())


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
    assert phasejax.open(tmp_path / "run").sizes["step"] == len(experiment.record_steps())


@pytest.mark.parametrize("damage", ["cut short", "flipped byte", "empty", "altered"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(finished, tmp_path, monkeypatch, damage):
    experiment, path = finished
    interrupted(experiment, tmp_path / "run", monkeypatch, 6)
    states = sorted((tmp_path / "run").glob("state-*.npz"), key=lambda p: int(p.stem.split("-")[1]))
    assert len(states) == 2, "the last two states are kept"
    whole = bytearray(states[-1].read_bytes())
    if damage == "flipped byte":
        whole[len(whole) // 2] ^= 1
    if damage == "altered":  # a file whose own checksums are right
        with np.load(states[-1]) as arrays:
            np.savez(states[-1], **{**arrays, "leaf_0": np.nextafter(arrays["leaf_0"], 1)})
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
    longer = dataclasses.replace(experiment, schedule=Schedule(61))
    with pytest.raises(StoreError, match=r"holds another experiment"):
        phasejax.simulate(longer, path, resume=True)
    phasejax.simulate(experiment, path, resume=True).close()  # finished already: returned as it is
    assert path.read_bytes() == before

    interrupted(experiment, tmp_path / "run", monkeypatch, 2)
    with pytest.raises(StoreError, match=r"holds another experiment"):
        phasejax.simulate(longer, tmp_path / "run", resume=True)
    replaced = phasejax.simulate(longer, tmp_path / "run", overwrite=True)
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
        lambda: reading.progress(run),
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

    experiment = small(grid=Grid(temperatures=(1.0,), sigma_w=(1.0,), seeds=5))
    expected = phasejax.simulate(experiment)
    interrupted(experiment, tmp_path / "run", monkeypatch, 7)
    resumed = phasejax.simulate(experiment, tmp_path / "run", resume=True, devices=jax.devices()[:1])
    xr.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())
