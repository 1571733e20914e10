"""Kernels' names, and their libraries: what is never loaded from the cache, and what a compiler may do."""

import ctypes
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest
from conftest import skip_without_compiler

from phasejax.kernels import build, linalg

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
    return build._library("answer.cc", ("-DREAL=float",))


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


def test_a_torn_library_stops_no_process(tmp_path):
    """The memory of a library that is cut short is not there when it is run: the process would be killed."""
    skip_without_compiler("linalg.cc", "left_singular")
    program = """
        import jax.numpy as jnp
        from phasejax.kernels import build, linalg
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
    monkeypatch.setattr(build, "_library", no_compiler)
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


def no_compiler(*_):
    raise build.BuildError("no C++ compiler was found")


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
