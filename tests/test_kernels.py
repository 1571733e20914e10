"""Kernels' names, and their libraries: what is never loaded from the cache, and what a compiler may do."""

import ctypes
import errno
import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from conftest import skip_without_compiler

import phasejax as pj
from phasejax.kernels import build, linalg
from phasejax.kernels import cache as kept
from phasejax.kernels.samples import end_rows, products

KERNEL = b'extern "C" int phasejax_answer() { return 42; }'
PLANTED = b'extern "C" int phasejax_answer() { return 13; }'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, for kernels that are compiled in a moment."""
    skip_without_compiler("samples.cc", "products", N=4)
    monkeypatch.setattr(build, "_text", lambda source: KERNEL)
    return use(tmp_path / "cache", monkeypatch)


def use(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "phasejax"


def library():
    return build._library(build._compiler(), "answer.cc", ("-DREAL=float",))


def answer(path):
    assert digest(path) == path.stem.rpartition("-")[2], "a damaged library would be loaded"
    return ctypes.CDLL(str(path)).phasejax_answer()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def planted(cache, tmp_path, monkeypatch):
    """Somebody else's library under the name of the kernel's, with its own digest."""
    with monkeypatch.context() as elsewhere:
        use(tmp_path / "elsewhere", elsewhere)
        name = library().stem.rpartition("-")[0]
        elsewhere.setattr(build, "_text", lambda source: PLANTED)
        made = library()
    cache.mkdir(parents=True)
    planted = cache / f"{name}-{digest(made)}.so"
    shutil.copyfile(made, planted)
    planted.chmod(0o600)
    return planted


def test_a_library_is_built_once_for_its_user_alone(cache, monkeypatch):
    before = os.umask(0)
    try:
        built = library()
    finally:
        os.umask(before)
    assert built.parent == cache
    assert answer(built) == 42
    assert (stat.S_IMODE(cache.stat().st_mode), stat.S_IMODE(built.stat().st_mode)) == (0o700, 0o600)
    assert list(cache.iterdir()) == [built]
    monkeypatch.setattr(build, "_build", None)
    assert library() == built


def test_a_library_is_on_disk_before_it_has_its_name(cache, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    library()
    assert calls == ["fsync", "replace", "fsync"]


def test_what_is_planted_would_be_found(planted):
    assert library() == planted
    assert answer(planted) == 13


def other_owner(path):
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, 12345)


def link(path):
    kept = path.with_name("kept.so")
    path.rename(kept)
    path.symlink_to(kept)


@pytest.mark.parametrize(
    "spoil", [lambda path: path.chmod(0o620), lambda path: path.chmod(0o602), link, other_owner],
    ids=["its group may write it", "all may write it", "a link", "another's"],
)  # fmt: skip
def test_a_library_that_others_may_have_put_there_is_not_loaded(cache, planted, spoil):
    spoil(planted)
    built = library()
    assert built.parent == cache
    assert answer(built) == 42


def folder_link(cache):
    cache.rename(cache.with_name("kept"))
    cache.symlink_to(cache.with_name("kept"))


def not_a_folder(cache):
    shutil.rmtree(cache)
    cache.touch()


@pytest.mark.parametrize("spoil", [folder_link, other_owner, not_a_folder], ids=["a link", "another's", "a file"])
@pytest.mark.usefixtures("planted")
def test_a_folder_that_is_not_the_users_own_is_not_used(cache, spoil):
    spoil(cache)
    there = cache.lstat()
    built = library()
    assert cache not in built.parents
    assert answer(built) == 42
    assert stat.S_IMODE(built.parent.stat().st_mode) == 0o700
    after = cache.lstat()
    assert (there.st_mode, there.st_uid) == (after.st_mode, after.st_uid)


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_closed_to_them(cache, planted, mode):
    planted.chmod(0o666)
    cache.chmod(mode)
    built = library()
    assert built.parent == cache
    assert answer(built) == 42
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda path: os.truncate(path, path.stat().st_size // 2), lambda path: os.truncate(path, 0), flip],
    ids=["half", "empty", "flipped"],
)  # fmt: skip
def test_a_damaged_library_is_built_anew(damage, cache):
    damage(library())
    built = library()
    assert answer(built) == 42
    assert list(cache.iterdir()) == [built]


@pytest.mark.long
def test_a_torn_library_stops_no_process(tmp_path):
    """The memory of a library that is cut short is not there when it is run: the process would be killed."""
    skip_without_compiler("linalg.cc", "left_singular")
    program = """
        import jax.numpy as jnp
import numpy as np
        from phasejax.kernels import build, linalg
from phasejax.kernels import cache as kept
        print(build.target("linalg.cc", "left_singular", "float32"), linalg.left_singular(2 * jnp.eye(3))[0].tolist())
        """
    outputs = []
    for _ in range(2):
        command = [sys.executable, "-c", "\n".join(map(str.strip, program.splitlines()))]
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        outputs.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        (built,) = (tmp_path / "phasejax").iterdir()
        os.truncate(built, built.stat().st_size // 2)
    assert outputs[0] == outputs[1]
    assert "[2.0, 2.0, 2.0]" in outputs[1]


SIZES = {"N1": 32, "N2": 16, "BATCH": 4}


def test_a_targets_name_says_what_the_program_computes_and_not_what_compiled_it(monkeypatch):
    name = build.target_name("native.cc", "advance", "float32", **SIZES)
    assert re.fullmatch("phasejax-advance-native-32-16-4-float-[0-9a-f]{12}", name)
    others = [
        build.target_name("native.cc", "mean_gradient", "float32", **SIZES),
        build.target_name("native.cc", "advance", "float64", **SIZES),
        build.target_name("native.cc", "advance", "float32", **SIZES | {"BATCH": 5}),
        build.target_name("samples.cc", "advance", "float32", **SIZES),
    ]
    digests = {one.rpartition("-")[2] for one in [name, *others[1:]]}
    assert (len(set(others) - {name}), len(digests)) == (4, 4)
    monkeypatch.setattr(build, "_toolchain", None)
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert build.target_name("native.cc", "advance", "float32", **SIZES) == name
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-ffast-math"])
    assert build.target_name("native.cc", "advance", "float32", **SIZES) != name


def test_a_change_of_any_of_its_text_changes_a_targets_name(monkeypatch):
    text, name = build._text("linalg.cc"), build.target_name("linalg.cc", "left_singular", "float32")
    for changed in (text + b" ", b" " + text):
        monkeypatch.setattr(build, "_text", lambda source, changed=changed: changed)
        assert build.target_name("linalg.cc", "left_singular", "float32") != name


def test_what_is_lowered_by_name_is_the_same_with_a_compiler_and_without(monkeypatch):
    """And a function that was traced one way is traced anew the other way."""
    name = build.target_name("linalg.cc", "left_singular", "float32")
    lowered = jax.jit(jax.vmap(lambda w: linalg.left_singular(w))).trace
    shape = jax.ShapeDtypeStruct((3, 16, 32), jnp.float32)

    def text():
        return lowered(shape).lower(lowering_platforms=("cpu",)).as_text()

    skip_without_compiler("linalg.cc", "left_singular")
    registered = text()
    monkeypatch.setattr(build, "_registered", set())
    monkeypatch.setattr(build, "_stand_ins", {})
    monkeypatch.setenv("CXX", "/nowhere/c++")
    jax.clear_caches()
    without = text()
    assert name not in without
    with build.by_name():
        assert build.target("linalg.cc", "left_singular", "float32") == name
        assert text() == registered
        with ThreadPoolExecutor() as pool:
            assert pool.submit(text).result() == without, "another thread lowers what it can run"
    assert name in registered
    assert text() == without
    assert not build._registered


def test_a_name_is_registered_once_though_another_library_comes_to_have_it(cache, monkeypatch):
    """XLA knows one handler of a name; a call of a second one would be an error in every later program."""
    registered = []
    monkeypatch.setattr(build, "_registered", set())
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda name, *_, **__: registered.append(name))
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: build.target("answer.cc", "answer", "float32"), range(4)))
    shutil.rmtree(cache)
    assert {*names, build.target("answer.cc", "answer", "float32")} == {*registered}
    assert len(registered) == 1


@pytest.fixture
def without_kernels(monkeypatch, tmp_path):
    """As if this process had built none so far, and nothing were in the cache."""
    monkeypatch.setattr(build, "_registered", set())
    monkeypatch.setattr(build, "_stand_ins", {})
    use(tmp_path / "cache", monkeypatch)


def compiler(folder, script):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def refusal(monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(build.BuildError) as found:
        build.target("linalg.cc", "left_singular", "float32")
    return str(found.value).partition("\n")[0]


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("exit 0", "{} succeeded, it says, and wrote no library"),
        ("echo In a function: >&2; echo 'lanes.h:1: error: no.' >&2; exit 1", "{} failed: lanes.h:1: error: no."),
        ("echo Nein. >&2; exit 1", "{} failed: Nein."),
        ("exit 3", "{} failed: exit status 3"),
        ("for last; do :; done; test $last = - || echo junk > $last", "its library could not be loaded: "),
    ],
)
def test_a_compiler_that_fails_is_a_sentence(script, sentence, monkeypatch, tmp_path):
    command = compiler(tmp_path, script)
    assert refusal(monkeypatch, command).startswith(sentence.format(command))


@pytest.mark.usefixtures("without_kernels")
def test_a_command_that_is_no_compiler_is_a_sentence(monkeypatch, tmp_path):
    assert refusal(monkeypatch, '"') == 'CXX is ", which is no command: No closing quotation'
    assert refusal(monkeypatch, "true") == "true succeeded, it says, and wrote no library"
    assert refusal(monkeypatch, "/nowhere/c++ -O") == "no C++ compiler was found by CXX, which is /nowhere/c++ -O"
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    assert "text could not be run: " in refusal(monkeypatch, str(tmp_path / "text"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(monkeypatch, " ").startswith("no C++ compiler was found (install one")


@pytest.mark.usefixtures("without_kernels")
def test_a_compiler_that_hangs_is_ended_with_all_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "TIME_LIMIT", 0.3)
    command = compiler(tmp_path, f"sleep 600 & echo $! >> {tmp_path}/started; echo $$ >> {tmp_path}/started; wait")
    sentence = f"{command} was ended: it had not come to an end within 0.3 s"
    assert refusal(monkeypatch, command) == sentence
    started = (tmp_path / "started").read_text()
    for process in map(int, started.split()):
        assert gone(process)
    assert refusal(monkeypatch, command) == sentence
    assert (tmp_path / "started").read_text() == started, "a compiler that hung was asked again"


@pytest.mark.usefixtures("without_kernels")
def test_a_compiler_that_does_not_stop_printing_is_ended(monkeypatch, tmp_path):
    command = compiler(tmp_path, "exec yes")
    assert refusal(monkeypatch, command) == f"{command} was ended: it would not stop printing"


def test_a_library_that_is_exchanged_after_it_was_looked_at_is_not_loaded(cache, planted, monkeypatch):
    """Whoever may write to the folder's parent can put another folder in its place between check and use."""
    planted.unlink()
    built, loaded = library(), []

    def exchange(path):
        cache.rename(cache.with_name("kept"))
        shutil.copytree(cache.with_name("kept"), cache)
        shutil.copyfile(cache.with_name("other.so"), built)
        loaded.append(real(path))
        return loaded[0]

    with monkeypatch.context() as elsewhere:
        use(cache.with_name("more"), elsewhere)
        elsewhere.setattr(build, "_text", lambda source: PLANTED)
        shutil.copyfile(library(), cache.with_name("other.so"))
    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", exchange)
    assert build._loaded(build._compiler(), "answer.cc", ("-DREAL=float",)).phasejax_answer() == 42


def test_a_library_of_another_machine_is_not_run(cache, monkeypatch):
    """Instructions that this one lacks would end the process: the compiler's macros name them, and the library by these."""
    built = library()
    command, macros = build._toolchain(build._compiler())
    monkeypatch.setattr(build, "_toolchain", lambda compiler: (command, macros + b"#define __AVX1024F__ 1\n"))
    other = library()
    assert other != built
    assert {path.name for path in cache.iterdir()} == {built.name, other.name}


@pytest.mark.long
def test_no_flip_of_a_bit_in_a_library_is_loaded(cache):
    built, random = library(), np.random.default_rng(0)
    whole = built.read_bytes()
    for at in random.integers(0, 8 * len(whole), 5000):
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        built.write_bytes(changed)
        assert not build._is_sound(built)
    built.write_bytes(whole)
    assert build._is_sound(built)


def gone(process):
    """Within a second: nobody but init waits for what was a child's child."""
    for _ in range(100):
        try:
            status = pathlib.Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return True
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.usefixtures("without_kernels")
def test_a_folder_without_room_is_a_sentence(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "_text", lambda source: KERNEL)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(build.BuildError, match=r"its library could not be written: .*No space left"):
        build.target("full.cc", "answer", "float32")


@pytest.mark.usefixtures("without_kernels")
def test_what_stands_in_for_a_kernel_is_told_once_a_reason(monkeypatch, tmp_path):
    def use_all():
        for n in (3, 4):
            u = jnp.ones((n, 5))
            linalg.left_singular(u), products(u, u), end_rows(jnp.eye(n), u, u)

    assert build.stand_ins() == ()
    command = compiler(tmp_path, "echo error: it is Sunday >&2; exit 1")
    monkeypatch.setenv("CXX", command)
    with build.by_name():
        jax.jit(lambda u: linalg.left_singular(u)).trace(jnp.ones((3, 5)))
    assert build.stand_ins() == (), "a name needs nothing to stand in for it"
    use_all()
    assert build.stand_ins() == (f"linalg.cc and samples.cc could not be built: {command} failed: error: it is Sunday",)
    monkeypatch.undo()
    if build.stand_ins():
        pytest.skip("there is no compiler")
    name = build.target_name("samples.cc", "products", "float32", N=4)
    monkeypatch.setattr(build, "_stand_ins", {name: ("samples.cc", "no")})
    products(jnp.ones((4, 5)), jnp.ones((4, 5)))
    assert build.stand_ins() == (), "what has been built since needs nothing to stand in for it"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Where JAX keeps its programs, once asked to by a process whose user has not named a folder."""
    home, named = use(tmp_path / "home", monkeypatch), jax.config.values["jax_compilation_cache_dir"]
    least = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: (kept.keep_programs(), jax.config.values["jax_compilation_cache_dir"], home)[1:]
    jax.config.update("jax_compilation_cache_dir", named)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def test_programs_are_kept_for_one_user_and_one_kind_of_cpu(programs, monkeypatch):
    found, home = programs()
    assert list(home.iterdir()) == [pathlib.Path(found)]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (home, pathlib.Path(found))] == [0o700, 0o700]
    assert programs()[0] == found, "a folder that has been named stays"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(kept, "_machine", lambda: "another")
    assert programs()[0] not in (None, found)


def test_a_folder_of_programs_of_somebody_elses_is_not_used(programs):
    found = pathlib.Path(programs()[0])
    jax.config.update("jax_compilation_cache_dir", None)
    found.rename(found.with_name("kept"))
    found.symlink_to("kept")
    assert programs()[0] is None


def test_programs_that_are_others_or_too_many_go(programs, monkeypatch):
    found = pathlib.Path(programs()[0])
    for k, name in enumerate("abcd"):
        (found / name).write_bytes(bytes(100))
        os.utime(found / name, (k, k))
    other_owner(found / "d")
    monkeypatch.setattr(kept, "_MOST_KEPT", 350)
    jax.config.update("jax_compilation_cache_dir", None)
    programs()
    assert sorted(path.name for path in found.iterdir()) == ["b", "c"]


@pytest.mark.long
def test_what_a_command_compiled_is_found_by_the_next(tmp_path):
    # The cache is not where the command runs: its folder has the package's name, and Python would look there for it.
    cache = tmp_path / "cache"
    own = {name: of for name, of in os.environ.items() if not name.startswith("JAX_")} | {"XDG_CACHE_HOME": str(cache)}
    asked = "run --grid.temperature 0.25 --grid.sigma-w 1 --grid.seeds 2 --schedule.steps 20 --observe test_loss --out"
    told, entries = [], []
    for name in ("one", "two", "three"):
        if name == "three":
            cut, empty, *_ = sorted(cache.glob("phasejax/programs-*/*-cache"))
            os.truncate(cut, cut.stat().st_size // 2)
            os.truncate(empty, 0)
        done = subprocess.run(
            [sys.executable, "-m", "phasejax", *asked.split(), name], capture_output=True, text=True, cwd=tmp_path, env=own
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stderr)
        entries.append({path.name for path in cache.glob("phasejax/programs-*/*-cache")})
    assert told[0] == told[1] == told[2], "what cannot be used costs time only"
    assert entries[0] == entries[1] == entries[2] != set()
    one, two, three = (pj.open(tmp_path / f"{name}.nc").drop_attrs().load() for name in ("one", "two", "three"))
    xr.testing.assert_identical(one, two)
    xr.testing.assert_identical(one, three)
