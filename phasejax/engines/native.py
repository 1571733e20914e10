"""The paper's topology as a C++ kernel for CPUs, compiled on first use for one network shape, called through `jax.ffi`.

The kernel (`native.cc`) holds one student a vector lane, and runs on the thread that calls it: one JAX device a core
makes use of all of them. The library goes to the user's cache, under a name that says what it was made from and for.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.resources
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.engines import fused
from phasejax.ensemble import Advance, State
from phasejax.experiment import Experiment
from phasejax.task import Batches, Task

# No -ffast-math: the kernel relies on NaN, infinities and denormals behaving.
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


class BuildError(RuntimeError):
    """The kernel did not compile; carries the first lines of the compiler's message."""


def _compiler() -> list[str] | None:
    """The command of a C++ compiler: $CXX, else the first of the usual names found on PATH."""
    commands = (shlex.split(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"))
    return next((command for command in commands if command and shutil.which(command[0])), None)


def why_not(experiment: Experiment, on_cpu: bool) -> str | None:
    """A sentence why this engine does not apply to an experiment, or None if it does: then the kernel has been built."""
    reason = None if on_cpu else "it is for CPUs"
    reason = reason or fused.why_not(experiment)
    if reason is None and _compiler() is None:
        reason = "no C++ compiler was found (set CXX, or put c++, g++ or clang++ on PATH)"
    if reason is None:
        try:
            _target(experiment)
        except BuildError as error:
            reason = f"its kernel could not be built ({' '.join(str(error).split())})"
    return reason


def _run(command: list[str], source: bytes = b"") -> bytes:
    """What a compiler, given its source on standard input, prints."""
    try:
        return subprocess.run(command, input=source, capture_output=True, check=True).stdout
    except OSError as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()[:20]
        raise BuildError("\n".join([f"{shlex.join(command)} failed:", *lines])) from None


@functools.cache
def _toolchain() -> tuple[list[str], bytes]:
    """The compile command for this CPU, and the macros it predefines: compiler version and CPU features."""
    compiler = _compiler()
    if compiler is None:
        raise BuildError("there is no C++ compiler")
    include = f"-I{jax.ffi.include_dir()}"
    try:
        command = [*compiler, "-march=native", *FLAGS, include]
        return command, _run([*command, "-dM", "-E", "-x", "c++", "-"])
    except BuildError:  # clang on ARM has long known only this spelling
        command = [*compiler, "-mcpu=native", *FLAGS, include]
        return command, _run([*command, "-dM", "-E", "-x", "c++", "-"])


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="phasejax-")  # held by the cache until the process ends


def _folder() -> pathlib.Path:
    """The user's cache folder, or a private one where that cannot be written."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "phasejax"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    return pathlib.Path(_private_folder().name)


@functools.cache
def _load(n1: int, n2: int, batch_size: int, precision: str) -> str:
    """Build, or find in the cache, the kernel of one network shape; register it and return its target name."""
    real = {"float32": "float", "float64": "double"}[precision]
    source = importlib.resources.files("phasejax.engines").joinpath("native.cc").read_bytes()
    command, macros = _toolchain()
    command = [*command, f"-DN1={n1}", f"-DN2={n2}", f"-DBATCH={batch_size}", f"-DREAL={real}"]
    key = "\0".join([*command, platform.machine(), platform.processor(), importlib.metadata.version("jaxlib")]).encode()
    name = f"sgd-{n1}-{n2}-{batch_size}-{real}-{hashlib.sha256(source + macros + key).hexdigest()[:32]}"
    library = _folder() / f"{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as building:
            built = pathlib.Path(building) / library.name
            _run([*command, "-x", "c++", "-", "-o", str(built)], source)
            os.replace(built, library)  # whole or absent, whoever else is building it
    try:
        kernel = ctypes.CDLL(str(library)).phasejax_advance
    except (OSError, AttributeError) as error:
        library.unlink(missing_ok=True)  # cut short by a power cut, say: made again next time
        raise BuildError(f"{library} could not be loaded: {error}") from None
    target = f"phasejax-{name}"
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(kernel), platform="cpu")
    return target


def _target(experiment: Experiment) -> str:
    n1, n2 = experiment.network.widths[-3:-1]
    return _load(n1, n2, experiment.sgd.batch_size, experiment.precision)


def engine(experiment: Experiment) -> Advance:
    """The `advance` of one shard for an experiment to which this engine applies."""
    return _engine(_target(experiment))


@functools.cache
def _engine(target: str) -> Advance:
    def advance(
        state: State, tasks: Task, batches: Batches, rates: Array, step: Array, first: Array, n_steps: Array
    ) -> State:
        weights = state.weights[0]
        seeds, temperatures, sigmas, n2, n1 = weights.shape
        # The kernel knows seeds and cells only; these reshapes move nothing.
        cells = (
            weights.reshape(seeds, -1, n2, n1),
            state.loss_sum.reshape(seeds, -1),
            state.diverged_step.reshape(seeds, -1),
        )
        call = jax.ffi.ffi_call(target, cells, input_output_aliases={0: 0, 1: 1, 2: 2})
        w, loss_sum, diverged = call(
            *cells, batches.features, batches.targets[..., 0], tasks.teacher[-1][:, 0], jnp.repeat(rates, sigmas),
            step, first, n_steps,
        )  # fmt: skip
        shape = (seeds, temperatures, sigmas)
        return state._replace(
            weights=(w.reshape(weights.shape),), loss_sum=loss_sum.reshape(shape), diverged_step=diverged.reshape(shape)
        )

    return advance
