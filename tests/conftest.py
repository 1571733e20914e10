"""Two CPU devices, strict shapes, and small experiments that train in a moment."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import SimpleNamespace

# What one process compiles the others find: the workers, and the processes that tests start, inherit this.
OWNER = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if OWNER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="phasejax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

from phasejax import Experiment, Grid, Schedule, Sgd, TeacherStudent  # noqa: E402
from phasejax.engines import autodiff  # noqa: E402
from phasejax.kernels import build  # noqa: E402

COLD = tuple(2.0**k for k in range(-5, -1))
"""Temperatures at which training is not chaotic, so that trajectories can be compared."""


FEW = ("test_loss", "train_loss", "gradient_norm", "target_eigenvalues", "weights", "diverged_step")
"""For tests that do not look at the others: most of what a test costs is their compilation."""
observed = {"by small": ("standard",)}


ANOTHER_ENGINE = SimpleNamespace(name="another", why_not=autodiff.why_not, advance=autodiff.advance)
"""The reference under another name, which is another engine."""


def small(**parts: object) -> Experiment:
    """The paper's network on less data, a 3 x 3 grid and 3 seeds; any part can be replaced."""
    defaults = {
        "observe": observed["by small"],
        "task": TeacherStudent(samples=80, test_samples=16),
        "grid": Grid(temperature=(2**-5, 1.0, 64.0), sigma_w=(256.0, 1.0, 0.125), seeds=3),
        "schedule": Schedule(steps=60),
    }
    return dataclasses.replace(Experiment(), **(defaults | parts))


def skip_without_compiler(source: str, kernel: str, **sizes: int) -> None:
    """A kernel that does not compile is a failure; a machine without a compiler is none."""
    try:
        build.target(source, kernel, "float32", **sizes)
    except build.BuildError as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(str(error))


def pytest_sessionfinish():
    if OWNER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


CODE = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "ctypes.dlopen")
heard: list[tuple[str, object]] | None = None


def _hear(event: str, given: tuple[object, ...]) -> None:
    if heard is None:
        return
    # Modules of libraries that are imported late are theirs, and literals of NumPy's headers are only parsed.
    libraries = (str(pathlib.Path(os.__file__).parent), sys.prefix, str(pathlib.Path(__file__).parents[1] / "phasejax"), "<")
    theirs = event == "compile" and (str(given[1]).startswith(libraries) or str(given[1]).endswith(".pyx"))
    code = event in CODE or (event == "compile" and not theirs)
    if code or (event == "import" and str(given[0]).partition(".")[0] in ("hostile", "mine", "subprocess")):
        heard.append((event, given[:2]))


sys.addaudithook(_hear)


@contextlib.contextmanager
def no_code() -> Iterator[None]:
    """Fail where anything that is read becomes code, or starts a process."""
    global heard
    heard = []
    try:
        yield
        assert not heard
    finally:
        heard = None


@pytest.fixture(autouse=True)
def signals():
    """What a test leaves of signals: a command listens to them to the end of its process, and here goes on into others."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture
def few_observables(monkeypatch):
    monkeypatch.setitem(observed, "by small", FEW)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished small run: (experiment, path of its file)."""
    import phasejax

    experiment = small()
    path = tmp_path_factory.mktemp("runs") / "small"
    phasejax.simulate(experiment, path).close()
    return experiment, path.with_suffix(".nc")


__all__ = ["ANOTHER_ENGINE", "COLD", "FEW", "Sgd", "observed", "skip_without_compiler", "small"]
