"""What an enemy, or a bad day, can do to a run: hostile files and settings, threads, damage, closed streams, no memory."""

import contextlib
import dataclasses
import errno
import io
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import tomli_w
import xarray as xr
from conftest import FEW, no_code, small
from hypothesis import given
from hypothesis import strategies as st
from test_reliability import in_a_process, one_sentence, processes, quickly, values

import phasejax as pj
from phasejax import Experiment, ExperimentError, Grid, Schedule, StoreError, cli, names
from phasejax.files import durable, folder, layout, netcdf, slabs, state, variables
from phasejax.files.progress import progress
from phasejax.studies.study import Study

__all__ = ["processes"]

TWO = small(observe=FEW, grid=Grid(temperature=(2**-5, 1.0), sigma_w=(256.0, 0.125), seeds=4))


def begin(out, calls=6, experiment=TWO):
    counter = itertools.count()
    with pytest.raises(pj.Interrupted):
        pj.simulate(experiment, out, checkpoint_seconds=0, interrupted=lambda: next(counter) >= calls)


@pytest.fixture(scope="module")
def expected():
    return pj.simulate(TWO).drop_attrs()


def said(capsys, command, *arguments):
    """Exit code and standard error of a command."""
    with pytest.raises(SystemExit) as left:
        command(list(map(str, arguments)))
    return left.value.code, capsys.readouterr().err


# -- settings ------------------------------------------------------------------------------------------------------------

DIGITS = "9" * 400


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 200_000) + " = 1",
        "\n".join(".".join([f"a{k}"] * 49) + " = 1" for k in range(2000)) + "\n" + ".".join(["'.'"] * 60) + " = 1",
        "[" * 3000,
        "x = " + "[" * 3000,
        "x = " + "{a = " * 3000,
        f"[grid]\nseeds = {DIGITS}",
        f"[grid]\nseeds = {DIGITS * 13}",
        f"[grid]\ntemperature = [1.0, {DIGITS}]",
        "[grid]\ntemperature = [" + "0.1, " * 19_999 + "]",
        "[grid]\ntemperature = [" + ", ".join(map(str, range(1, 100_000))) + "]",
        "[grid]\n" + "\n".join(f"{name} = {list(range(1, 200))}" for name in ("temperature", "sigma_w", "decay", "mu")),
        "#" * 2**21,
        f"[network]\nactivation = {'x' * 9999!r}",
        '[network]\nactivation = "\\u001b[31m\\n"',
        '["\\u001b[31m\\n"]',
        '[grid]\n"\\u001b[31m\\n" = 1',
        '[task]\nkind = "Arrays"\npath = "/dev/zero"',
        '[task]\nkind = "Arrays"\npath = "a\\u0000b"',
        '[task]\nteacher = "/dev/stdin"',
    ],
    ids=map(str, range(99)),
)  # fmt: skip
def test_settings_of_any_size_are_one_short_sentence(text):
    began = memory = _peak()
    for read in (Experiment.from_toml, Study.from_toml):
        with pytest.raises(ExperimentError) as refused:
            read(text if read == Experiment.from_toml else f'question = "?"\n{text}')
        one_sentence(str(refused.value))
        assert len(str(refused.value)) < 1000
        assert str(refused.value).isprintable()
    memory = _peak()
    assert memory - began < 200e6


def _peak():
    """Bytes that the process has had at most."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


TINY, ONE = {"temperature": 1.0, "sigma_w": 1.0}, pj.Network((3, 4, 1))


@pytest.mark.parametrize(
    "parts",
    [
        {"grid": Grid(temperature=1e-46)},
        {"grid": Grid(temperature=1e-40)},  # XLA takes it for 0
        {"grid": Grid(temperature=1e308)},
        {"grid": Grid(temperature=1e308), "precision": "float64"},
        {"grid": Grid(temperature=1e-310), "precision": "float64"},
        {"grid": Grid(temperature=1e-38, momentum=0.9)},
        {"grid": Grid(sigma_w=1e-46)},
        {"grid": Grid(sigma_w=[1.0, 1.0000000001])},
        {"grid": Grid(momentum=1 - 1e-9)},
        {"grid": Grid(weight_decay=1e-50)},
        {"grid": Grid(learning_rate=1e-50), "sgd": pj.Sgd("adam")},
        {"grid": Grid(sigma_w=1e20), "network": dataclasses.replace(ONE, sigma_w_scale=(1e30, 1.0))},
        {"grid": Grid(sigma_w=1e-20), "network": dataclasses.replace(ONE, sigma_w_scale=(1e-30, 1.0))},
        {"grid": Grid(**TINY), "start": pj.FromTeacher(1e-46)},
        {"schedule": Schedule(rate=[(0, 1), (1, 1e-45)])},
        {"grid": Grid(temperature=1e-20), "schedule": Schedule(rate=[(0, 1), (1, 1e-20)])},
    ],
    ids=map(str, range(99)),
)  # fmt: skip
def test_numbers_that_are_others_in_the_runs_precision_are_refused(parts):
    with pytest.raises(ExperimentError, match=r"in float(32|64) it is (0|inf|1|the same as 1.0)\.$"):
        Experiment(**parts)


def test_numbers_that_are_far_apart_enough_are_not():
    Experiment(grid=Grid(temperature=[1e-30, 1e30], sigma_w=[1.0, 1 + 2**-23], momentum=0.999))
    Experiment(grid=Grid(sigma_w=[1.0, 1.0000000001], momentum=1 - 1e-9), precision="float64")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--time-limit", f"{DIGITS}s"),
        ("--shard", f"0/{DIGITS * 13}"),
        ("--grid.seeds", DIGITS),
        ("--grid.seeds", 13 * DIGITS),
    ],
    ids=["time limit", "shard", "seeds", "more seeds"],
)
def test_options_of_any_length_are_one_sentence(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    code, words = said(capsys, cli.run, "--preset", "quick", "--out", "run", *arguments)
    assert (code, words.count("\n"), len(words) < 600) == (2, 1, True), words
    assert not list(tmp_path.iterdir())


def test_what_slurm_says_may_be_anything():
    told = dict.fromkeys(["TASK_MIN", "TASK_MAX", "TASK_COUNT"], "5")
    for step in ("0", "-1", DIGITS * 13):
        environment = {f"SLURM_ARRAY_{name}": of for name, of in (told | {"TASK_ID": "5", "TASK_STEP": step}).items()}
        with contextlib.suppress(ExperimentError):
            slabs.read_shard("auto", environment)


# -- what becomes code ---------------------------------------------------------------------------------------------------


def test_what_becomes_code_is_heard(tmp_path):
    (tmp_path / "hostile_probe.py").write_text("x = 1")
    with pytest.raises(AssertionError, match="hostile_probe"), no_code():
        names.use(tmp_path / "hostile_probe.py")


@st.composite
def studies(draw):
    """TOML that is nearly a study's, or any text."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.text(max_size=60))
    paths = st.sampled_from(
        ["sgd.batch_size", "network", "task.kind", "grid.seeds", "schedule.steps", "observe", "x.y", "a", ""]
    )
    anything = st.one_of(
        values, st.sampled_from(["os:system", "hostile:Thing", {"kind": "os:system"}, [{"kind": "Digits"}]])
    )
    vary = st.dictionaries(paths, st.one_of(values, st.lists(anything, max_size=3)), max_size=2)
    tables = {
        "question": draw(st.one_of(values, st.text(max_size=9))),
        "clock": draw(st.one_of(values, st.sampled_from(["steps", "epochs", "time"]))),
        "vary": draw(st.one_of(values, vary)),
        "presets": draw(st.one_of(values, st.dictionaries(st.text(max_size=5), st.one_of(values, vary), max_size=2))),
        "member": draw(st.one_of(values, st.lists(st.one_of(vary, vary.map(lambda of: of | {"name": "one"})), max_size=2))),
        "base": {} if draw(st.booleans()) else draw(values),
        **draw(st.dictionaries(st.sampled_from(["members", "lengths", "figures"]), anything, max_size=1)),
    }
    return tomli_w.dumps({name: tables[name] for name in draw(st.lists(st.sampled_from(list(tables)), unique=True))})


@quickly
@given(studies())
def test_any_text_gives_a_study_or_one_sentence_and_no_code(text):
    study = sentence = None
    with no_code():
        try:
            study = Study.from_toml(text)
        except ExperimentError as refusal:
            sentence = str(refusal)
    if study:
        assert Study.from_toml(study.to_toml()) == study
    else:
        one_sentence(sentence)


def test_only_what_a_file_given_with_use_defines_can_be_named(tmp_path):
    (tmp_path / "mine_used.py").write_text(
        "import os, subprocess, optax\nfrom dataclasses import dataclass\n"
        "def wave(z):\n    return z\n@dataclass(frozen=True)\nclass Thing:\n    wave = staticmethod(wave)\n"
    )
    names.use(tmp_path / "mine_used.py")
    assert names.look_up("mine_used:wave")(3) == names.look_up("mine_used:Thing.wave")(3) == 3
    for hostile in (
        "os.system",
        "subprocess",
        "subprocess.Popen",
        "wave.__globals__",
        "__builtins__",
        "optax.adam",
        "nothing",
    ):
        with pytest.raises(ExperimentError, match=r"defines no"):
            names.look_up(f"mine_used:{hostile}")
    assert names.look_up("os:system") == "os:system"
    for no_name in ("a\nb:c", "a:\x1b[31m", "a:b:c", ":a", "a:", "a b:c"):
        assert not names.is_reference(no_name)


@pytest.mark.parametrize("content", ["pickled", "object", "short", "text", ""])
def test_a_hostile_data_file_is_one_sentence(tmp_path, content):
    path, arrays = tmp_path / "data.npz", {name: np.zeros((4, 2)) for name in ("x", "y", "test_x", "test_y")}
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (sprung,))

    if content == "object":
        arrays["y"] = np.array([Trap()] * 4, dtype=object)
    np.savez(path, **arrays)
    whole = path.read_bytes()
    if content == "pickled":
        np.save(tmp_path / "data.npy", np.array([Trap()], dtype=object))
        (tmp_path / "data.npy").rename(path)
    elif content != "object":
        path.write_bytes({"short": whole[: len(whole) // 2], "text": b"x,y", "": b""}[content])
    for make in (lambda: pj.Arrays(path=str(path)), lambda: pj.TeacherStudent(teacher=str(path)).read_teacher()):
        with no_code(), pytest.raises(ExperimentError, match=r"must be a \.npz file of arrays of numbers"):
            make()
    assert not sprung.exists()


# -- files of others -----------------------------------------------------------------------------------------------------


def with_setting(data, table, field, value):
    tables = Experiment.from_toml(data.attrs["experiment"]).to_tables()
    tables[table][field] = value
    return data.assign_attrs(experiment=tomli_w.dumps(tables))


def with_values(data, name, change):
    return data.assign_coords({name: (data[name].dims, change(data[name].values), data[name].attrs)})


HOSTILE = {
    "widths a text": lambda d: with_setting(d, "network", "widths", "x"),
    "widths a number": lambda d: with_setting(d, "network", "widths", 9),
    "trainable empty": lambda d: with_setting(d, "network", "trainable", [9]),
    "trainable a number": lambda d: with_setting(d, "network", "trainable", 9),
    "scales a number": lambda d: with_setting(d, "network", "sigma_w_scale", 9),
    "another seed": lambda d: with_setting(d, "grid", "first_seed", 7),
    "steps all equal": lambda d: with_values(d, "step", lambda v: 0 * v),
    "other steps": lambda d: with_values(d, "step", lambda v: v + 1),
    "no steps": lambda d: d.drop_vars("step"),
    "negative temperatures": lambda d: with_values(d, "temperature", lambda v: -v),
    "no temperatures": lambda d: d.drop_vars("temperature"),
    "not a number": lambda d: with_values(d, "inverse_sigma_w", lambda v: np.nan * v),
    "epochs missing": lambda d: d.drop_vars("epoch"),
    "seeds of others": lambda d: with_values(d, "seed", lambda v: v + 1),
    "axes a number": lambda d: d.assign_attrs(axes=5),
    "axes numbers": lambda d: d.assign_attrs(axes=[1, 2]),
    "texts for losses": lambda d: d.assign(test_loss=d.test_loss.astype(str)),
    "one loss": lambda d: d.assign(test_loss=0.5),
    "one divergence": lambda d: d.assign(diverged_step=3),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_sentence_for_figures(finished, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    with xr.open_dataset(finished[1]) as data:
        HOSTILE[kind](data.load()).to_netcdf("hostile.nc")
    code, words = said(capsys, cli.figures, "hostile.nc", "--only", 2)
    assert (code, words.count("\n")) == (2, 1), words
    assert not Path("figures").exists()


def test_a_selection_of_a_run_is_no_hostile_file(finished, tmp_path):
    with xr.open_dataset(finished[1]) as data:
        some = data.isel(temperature=[0, 2], seed=[1], step=slice(3)).load()
        some.isel(sigma_w=0).to_netcdf(tmp_path / "one.nc")
        some.isel(sigma_w=[1, 0]).to_netcdf(tmp_path / "some.nc")
    for name in ("one", "some"):
        pj.open(tmp_path / f"{name}.nc").close()


def test_a_file_that_says_it_has_more_records_than_memory_is_not_loaded(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished[1], "large.nc")
    with netCDF4.Dataset("large.nc", "a") as nc:
        nc.createDimension("huge", 10**9)
        dims = ("step", "temperature", "sigma_w", "seed", "huge")
        nc.createVariable("large", "f8", dims, chunksizes=(1, 1, 1, 1, 1000))  # of which none is written
    code, words = said(capsys, cli.figures, "large.nc")
    assert (code, "GB of records, and" in words, words.count("\n")) == (2, True, 1), words


@pytest.mark.parametrize("labels", ["0-4294967296", "0-9999999999", "1-0", "2147483647-2147483649", "0-" + "9" * 99])
def test_absurd_labels_of_slabs_take_no_memory(tmp_path, capsys, labels):
    pj.simulate(TWO, tmp_path / "run", shard=(0, 2)).close()
    (tmp_path / "run" / f"seeds-{labels}").mkdir()
    shutil.copy(tmp_path / "run" / "seeds-0-1.nc", tmp_path / "run" / f"seeds-{labels}.nc")
    for command, arguments in ((cli.status, ()), (cli.merge, ()), (cli.run, ("--resume",))):
        code, words = said(capsys, command, *arguments, tmp_path / "run", *(("--shard", "1/2") if arguments else ()))
        assert code in (0, 2)
        assert words.count("\n") <= (5 if command is cli.status else 2), words


def test_status_of_as_many_seeds_as_there_can_be(tmp_path, capsys):
    many = dataclasses.replace(TWO, grid=dataclasses.replace(TWO.grid, seeds=2**31 - 2))
    folder.keep_experiment(tmp_path / "run", many)
    (tmp_path / "run" / "seeds-5-8").mkdir()
    folder.keep_experiment(
        tmp_path / "run" / "seeds-5-8", dataclasses.replace(TWO, grid=dataclasses.replace(TWO.grid, first_seed=5))
    )
    before = _peak()
    with pytest.raises(SystemExit):
        cli.status([str(tmp_path / "run")])
    assert f"{2**31 - 2 - 4} of {2**31 - 2} seeds have not been begun" in capsys.readouterr().out
    with pytest.raises(ExperimentError, match="The run needs at least"):
        pj.simulate(many, tmp_path / "run", resume=True, shard=(1, 2))
    assert _peak() - before < 500e6


def test_what_labels_have_in_common():
    random = np.random.default_rng(0)
    for _ in range(2000):
        a, b, c = (range(*sorted(random.integers(0, 12, 2).tolist())) for _ in range(3))
        assert set(layout.overlap(a, b)) == set(a) & set(b)
        assert layout.within(a, b) == (set(a) <= set(b))
        assert layout.uncovered(a, [b, c]) == len(set(a) - set(b) - set(c))


def test_slabs_that_do_not_say_when_they_were_made_are_merged(expected, tmp_path):
    for index in range(2):
        pj.simulate(TWO, tmp_path / "run", shard=(index, 2)).close()
    with netCDF4.Dataset(tmp_path / "run" / "seeds-0-1.nc", "a") as nc:
        nc.delncattr("created")
        nc.delncattr("device")
        nc.command_line = np.arange(3)
    pj.merge(tmp_path / "run")
    with pj.open(tmp_path / "run") as merged:
        xr.testing.assert_identical(merged.drop_attrs().load(), expected)
        assert merged.attrs["created"] > "2020"


@pytest.mark.parametrize(
    "text",
    ["process {} on {}", "process 1 on mars", "\x1b[31m\x00\n" * 99, "x" * 10**7, "ä\udcff"],
    ids=["this process", "a foreign host", "control characters", "10 MB", "no UTF-8"],
)
def test_a_lock_may_say_anything(expected, tmp_path, capsys, text):
    """What counts is who holds it: numbers of processes come again, and hosts are others'."""
    begin(tmp_path / "run")
    (tmp_path / "run" / "lock").write_bytes(text.format(os.getpid(), os.uname().nodename).encode(errors="surrogateescape"))
    assert not progress(tmp_path / "run").owner
    resumed = pj.simulate(TWO, tmp_path / "run", resume=True, progress=True)
    xr.testing.assert_identical(resumed.drop_attrs().load(), expected)
    left = next(line for line in capsys.readouterr().err.splitlines() if "is gone" in line)
    assert left.isprintable()
    assert len(left) < 800


def test_a_clock_that_goes_back_changes_nothing(expected, tmp_path, monkeypatch, capsys):
    counter = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 1000 * next(counter))
    begin(tmp_path / "run")
    os.utime(layout.states(tmp_path / "run")[0][1], (4e9, 4e9))
    with durable.held(tmp_path / "run"), pytest.raises(SystemExit) as left:
        cli.status([str(tmp_path / "run")])
    assert left.value.code == 0
    assert "time left" in capsys.readouterr().out
    resumed = pj.simulate(TWO, tmp_path / "run", resume=True)
    xr.testing.assert_identical(resumed.drop_attrs().load(), expected)


# -- damage --------------------------------------------------------------------------------------------------------------


def flips(content, count, random):
    """Copies of some bytes with a bit flipped, each at another place; where HDF5 itself may crash there is none."""
    heap = content.find(b"GCOL")
    end = heap + int.from_bytes(content[heap + 8 : heap + 16], "little") if heap >= 0 else -1
    for at in random.integers(0, 8 * len(content), count).tolist():
        if not heap <= at // 8 < end:
            changed = bytearray(content)
            changed[at // 8] ^= 1 << at % 8
            yield bytes(changed)


LONG = pytest.mark.long


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=LONG)])
def test_a_state_with_a_bit_flipped_is_none_or_the_same(tmp_path, count):
    begin(tmp_path / "run")
    path = layout.states(tmp_path / "run")[0][1]
    header, whole = state.load(path)
    found = Counter()
    for content in flips(path.read_bytes(), count, np.random.default_rng(count)):
        path.write_bytes(content)
        read = state.load(path)
        found["none" if read is None else "same"] += 1
        if read is not None:
            assert read[0] == header
            assert read[1].leaves.keys() == whole.leaves.keys()
            assert all(np.array_equal(leaf, whole.leaves[name]) for name, leaf in read[1].leaves.items())
    assert found["none"] > 0.9 * count


@pytest.mark.parametrize("count", [30, pytest.param(5000, marks=LONG)])
def test_a_segment_with_a_bit_flipped_is_not_made_a_file(tmp_path, count):
    """And then the state, which knows the segments' digests, is refused with the segment named."""
    begin(tmp_path / "run")
    checkpoint, segment = state.load(layout.states(tmp_path / "run")[0][1])[1], layout.segments(tmp_path / "run")[0]
    assert set(checkpoint.segments) == {path.name for path in layout.segments(tmp_path / "run")}
    whole = segment.read_bytes()
    for content in flips(whole, count, np.random.default_rng(count)):
        segment.write_bytes(content)
        with pytest.raises(variables.DamagedError, match="is not what was written there"):
            folder._verify([segment], checkpoint)
    with pytest.raises(StoreError, match=rf"{segment.name} is not what .*--overwrite starts anew"):
        pj.simulate(TWO, tmp_path / "run", resume=True)
    segment.write_bytes(whole)
    pj.simulate(TWO, tmp_path / "run", resume=True).close()


@pytest.mark.parametrize("count", [20, pytest.param(600, marks=LONG)])
def test_a_slab_with_a_bit_flipped_is_refused_or_merges_to_the_same(expected, tmp_path, count):
    for index in range(2):
        pj.simulate(TWO, tmp_path / "run", shard=(index, 2)).close()
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    whole, found = (tmp_path / "kept" / "seeds-0-1.nc").read_bytes(), Counter()
    for content in flips(whole, count, np.random.default_rng(count)):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run.nc").unlink(missing_ok=True)
        shutil.copytree(tmp_path / "kept", tmp_path / "run")
        (tmp_path / "run" / "seeds-0-1.nc").write_bytes(content)
        try:
            slabs.merge(tmp_path / "run")
        except (StoreError, ExperimentError) as refusal:
            one_sentence(str(refusal))
            assert (tmp_path / "run" / "seeds-2-3.nc").exists()
            found["refused"] += 1
            continue
        found["same"] += 1
        with xr.open_dataset(tmp_path / "run.nc") as merged:
            xr.testing.assert_equal(merged.drop_attrs().load(), expected)
    assert found["refused"] > 0.5 * count


@pytest.mark.parametrize("during", ["write", "concatenate"])
def test_a_folder_exchanged_in_the_midst_of_a_write_gets_nothing(tmp_path, monkeypatch, during):
    run, original = tmp_path / "run", getattr(netcdf, during)

    def exchange(path, *arguments, **options):
        original(path, *arguments, **options)
        run.rename(tmp_path / "removed")
        shutil.copytree(tmp_path / "removed", run)

    monkeypatch.setattr(netcdf, during, exchange)
    with pytest.raises(StoreError, match="was removed or begun anew while this process was writing it: nothing more"):
        pj.simulate(TWO, run)
    assert len(layout.states(run)) == (during == "concatenate")
    assert not [path for path in tmp_path.glob("run/records*") if during == "write" and path.suffix == ".nc"]
    assert not run.with_suffix(".nc").exists()


PLACES = (
    (os, "replace"),
    (os, "fsync"),
    (np, "savez"),
    (netcdf, "write"),
    (netcdf, "create_variable"),
    (Path, "write_text"),
)


@pytest.mark.parametrize("moments", [range(3, 60, 11), pytest.param(range(1, 90), marks=LONG)])
def test_a_disk_that_is_full_at_any_write_costs_nothing(expected, tmp_path, monkeypatch, moments):
    ended = Counter()
    for moment in moments:
        run, events = tmp_path / f"run{moment}", itertools.count(1)

        def full(function, events=events, moment=moment):
            def wrapped(*arguments, **options):
                if next(events) >= moment:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return function(*arguments, **options)

            return wrapped

        with monkeypatch.context() as patch:
            for place, name in PLACES:
                patch.setattr(place, name, full(getattr(place, name)))
            refusal = ""
            try:
                pj.simulate(TWO, run, checkpoint_seconds=0).close()
            except StoreError as error:
                refusal = str(error)
        if refusal:
            ended["refused"] += 1
            assert "No space left on device" in refusal
            one_sentence(refusal)
        assert not list(run.glob("*.tmp"))
        whole = pj.simulate(TWO, run, resume=any(path.exists() for path in layout.paths(run)))
        xr.testing.assert_identical(whole.drop_attrs().load(), expected)
        assert [path.name for path in tmp_path.iterdir()] == [f"run{moment}.nc"]
        (tmp_path / f"run{moment}.nc").unlink()
    assert ended["refused"] >= min(len(moments), 4)


def resume(out, barrier, answers):
    barrier.wait()
    try:
        pj.simulate(TWO, out, resume=True, checkpoint_seconds=0).close()
        answers.put("done")
    except StoreError as refusal:
        answers.put(str(refusal))


@LONG
@pytest.mark.parametrize("times", [8])
def test_of_two_that_go_on_at_once_one_is_refused(expected, processes, tmp_path, times):
    for number in range(times):
        run = tmp_path / f"run{number}"
        begin(run)
        barrier, answers = processes.Barrier(2), processes.Queue()
        both = [processes.Process(target=resume, args=(run, barrier, answers)) for _ in range(2)]
        for process in both:
            process.start()
        words = sorted(answers.get(timeout=100) for _ in both)
        for process in both:
            process.join()
        assert "done" in words
        for other in words:
            assert other == "done" or "is being written by process" in other or "just been finished or removed" in other, (
                other
            )
        with xr.open_dataset(run.with_suffix(".nc")) as data:
            xr.testing.assert_identical(data.drop_attrs().load(), expected)


def in_threads(out, times):
    expected = pj.simulate(TWO).drop_attrs()
    wrong = []

    def train(number):
        try:
            for k in range(times):
                data = pj.simulate(TWO, out / f"{number}-{k}", checkpoint_seconds=0)
                xr.testing.assert_identical(data.load().drop_attrs(), expected)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("times", [pytest.param(2, marks=LONG), pytest.param(30, marks=LONG)])
def test_runs_in_threads_of_one_process(processes, tmp_path, times):
    """The netCDF library ends a process in which two threads use it."""
    assert in_a_process(processes, in_threads, tmp_path, times) == 0


# -- memory, streams, surroundings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"task": pj.TeacherStudent(40_000), "grid": Grid(**TINY, seeds=100_000)},
        {"network": pj.Network((3, 100_000, 100_000, 1)), "grid": Grid(**TINY, seeds=1), "observe": ("test_loss",)},
        {"task": pj.TeacherStudent(4000, test_samples=2**31 - 1), "grid": Grid(**TINY, seeds=1)},
        {"task": pj.TeacherStudent(2**31 - 4), "grid": Grid(**TINY, seeds=1)},
    ],
    ids=["seeds and samples", "widths", "test samples", "samples"],
)
def test_more_than_the_memory_is_told_before_it_is_taken(tmp_path, parts):
    before = _peak()
    with pytest.raises(
        ExperimentError, match=r"needs at least [\d,]+\.\d GB of memory \(data .*, state .*, records .*GB are free"
    ):
        pj.simulate(small(observe=FEW, **parts) if "observe" not in parts else small(**parts), tmp_path / "run")
    assert _peak() - before < 500e6
    assert not list(tmp_path.iterdir())


def test_memory_is_that_of_the_control_group_if_it_has_less(tmp_path, monkeypatch):
    from phasejax import memory

    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8000000 kB\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    assert memory.available() == 8e6 * 1024

    def group(name, **files):
        (tmp_path / "groups" / name).mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (tmp_path / "groups" / name / file.replace("__", ".")).write_text(content)

    (tmp_path / "self" / "cgroup").write_text("0::/slurm/job/step\n")
    group("slurm/job", memory__max="1000000\n", memory__current="300000\n", memory__stat="anon 7\ninactive_file 50000\n")
    group("slurm/job/step", memory__max="max\n", memory__current="9\n", memory__stat="")
    assert memory.available() == 750_000
    (tmp_path / "self" / "cgroup").write_text("5:cpu:/\n4:memory:/a/b\n")
    group("memory", memory__limit_in_bytes="2000", memory__usage_in_bytes="500", memory__stat="inactive_file 1")
    assert memory.available() == 1501


def command(words, cwd, **environment):
    line = f"{sys.executable} -m phasejax {words}"
    cleared = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    inherited = {name: of for name, of in os.environ.items() if name.startswith(("JAX_COMP", "JAX_PERS", "XDG_CACHE"))}
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=cwd, env=cleared | inherited | environment
    )
    return done.returncode, done.stdout, done.stderr


RUN = (
    "run --task.samples 40 --task.test-samples 8 --grid.temperature 1 --grid.sigma-w 1 --grid.seeds 2 --schedule.steps 20"
    " --observe test_loss --out run"
)


@LONG
def test_a_run_whose_standard_error_is_closed_is_a_run_like_any_other(tmp_path):
    """Nor may what libraries write there get into its files: the first one opened would have its number."""
    code, out, _ = command(f"{RUN} 2>&- <&-", tmp_path)
    assert (code, "Wrote run.nc" in out) == (0, True)
    pj.open(tmp_path / "run.nc").close()


STREAMS = {
    "2> >(true)": 0,
    "2> /dev/full": 0,
    ">&- 2>&- <&-": 0,
    "> /dev/full": 2,
    "| true": 0,
}


@LONG
@pytest.mark.parametrize("redirected", STREAMS)
def test_streams_that_take_nothing(tmp_path, redirected):
    code, _, err = command(f"{RUN} {redirected}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (code, "Traceback" in err) == (STREAMS[redirected], False), err
    assert ("Standard output cannot be written to" in err) == (code == 2)
    pj.open(tmp_path / "run.nc").close()


def test_a_terminal_that_goes_away_stops_nothing(expected, monkeypatch):
    class Gone(io.StringIO):
        def isatty(self):
            return True

        def write(self, words):
            raise OSError(errno.EIO, "Input/output error")

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        data = pj.simulate(TWO, progress=True)
        xr.testing.assert_identical(data.drop_attrs(), expected)
    closed = Gone()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    xr.testing.assert_identical(pj.simulate(TWO).drop_attrs(), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_PLATFORMS", "quantum"), *(pytest.param(*pair, marks=LONG) for pair in (("JAX_PLATFORMS", "cuda"),
     ("JAX_ENABLE_X64", "maybe"), ("JAX_DEFAULT_MATMUL_PRECISION", "x"), ("JAX_NUM_CPU_DEVICES", "many")))],
)  # fmt: skip
def test_settings_of_jax_that_are_none_are_one_sentence(tmp_path, name, value):
    code, out, err = command(RUN, tmp_path, **{name: value})
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "JAX" in err
    assert not list(tmp_path.iterdir())


@LONG
@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_no_home_no_terminal_and_no_locale(tmp_path, locale):
    code, _, err = command(RUN, tmp_path, **locale)
    assert code == 0, err
    for words in ("status run", "figures run --out drawn --only 2"):
        code, _, err = command(words, tmp_path, **locale)
        assert (code, "Traceback" in err) == (2 if "figures" in words else 0, False), err
    code, _, err = command(f"{RUN}ä", tmp_path, **locale)
    assert (code, "Traceback" in err) == (2 if "PYTHONUTF8" in locale else 0, False), err


def test_debugging_settings_of_jax_do_not_end_a_run(expected, monkeypatch):
    import jax

    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"), jax.threefry_partitionable(False):
        xr.testing.assert_identical(pj.simulate(TWO).drop_attrs(), expected)


def climb(out, answer, stops):
    """A run of so many calls at least; write by how many bytes and open files the process grew in its second half."""
    import resource

    experiment = small(
        observe=("test_loss",), task=pj.TeacherStudent(samples=4, test_samples=4), sgd=pj.Sgd(batch_size=4),
        network=pj.Network((3, 4, 4, 1), trainable=(2,)), grid=Grid(**TINY, seeds=2), schedule=Schedule(1000 * stops, 2),
    )  # fmt: skip
    assert experiment.schedule.steps == stops * experiment.ladder.block
    seen = []

    def look():
        if len(seen) % 100 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            look.last = resident, len(os.listdir("/proc/self/fd"))
        seen.append(look.last)
        return False

    pj.simulate(experiment, out, checkpoint_seconds=1, interrupted=look).close()
    half = len(seen) // 2
    answer.write_text(" ".join(str(end - begin) for begin, end in zip(seen[half], seen[-1], strict=True)))


@LONG
@pytest.mark.parametrize("stops", [10_000])
def test_nothing_leaks_over_many_stops(processes, tmp_path, stops):
    assert in_a_process(processes, climb, tmp_path / "run", tmp_path / "answer", stops) == 0
    grown, opened = map(int, (tmp_path / "answer").read_text().split())
    assert grown < 5e6
    assert opened <= 1
