"""What one would run without phasejax, for the benchmark: plain JAX, PyTorch in three ways, and a C kernel as the roof.

All of them train the students of a `Work`: the same start, data and order of batches as the engines. They import neither
netCDF4 nor tyro.
"""

import contextlib
import ctypes
import importlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phasejax.ensemble import MATMUL_PRECISION


class Work(NamedTuple):
    """Students of the paper's topology and what they learn; float32, cells are those of the grid, in its order."""

    start: np.ndarray
    """W at step 0, (seed, cell, n2, n1)."""
    rates: np.ndarray
    """Learning rates, (cell,)."""
    first: np.ndarray
    """The frozen first layer, (seed, n1, n0)."""
    readout: np.ndarray
    """The frozen last layer, (seed, n2)."""
    inputs: np.ndarray
    """(seed, batch number, sample, n0), in the order they are used, over and over."""
    features: np.ndarray
    """tanh(first . inputs), (seed, batch number, sample, n1)."""
    targets: np.ndarray
    """(seed, batch number, sample)."""


class Contender(NamedTuple):
    """Something that trains students."""

    name: str
    precision: str
    students: int
    train: Callable[[int], None]
    """Train every student so many steps more, and come back when they are done."""
    weights: Callable[[], np.ndarray]
    """Where they are, (seed, cell, n2, n1); the first seeds and cells if not all are trained."""
    call: int = 1
    """Steps that are worth a call: a repeat is a multiple of it where time allows."""


class Missing(Exception):
    """Something that cannot run here; the message says why."""


def plain_jax(work: Work) -> list[Contender]:
    """The first thing one writes: vmap over seeds and cells of jax.grad of one student's loss, in a compiled loop."""
    w1, w3, rates, x, y = (jnp.asarray(a) for a in (work.first, work.readout, work.rates, work.inputs, work.targets))
    state, done = jnp.asarray(work.start), 0

    def loss(w: Any, w1: Any, w3: Any, x: Any, y: Any) -> Any:
        return 0.5 * jnp.mean((jnp.tanh(jnp.tanh(x @ w1.T) @ w.T) @ w3 - y) ** 2)

    gradients = jax.vmap(jax.vmap(jax.grad(loss), in_axes=(0, None, None, None, None)))

    @partial(jax.jit, donate_argnums=0)
    def loop(w: Any, done: Any, steps: Any) -> Any:
        def one(t: Any, w: Any) -> Any:
            batch = (done + t) % x.shape[1]
            return w - rates[None, :, None, None] * gradients(w, w1, w3, x[:, batch], y[:, batch])

        return jax.lax.fori_loop(0, steps, one, w)

    def train(steps: int) -> None:
        nonlocal state, done
        with jax.default_matmul_precision(MATMUL_PRECISION):
            state = jax.block_until_ready(loop(state, jnp.int32(done), jnp.int32(steps)))
        done += steps

    return [Contender("plain JAX vmap(grad)", "float32", work.start[..., 0, 0].size, train, lambda: np.array(state))]


def torch_rows(work: Work) -> list[Contender]:
    """torch.func: vmap of grad, students flat with a batch each, or nested so that a seed's cells share theirs; and a loop.

    Raises:
        Missing: torch is not installed.
    """
    with contextlib.suppress(ImportError):
        torch: Any = importlib.import_module("torch")
        device = "cuda" if torch.cuda.is_available() and jax.devices()[0].platform == "gpu" else "cpu"
        ensembles = [_torch_ensemble(work, torch, device, shared) for shared in (False, True)]
        return [*ensembles, _torch_loop(work, torch, device)]
    raise Missing("torch is not installed")


def _torch_ensemble(work: Work, torch: Any, device: str, shared: bool) -> Contender:
    w1, w3, x, y = (torch.as_tensor(a, device=device) for a in (work.first, work.readout, work.inputs, work.targets))
    seeds, cells, n2, n1 = work.start.shape
    state, done = torch.tensor(work.start, device=device), 0
    rates = torch.as_tensor(work.rates, device=device)[:, None, None]

    def loss(w: Any, w1: Any, w3: Any, x: Any, y: Any) -> Any:
        return 0.5 * ((torch.tanh(torch.tanh(x @ w1.T) @ w.T) @ w3 - y) ** 2).mean()

    gradient = torch.func.grad(loss)
    if shared:
        gradients = torch.func.vmap(torch.func.vmap(gradient, in_dims=(0, None, None, None, None)))
    else:
        gradients = torch.func.vmap(gradient)
        state = state.reshape(-1, n2, n1)
        rates, w1, w3 = rates.repeat(seeds, 1, 1), w1.repeat_interleave(cells, 0), w3.repeat_interleave(cells, 0)

    def train(steps: int) -> None:
        nonlocal state, done
        for t in range(done, done + steps):
            batch = t % x.shape[1]
            xs, ys = x[:, batch], y[:, batch]
            if not shared:
                xs, ys = xs.repeat_interleave(cells, 0), ys.repeat_interleave(cells, 0)
            state = state - rates * gradients(state, w1, w3, xs, ys)
        done += steps
        if device == "cuda":
            torch.cuda.synchronize()

    name = "torch.func, cells share batches" if shared else "torch.func"
    return Contender(name, "float32", seeds * cells, train, lambda: state.cpu().numpy().reshape(work.start.shape))


def _torch_loop(work: Work, torch: Any, device: str) -> Contender:
    """A plain PyTorch training loop: nn.Module, autograd and optim.SGD, one student."""
    n2, n1 = work.start.shape[2:]
    layers = [torch.nn.Linear(work.first.shape[-1], n1, bias=False), torch.nn.Tanh(), torch.nn.Linear(n1, n2, bias=False),
              torch.nn.Tanh(), torch.nn.Linear(n2, 1, bias=False)]  # fmt: skip
    net = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for layer, w in ((net[0], work.first[0]), (net[2], work.start[0, 0]), (net[4], work.readout[:1])):
            layer.weight.copy_(torch.tensor(w))
    net[0].requires_grad_(False)
    net[4].requires_grad_(False)
    net.to(device)
    x, y = torch.as_tensor(work.inputs[0], device=device), torch.as_tensor(work.targets[0, ..., None], device=device)
    optimizer = torch.optim.SGD([net[2].weight], lr=float(work.rates[0]))
    done = 0

    def train(steps: int) -> None:
        nonlocal done
        for t in range(done, done + steps):
            batch = t % len(x)
            optimizer.zero_grad()
            (0.5 * ((net(x[batch]) - y[batch]) ** 2).mean()).backward()
            optimizer.step()
        done += steps
        if device == "cuda":
            torch.cuda.synchronize()

    return Contender("PyTorch loop", "float32", 1, train, lambda: net[2].weight.detach().cpu().numpy()[None, None])


def build_roof(folder: str, n1: int, n2: int, batch: int, vector_bytes: int | None = None) -> ctypes.CDLL:
    """Compile roof.c for one shape.

    Args:
        folder: where the library goes; once loaded its file is not needed.
        n1: features.
        n2: hidden units.
        batch: samples in a step.
        vector_bytes: size of a vector; the widest there is if None.

    Raises:
        Missing: there is no C compiler, or it does not compile this.
    """
    commands = (shlex.split(name) for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"))
    compiler = next((command for command in commands if command and shutil.which(command[0])), None)
    if compiler is None:
        raise Missing("no C compiler was found (set CC, or put cc, gcc or clang on PATH)")
    library = Path(folder) / f"roof-{vector_bytes}.so"
    macros = {"N1": n1, "N2": n2, "BATCH": batch} | ({"BYTES": vector_bytes} if vector_bytes else {})
    command = [*compiler, "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
               "-shared", "-fPIC", *(f"-D{name}={value}" for name, value in macros.items()),
               str(Path(__file__).with_name("roof.c")), "-o", str(library)]  # fmt: skip
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
        found = ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise Missing(f"{compiler[0]} makes no library of roof.c: {lines[0] if lines else 'it does not say why'}") from None
    found.multiply_add.restype = ctypes.c_double
    return found


def roofs(work: Work) -> list[Contender]:
    """The C kernel of roof.c on every core this process may use, with the widest vectors, and AVX2's if these are wider.

    Raises:
        Missing: it cannot be built here.
    """
    widest = _roof(work, None)
    return [widest] if widest.name.endswith((" 4 lanes", " 8 lanes")) else [widest, _roof(work, 32)]


def _roof(work: Work, vector_bytes: int | None) -> Contender:
    seeds, cells, n2, n1 = work.start.shape
    batches, batch = work.targets.shape[1:]
    with tempfile.TemporaryDirectory() as folder:
        library = build_roof(folder, n1, n2, batch, vector_bytes)
    lanes = library.lanes()
    if cells % lanes:
        raise Missing(f"{cells} cells do not fill vectors of {lanes} students")
    w = _aligned((seeds, cells // lanes, n2, n1, lanes))
    w[:] = work.start.reshape(seeds, -1, lanes, n2, n1).transpose(0, 1, 3, 4, 2)
    rates = _aligned((cells,))
    rates[:] = work.rates / batch
    given = [np.ascontiguousarray(a, np.float32) for a in (work.features, work.targets, work.readout)]

    done = 0

    def train(steps: int) -> None:
        nonlocal done
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (w, *given, rates)]
        library.train(*pointers, seeds, cells // lanes, batches, ctypes.c_long(done), ctypes.c_long(steps))
        done += steps

    def weights() -> np.ndarray:
        return w.transpose(0, 1, 4, 2, 3).reshape(work.start.shape)

    return Contender(f"C roof, {lanes} lanes", "float32", seeds * cells, train, weights)


def multiply_add_peak(seconds: float) -> float:
    """Most float32 operations a second that all cores together do, measured for about so many seconds.

    Raises:
        Missing: roof.c does not compile here.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = build_roof(folder, 32, 16, 4)
    sink, best, rounds = np.ones(1, np.float32), 0.0, 100_000
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        done = library.multiply_add(ctypes.c_long(rounds), sink.ctypes.data_as(ctypes.c_void_p))
        took = time.perf_counter() - began
        best, rounds = max(best, done / took), max(rounds, int(rounds * seconds / 10 / took))
    return best


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array that starts where vectors may."""
    size = int(np.prod(shape)) * 4
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)
