"""What happens to a run must not matter to what it gives: kills, full disks, second writers, foreign and damaged files."""

import contextlib
import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import jax.numpy as jnp
import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import ANOTHER_ENGINE, FEW, no_code, observed, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import phasejax
from phasejax import (
    Experiment,
    ExperimentError,
    Grid,
    Observable,
    Schedule,
    StoreError,
    TeacherStudent,
)
from phasejax.files import durable, netcdf, slabs
from phasejax.files.layout import discard, paths, slabs_in
from phasejax.files.progress import progress
from phasejax.files.reading import read_experiment
from phasejax.identity import Identity


def in_a_process(processes, function, *arguments):
    """Call a function in a process of its own; its exit code."""
    process = processes.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def train(out, moment, delay, cut):
    """Train or go on in a process of its own, which kills itself at a given write, rename, sync or deletion.

    A run that is cut begins whole, goes on in two slabs, and is merged.
    """
    observed["by small"] = FEW
    events = itertools.count(1)

    def dangerous(function):
        def wrapped(*arguments, **options):
            if next(events) == moment:
                # Before it, or a moment later in the midst of it or of what follows.
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start() if delay else os.kill(
                    os.getpid(), signal.SIGKILL
                )
            return function(*arguments, **options)

        return wrapped

    for place, name in (
        (os, "replace"),
        (os, "fsync"),
        (os, "unlink"),
        (np, "savez"),
        (netcdf, "write"),
        (netcdf, "create_variable"),
    ):
        setattr(place, name, dangerous(getattr(place, name)))
    begun = any(path.exists() for path in paths(out))
    if cut and not slabs_in(out):
        with contextlib.suppress(phasejax.Interrupted):
            counter = itertools.count()
            phasejax.simulate(
                small(), out, resume=begun, checkpoint_seconds=0, interrupted=lambda: next(counter) > 5
            ).close()
    for shard in ((0, 2), (1, 2)) if cut else ():
        phasejax.simulate(small(), out, resume=True, checkpoint_seconds=0, shard=shard).close()
    phasejax.simulate(small(), out, resume=begun or cut, checkpoint_seconds=0).close()


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported all they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phasejax.simulation", "phasejax.engines"])
    return context


@pytest.mark.usefixtures("few_observables")
@pytest.mark.parametrize("most", [6, pytest.param(40, marks=pytest.mark.long)])
def test_killed_at_any_moment_it_goes_on_to_the_same_file(processes, tmp_path, most):
    random, runs, kills = np.random.default_rng(most), 0, 0
    expected = phasejax.simulate(small()).drop_attrs()
    while kills < most or not runs:
        out = tmp_path / f"run{runs}"
        moment = int(random.integers(1, 90)) if kills < most else 0
        delay = random.choice([0, random.uniform(0, 0.01)])
        process = processes.Process(target=train, args=(out, moment, delay, bool(runs % 2)))
        process.start()
        # Some die in a moment that has nothing to do with files.
        process.join(random.uniform(0.2, 3) if kills < most and kills % 5 == 4 else 120)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            continue
        assert process.exitcode == 0
        with xr.open_dataset(out.with_suffix(".nc")) as data:
            xr.testing.assert_identical(data.drop_attrs(), expected)
        runs += 1
        assert {path.name for path in tmp_path.iterdir()} == {f"run{number}.nc" for number in range(runs)}


def test_a_disk_too_small_is_told_before_the_start(tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(StoreError, match=r"run needs up to 1\.\d MB, and .* has 0\.0 MB for it"):
        phasejax.simulate(small(), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def train_into_a_full_disk(experiment, out, sentence):
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    calls = itertools.chain([lambda: None] * 5, itertools.repeat(fill))
    with pytest.raises(StoreError) as full:
        phasejax.simulate(experiment, out, checkpoint_seconds=0, interrupted=lambda: next(calls)())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sentence.write_text(str(full.value))


def test_a_disk_that_fills_up_is_one_sentence_and_the_records_before_can_be_read(finished, processes, tmp_path):
    experiment, path = finished
    out = tmp_path / "run"
    assert in_a_process(processes, train_into_a_full_disk, experiment, out, tmp_path / "sentence") == 0
    sentence = (tmp_path / "sentence").read_text()
    assert "could not be written (" in sentence
    assert "--resume" in sentence
    assert "in all" in sentence
    assert not list(out.glob("*.tmp"))
    so_far = phasejax.open(out)
    with xr.open_dataset(path) as data:
        assert 0 < so_far.sizes["step"] < data.sizes["step"]
        xr.testing.assert_identical(so_far.test_loss.load(), data.test_loss.sel(step=so_far.step).load())
        resumed = phasejax.simulate(experiment, out, resume=True)
        xr.testing.assert_identical(resumed.drop_attrs(), data.drop_attrs())


def stopped(experiment, out, calls=6):
    counter = itertools.count()
    with pytest.raises(phasejax.Interrupted):
        phasejax.simulate(experiment, out, checkpoint_seconds=0, interrupted=lambda: next(counter) >= calls)


def test_the_lock_of_a_process_that_died_is_taken_over_with_a_sentence(tmp_path, capsys):
    stopped(small(), tmp_path / "run")
    assert not progress(tmp_path / "run").owner
    (tmp_path / "run" / "lock").write_text("process 1 on earth\n")
    phasejax.simulate(small(), tmp_path / "run", resume=True, progress=True).close()
    assert "process 1 on earth is gone" in capsys.readouterr().err


def test_what_is_deleted_first_can_be_made_again(tmp_path, monkeypatch):
    """A run that is killed while it is overwritten must not keep a state without the records before it."""
    run = tmp_path / "run"
    stopped(small(), run)
    segments, original, after = sorted(run.glob("records-*")), Path.unlink, []

    def unlink(path, missing_ok=False):
        original(path, missing_ok)
        after.append((bool(list(run.glob("state-*"))), sorted(run.glob("records-*")) == segments))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        discard(run)
    assert (True, True) in after
    assert (True, False) not in after


def test_a_folder_that_is_removed_while_its_lock_is_waited_for_is_not_held(tmp_path, monkeypatch):
    original = durable.fcntl.flock

    def flock(lock, how):
        (tmp_path / "lock").unlink()
        original(lock, how)

    monkeypatch.setattr(durable.fcntl, "flock", flock)
    with pytest.raises(StoreError, match="just been finished or removed"), durable.held(tmp_path):
        pass


def test_a_run_begun_with_another_engine_names_it(tmp_path):
    with pytest.raises(phasejax.Interrupted):
        phasejax.simulate(small(), tmp_path / "run", engine=ANOTHER_ENGINE, interrupted=lambda: True)
    with pytest.raises(StoreError, match="begun with engine another: --engine another goes on with it"):
        phasejax.simulate(small(), tmp_path / "run", engine="autodiff", resume=True)


def test_a_checkpoint_of_another_version_is_not_loaded(tmp_path, monkeypatch):
    stopped(small(), tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    monkeypatch.setattr("phasejax.simulation.identify", lambda *_: Identity("another", "version"))
    with pytest.raises(
        StoreError, match=r"begun with other programs than these settings make here \(another version.*--overwrite"
    ):
        phasejax.simulate(small(), tmp_path / "run", resume=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_checkpoint_with_code_in_it_is_not_run(finished, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    experiment, path = finished
    stopped(experiment, tmp_path / "run")
    newest = max((tmp_path / "run").glob("state-*.npz"), key=lambda found: int(found.stem[6:]))
    np.savez(newest, header=np.array([Trap()], dtype=object))
    resumed = phasejax.simulate(experiment, tmp_path / "run", resume=True)
    assert not (tmp_path / "sprung").exists()
    with xr.open_dataset(path) as data:
        xr.testing.assert_identical(resumed.drop_attrs(), data.drop_attrs())


def test_a_damaged_record_is_found_when_it_is_read(tmp_path):
    experiment = small()
    stopped(experiment, tmp_path / "run", calls=3)
    segment = next(iter((tmp_path / "run").glob("records-*.nc")))
    with netCDF4.Dataset(segment) as nc:
        values = nc["eigenvalues"][:].data.tobytes()
    whole = bytearray(segment.read_bytes())
    whole[whole.index(values) + len(values) // 2] ^= 1
    segment.write_bytes(whole)
    with pytest.raises(StoreError, match=rf"{segment.name} is not what was written there: .*--overwrite starts anew"):
        phasejax.simulate(experiment, tmp_path / "run", resume=True)
    assert not (tmp_path / "run.nc").exists()


def memory():
    """Resident bytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def grows_by(out, answer):
    """Write to `answer` by how many bytes the process grew in the last quarter of a thousand records."""
    observed["by small"] = FEW
    # A thousand records with this observable are 240 MB.
    large = Observable(
        "large", lambda student, task: jnp.full(10_000, student.step, jnp.float32), "what takes space", ("cell",)
    )
    experiment = small(
        task=TeacherStudent(samples=8000, test_samples=4),
        grid=Grid(temperature=(0.5, 1.0), sigma_w=(1.0,), seeds=3),
        schedule=Schedule(steps=1800, records_per_decade=1000),
    )
    assert len(experiment.ladder.records()) > 1000
    seen = []
    phasejax.simulate(experiment, out, observe=[*FEW, large], checkpoint_seconds=0.2,
                      interrupted=lambda: seen.append(memory())).close()  # fmt: skip
    quarter = len(seen) // 4
    answer.write_text(str(int(np.median(seen[-quarter:]) - np.median(seen[-2 * quarter : -quarter]))))


@pytest.mark.long
def test_memory_stays_flat_over_a_thousand_records(processes, tmp_path):
    # In a process of its own, whose allocator nothing else has used, and once it has what it needs: that takes the
    # first third. A quarter of the records is 60 MB.
    assert in_a_process(processes, grows_by, tmp_path / "run", tmp_path / "answer") == 0
    assert int((tmp_path / "answer").read_text()) < 30e6


def join_in_little_memory(folder):
    """Slabs and segments of 144 MB, with 100 MB beyond what the libraries take."""

    def make(path, steps, seeds):
        with netCDF4.Dataset(path, "w") as nc:
            sizes = {"step": len(steps), "step_decades": 1, "step_ends": 1, "seed": len(seeds), "cell": 200_000}
            for name, size in sizes.items():
                nc.createDimension(name, size)
            for axis in ("step", "step_decades", "step_ends"):
                nc.createVariable(axis, "i8", (axis,))[:] = steps[: sizes[axis]]
            nc.createVariable("seed", "i8", ("seed",))[:] = seeds
            chunks = (1, sizes["cell"], sizes["seed"])
            large = nc.createVariable("large", "f4", ("step", "cell", "seed"), chunksizes=chunks)
            for row, step in enumerate(steps):
                large[row] = step + np.array(seeds)[None]
            nc.coordinates = ""

    for name, steps, seeds in (("a", range(90), [0, 1]), ("b", range(90), [2, 3]), ("c", range(90, 180), [0, 1])):
        make(folder / f"{name}.nc", steps, seeds)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, resource.RLIM_INFINITY))
    netcdf.merge([folder / "a.nc", folder / "b.nc"], folder / "merged.nc", {})
    netcdf.concatenate([folder / "a.nc", folder / "c.nc"], folder / "whole.nc", {})


def test_files_larger_than_memory_are_merged_and_consolidated(processes, tmp_path):
    assert in_a_process(processes, join_in_little_memory, tmp_path) == 0
    for name, steps, seeds in (("merged", 90, 4), ("whole", 180, 2)):
        with netCDF4.Dataset(tmp_path / f"{name}.nc") as nc:
            assert nc["large"].shape == (steps, 200_000, seeds)
            assert (nc["large"][steps - 1] == steps - 1 + np.arange(seeds)).all()


# -- anything at all in place of a settings file, a run's file or a run's folder ----------------------------------------

quickly = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
numbers = st.one_of(st.integers(-3, 2**70), st.floats(), st.booleans(), st.text(max_size=3))
values = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def fields(table):
    names = st.sampled_from([*table, "kind", "nonsense"])
    kinds = st.sampled_from(["Digits", "Arrays", "FromTeacher", "FromRun", "Network", "mine:Thing", "os:system", "a:b:c"])
    return st.dictionaries(names, st.one_of(values, kinds), max_size=3)


@st.composite
def settings_files(draw):
    """TOML that is nearly an experiment's, or any text."""
    import tomli_w

    if draw(st.booleans()):
        return draw(st.text(max_size=60))
    tables = {name: table for name, table in Experiment().to_tables().items() if isinstance(table, dict)}
    tables["grid"] |= dict.fromkeys(["learning_rate", "momentum", "weight_decay"])
    tables["task"] |= dict.fromkeys(["path", "x"])
    tables["start"] |= dict.fromkeys(["path", "at", "along", "perturbation"])
    parts = {name: draw(fields(table)) for name, table in tables.items()}
    parts |= draw(st.dictionaries(st.sampled_from(["precision", "observe", "grid", "other"]), values, max_size=1))
    return tomli_w.dumps(parts)


@quickly
@given(settings_files())
def test_any_settings_give_an_experiment_or_one_sentence(text):
    experiment = sentence = None
    with no_code():
        try:
            experiment = Experiment.from_toml(text)
        except ExperimentError as refusal:
            sentence = str(refusal)
    if experiment:
        assert Experiment.from_toml(experiment.to_toml()) == experiment
    else:
        one_sentence(sentence)


def one_sentence(text):
    assert text.endswith(".")
    assert "\n" not in text


def read_all(path):
    """Everything that reads a run."""
    for read in (read_experiment, progress, phasejax.open, slabs.merge):
        sentence = "It is one."
        with no_code():
            try:
                found = read(path)
                if isinstance(found, xr.Dataset):
                    found.close()
            except (StoreError, ExperimentError) as refusal:
                sentence = str(refusal)
        one_sentence(sentence)


@quickly
@given(data=st.data())
def test_any_bytes_in_a_runs_file_give_a_run_or_one_sentence(finished, tmp_path_factory, data):
    whole = finished[1].read_bytes()
    kinds = {"whole": whole, "half": whole[: len(whole) // 2], "classic": b"CDF\x01", "head": whole[:8], "": b""}
    # HDF5 itself may crash on a damaged global heap, the one part of a file's structure that has no checksum.
    heap = whole.index(b"GCOL")
    heap_end = heap + int.from_bytes(whole[heap + 8 : heap + 16], "little")
    damaged = bytearray(kinds[data.draw(st.sampled_from([*kinds]))])
    for at in data.draw(st.lists(st.integers(0, max(0, len(damaged) - 1)), max_size=5)):
        if damaged and not heap <= at < heap_end:
            damaged[at] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("fuzz") / "run.nc"
    file.write_bytes(damaged)
    read_all(file)


names = st.sampled_from(
    ["experiment.toml", "lock", "records-5.nc", "records-x.nc", "records-.nc", "state-5.npz", "state-9.npz", "state-a.npz",
     "seeds-0-1", "seeds-0-1.nc", "seeds-1-0.nc", "seeds-0-x", "seeds-2-2.nc", "notes.txt"]
)  # fmt: skip


@quickly
@given(data=st.data())
def test_any_files_in_a_runs_folder_give_a_run_or_one_sentence(finished, tmp_path_factory, data):
    experiment, path = finished
    contents = {"settings": experiment.to_toml().encode(), "run": path.read_bytes(), "": b"", "zip": b"PK\x03\x04",
                "not UTF-8": b"\xff\xfe", "folder": None}  # fmt: skip
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    folder.mkdir()
    for name in data.draw(st.lists(names, unique=True, max_size=5)):
        content = contents[data.draw(st.sampled_from([*contents]))]
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    read_all(folder)
