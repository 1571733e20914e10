"""Nanoseconds per student-step of networks of many kinds on one core: `native`, `autodiff`, and torch.func for some.

    python -m experiments.networks                   # every row; minutes
    python -m experiments.networks --only paper      # rows whose name begins so
    python -m experiments.networks --table FILE      # the table of a networks.json, once more

Within a row all train the same students on the same batches (it is checked), in many short rounds, and a ratio is the median
over rounds of the ratios within a round. Writes networks.json to a folder, and prints the table. Run as a file, it measures
the phasejax that PYTHONPATH names.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.others import Missing, multiply_add_peak
from phasejax import Arrays, Experiment, ExperimentError, Grid, Network, Schedule, Sgd, TeacherStudent, engines, provenance
from phasejax.training import Training, settings_of

ROUNDS, SECONDS = 40, 0.06


class Row(NamedTuple):
    """A network and how it is trained."""

    name: str
    widths: tuple[int, ...]
    activation: str = "tanh"
    trainable: tuple[int, ...] = ()
    batch: int = 4
    rule: str = "sgd"
    torch: bool = False
    cells: int = 144

    def experiment(self) -> Experiment:
        """Two seeds of it; outputs of ten classes have cross-entropy, all others a teacher."""
        task: Any = TeacherStudent(samples=1600, test_samples=16)
        if self.widths[-1] > 1:
            rng = np.random.default_rng(0)
            x, y = rng.standard_normal((1600, self.widths[0]), np.float32), rng.integers(0, self.widths[-1], 1600)
            task = Arrays(x, y, x[:16], y[:16])
        side = math.isqrt(self.cells)
        rates, sigma_w = np.linspace(0.001, 0.002, side), np.linspace(0.3, 0.6, side)
        numbers: dict[str, Any] = {"momentum": 0.9} if self.rule == "momentum" else {}
        return Experiment(
            network=Network(self.widths, self.activation, self.trainable), task=task,
            sgd=Sgd("adam" if self.rule == "adam" else "sgd", self.batch),
            grid=Grid(learning_rate=rates, sigma_w=sigma_w, seeds=2, **numbers), schedule=Schedule(10**6),
        )  # fmt: skip

    def flop(self) -> int:
        """Of products alone: forward, and back to the first layer trained, and updates."""
        layers = [int(layer) for layer in range(1, len(self.widths))]
        trained = self.trainable or tuple(layers)
        done = 0
        for layer, (n_in, n_out) in zip(layers, pairwise(self.widths), strict=True):
            if layer >= min(trained) or self.widths[-1] > 1:
                done += n_in * n_out * (1 + (layer > min(trained)) + (layer in trained))
        return 2 * self.batch * done


_PAPER, _DIGITS = (3, 32, 16, 1), (64, 32, 10)
ROWS = (
    *(Row(f"paper, B = {b}", _PAPER, trainable=(2,), batch=b) for b in (1, 2, 4, 8, 16)),
    Row("paper, layers 2 and 3", _PAPER, trainable=(2, 3)),
    Row("paper, all layers", _PAPER, torch=True),
    Row("paper, all layers, momentum", _PAPER, rule="momentum"),
    Row("paper, all layers, Adam", _PAPER, rule="adam"),
    *(Row(f"paper, {name}", _PAPER, name, (2,), torch=name == "relu") for name in ("relu", "erf", "gelu")),
    Row("64-32-10 relu, cross-entropy", _DIGITS, "relu", batch=16, torch=True),
    Row("64-32-10 relu, cross-entropy, momentum", _DIGITS, "relu", batch=16, rule="momentum"),
    Row("64-32-10 relu, cross-entropy, Adam", _DIGITS, "relu", batch=16, rule="adam"),
    Row("10-64-64-1 relu", (10, 64, 64, 1), "relu", batch=8, torch=True),
    Row("10-64-64-1 relu, Adam", (10, 64, 64, 1), "relu", batch=8, rule="adam"),
    *(
        Row(f"10-{n}-{n}-1 relu", (10, n, n, 1), "relu", batch=8, cells=c)
        for n, c in ((96, 64), (128, 36), (256, 16), (512, 16))
    ),
)


class Trained(NamedTuple):
    """Something that trains a row's students."""

    train: Callable[[int], None]
    weights: Callable[[], dict[str, np.ndarray]]


def by_engine(experiment: Experiment, name: str) -> tuple[Trained, Training]:
    """By one of the engines, on one device."""
    devices = jax.devices()[:1]
    with settings_of(experiment):
        engine = engines.choose(experiment, name, devices).engine
        training = Training(experiment, engine.advance(experiment, devices), (), devices)

    def train(steps: int) -> None:
        with settings_of(experiment):
            training.train_to(training.step + steps)

    return Trained(train, lambda: {name: np.array(w) for name, w in training.state.weights.items()}), training


def by_torch(experiment: Experiment, training: Training) -> Trained:
    """By torch.func: vmap of grad over seeds and cells, which share their seed's batches.

    Raises:
        Missing: torch is not installed.
    """
    torch: Any = None
    with contextlib.suppress(ImportError):
        torch = importlib.import_module("torch")
    if torch is None:
        raise Missing("torch is not installed")
    torch.set_num_threads(1)
    with settings_of(experiment):
        batches, tasks = jax.tree.map(np.array, (training.batches(), training.tasks))
    shared = not tasks.own
    x, y = (
        (tasks.features[batches.indices], tasks.targets[batches.indices]) if shared else (batches.features, batches.targets)
    )
    x, y = torch.as_tensor(x), torch.as_tensor(y.astype(np.int64) if shared else y)
    state = {name: torch.tensor(np.array(w)) for name, w in training.state.weights.items()}
    frozen = {name: torch.as_tensor(w) for name, w in tasks.frozen.items()}
    rates = torch.as_tensor(np.array(training.cells.numbers["learning_rate"]))[None, :, None, None]
    layers, act = sorted({**state, **frozen}, key=int), getattr(torch, experiment.network.activation)

    def loss(trained: Any, frozen: Any, x: Any, y: Any) -> Any:
        weights = frozen | trained
        for name in layers[:-1]:
            x = act(x @ weights[name].T)
        outputs = x @ weights[layers[-1]].T
        return torch.nn.functional.cross_entropy(outputs, y) if shared else 0.5 * ((outputs - y) ** 2).sum(1).mean()

    gradients = torch.func.vmap(torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None, None)))
    done = 0

    def train(steps: int) -> None:
        nonlocal done
        for t in range(done, done + steps):
            found = gradients(state, frozen, x[:, t % x.shape[1]], y[:, t % x.shape[1]])
            for name in state:
                state[name] = state[name] - rates * found[name]
        done += steps

    return Trained(train, lambda: {name: w.numpy() for name, w in state.items()})


def measure(row: Row) -> dict[str, Any]:
    """Nanoseconds per student-step of all that train a row, in every round."""
    experiment = row.experiment()
    contenders: dict[str, Trained] = {}
    for name in ("native", "autodiff"):
        with contextlib.suppress(ExperimentError):
            contenders[name], training = by_engine(experiment, name)
    if row.torch:
        with contextlib.suppress(Missing):
            contenders["torch.func"] = by_torch(experiment, training)
    expected: dict[str, np.ndarray] = {}
    steps = {}
    for name, contender in contenders.items():
        contender.train(5)
        found = contender.weights()
        expected = expected or found
        apart = max(float(np.abs(found[k] - expected[k]).max() / np.abs(expected[k]).max()) for k in expected)
        if not apart < 1e-4:
            raise SystemExit(
                f"{name} does not train the same students of {row.name}: after 5 steps they are {apart:.1e} apart."
            )
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / 2:
            contender.train(5)
            count += 5
        # A stretch that the block of batches does not cut.
        steps[name] = max(1, min(count * 2, experiment.ladder.block))
    ns: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            began = time.perf_counter()
            contender.train(steps[name])
            ns[name].append(1e9 * (time.perf_counter() - began) / steps[name] / experiment.students)
    return {"name": row.name, "flop": row.flop(), "ns": ns}


def table(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    machine = result["machine"]
    lines = [
        f"One core, {machine['cpu']}; {machine['versions']}; commit {machine['commit']}; float32. Its multiply-add peak: "
        f"{result['flop_per_second'] / 1e9:.0f} Gflop/s.",
        "",
        "| network | native, ns: least (median) | autodiff, ns | autodiff / native | torch.func / native | of the peak |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ns = row["ns"]
        ours = ns.get("native")

        def ratio(name: str, ns: dict[str, list[float]] = ns, ours: Any = ours) -> str:
            if not ours or name not in ns:
                return ""
            return f"{statistics.median(a / b for a, b in zip(ns[name], ours, strict=True)):.3g}"

        def least(name: str, ns: dict[str, list[float]] = ns) -> str:
            return f"{min(ns[name]):.4g} ({statistics.median(ns[name]):.4g})" if name in ns else ""

        share = f"{row['flop'] * 1e9 / min(ours) / result['flop_per_second']:.2f}" if ours else ""
        columns = (row["name"], least("native"), least("autodiff"), ratio("autodiff"), ratio("torch.func"), share)
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write and print; or print what was written."""
    parser = argparse.ArgumentParser(prog="python -m experiments.networks", allow_abbrev=False,
                                     description="Measure networks of many kinds on one core.")  # fmt: skip
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder to write to")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of this networks.json and measure nothing"
    )
    options = parser.parse_args(argv)
    if options.table:
        try:
            print(table(json.loads(options.table.read_text("utf-8"))))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            parser.error(f"{options.table} is no networks.json: {error}.")
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_num_cpu_devices", 1)
    rows = [row for row in ROWS if row.name.startswith(options.only)]
    result = {
        "machine": {"cpu": provenance.device_name(jax.devices("cpu")),
                    "versions": provenance.versions(("jax", "jaxlib", "torch")), "commit": provenance.commit()},
        "flop_per_second": multiply_add_peak(2.0),
        "rows": [measure(row) for row in rows],
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "networks.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
