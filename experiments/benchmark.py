"""Student-steps per second of every engine that applies here, beside what one would run without phasejax, in one sitting.

    python -m experiments.benchmark                  # the desk ensemble; minutes
    python -m experiments.benchmark --table FILE     # the tables of a benchmark.json, once more

Writes benchmark.json (every repeat, and what machine it was), engines.pdf and growth.pdf (and PNGs) to a folder, and
prints the tables. Repeats go round by round through all rows, so that whatever else happens on the machine hits all of
them alike; a ratio is the median over rounds of the ratios within a round. It imports neither netCDF4 nor tyro, so a GPU
machine with jax, optax, numpy and matplotlib is enough.
"""

import argparse
import datetime
import gc
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from experiments import others
from experiments.others import Contender, Missing, Work
from phasejax import Experiment, ExperimentError, Grid, Schedule, TeacherStudent, engines, observables, provenance
from phasejax.ensemble import MATMUL_PRECISION
from phasejax.identity import identify
from phasejax.observables.standard import standard
from phasejax.seed import make_task
from phasejax.training import Training, settings_of

# Not from phasejax.figures, which imports xarray.
STYLE_SHEET = str(resources.files("phasejax") / "figures" / "phasejax.mplstyle")
ROOT = Path(__file__).parents[1]
BASELINE, ROOF = "torch.func", "C roof"

LANES_PER_SM = {"7.0": 64, "7.5": 64, "8.0": 64, "8.6": 128, "8.9": 128, "9.0": 128, "10.0": 128, "12.0": 128}
"""Float32 units of a streaming multiprocessor by CUDA compute capability (CUDA C++ Programming Guide, throughputs)."""
KNOWN_GPUS = {"H200": (132, 1.98e9), "H100": (132, 1.98e9), "A100": (108, 1.41e9)}
"""Streaming multiprocessors and boost clock in Hz, for where a device does not say (vendor's data sheets, SXM)."""


class Trainer:
    """A `Training` on some devices, as a contender: whatever JAX's settings are around it, it has its own."""

    def __init__(self, experiment: Experiment, engine: str, devices: Sequence[Any], observe: bool = False) -> None:
        self.experiment = experiment
        with settings_of(experiment):
            chosen = engines.choose(experiment, engine, devices).engine
            self.name: str = chosen.name
            every = recorded(experiment) if observe else ()
            self.training = Training(experiment, chosen.advance(experiment, devices), every, devices)

    def train(self, steps: int) -> None:
        """Train so many steps more, and wait for it."""
        with settings_of(self.experiment):
            self.training.train_to(self.training.step + steps)

    def weights(self) -> np.ndarray:
        """(seed, cell, n2, n1)."""
        (w,) = self.training.state.weights.values()
        return np.array(w)[: self.experiment.grid.seeds]

    def contender(self) -> Contender:
        """This ensemble for the rounds."""
        e = self.experiment
        return Contender(self.name, e.precision, e.students, self.train, self.weights, e.ladder.block)

    def work(self) -> Work:
        """The same students at their start, and what they learn, for the others."""
        e, tasks = self.experiment, self.training.tasks
        # Where every layer is trained, none has been applied to the inputs yet.
        every_layer = replace(e.network, trainable=())
        make = jax.vmap(partial(make_task, every_layer, e.task, e.grid.replicas, jnp.dtype(e.precision)))
        with settings_of(e):
            inputs = make(jnp.array(e.grid.labels, jnp.int32)).features

        def batched(array: Any) -> np.ndarray:
            return np.array(array[: e.grid.seeds], np.float32).reshape(e.grid.seeds, e.epoch_steps, e.sgd.batch_size, -1)

        return Work(
            start=self.weights(),
            rates=np.array(self.training.cells.numbers["learning_rate"]),
            first=np.array(tasks.teacher["1"])[: e.grid.seeds],
            readout=np.array(tasks.frozen[e.network.readout])[: e.grid.seeds, 0],
            inputs=batched(inputs),
            features=batched(tasks.features),
            targets=batched(tasks.targets)[..., 0],
        )

    def observe(self, when: str) -> float:
        """Seconds for one record of this occasion, of every student."""
        with settings_of(self.experiment):
            arguments = self.training.arguments(when, jnp.int32(1), jnp.int32(1))
            began = time.perf_counter()
            jax.block_until_ready(self.training.ensemble.observe[when](*arguments))
            return time.perf_counter() - began

    def memory(self) -> dict[str, float]:
        """Bytes of the state a student, and of data and batches a seed; a seed's cells share them."""
        with settings_of(self.experiment):
            parts = self.training.state, self.training.tasks, self.training.batches()
        state, data, batches = (sum(leaf.nbytes for leaf in jax.tree.leaves(part)) for part in parts)
        seeds = len(self.training.tasks.label)  # those that fill up the devices included
        return {
            "students": self.experiment.students,
            "state_bytes_per_student": state / (seeds * len(self.training.cells.start)),
            "data_bytes_per_seed": data / seeds,
            "batches_bytes_per_seed": batches / seeds,
            "bytes": state + data + batches,
        }


def naming() -> float:
    """Seconds that it takes to find the identity of the desk preset, in a process that has traced nothing yet."""
    experiment, devices = Experiment.preset("desk"), jax.devices()
    with settings_of(experiment):
        engine, _ = engines.choose(experiment, "auto", devices)
        every = recorded(experiment)
        began = time.perf_counter()
        identify(experiment, engine, every, devices)
        return time.perf_counter() - began


def recorded(experiment: Experiment) -> tuple[observables.Observable, ...]:
    """What is recorded of a run."""
    known = standard(experiment.network, experiment.task, experiment.schedule.weights)
    return observables.choose(experiment, known).observables


# -- measuring -------------------------------------------------------------------------------------------------------------


class Timed:
    """A contender, and how many steps make a repeat of it."""

    def __init__(self, contender: Contender) -> None:
        self.contender, self.seconds, self.steps = contender, [], 1

    def run(self, steps: int) -> float:
        """Seconds for so many steps more."""
        began = time.perf_counter()
        self.contender.train(steps)
        return time.perf_counter() - began

    def warm_up(self, seconds: float) -> None:
        """Compile, and choose steps that take about so long."""
        self.run(1)
        steps, took = 1, 0.0
        while (took := min(self.run(steps), self.run(steps))) < seconds / 4:
            steps *= 4
        steps, call = max(1, round(steps * seconds / took)), self.contender.call
        # Whole calls, as `simulate` makes them, unless one takes more than a few repeats' time.
        self.steps = call * max(1, round(steps / call)) if steps > call / 8 else steps

    def row(self) -> dict[str, Any]:
        """What was measured; `rate` are student-steps per second."""
        c = self.contender
        work = c.students * self.steps
        return {"name": c.name, "precision": c.precision, "students": c.students, "steps": self.steps,
                "seconds": self.seconds, "rate": [work / s for s in self.seconds]}  # fmt: skip


def race(contenders: Sequence[Contender], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Let all train, about so many seconds each, for so many rounds."""
    timed = [Timed(contender) for contender in contenders]
    for one in timed:
        one.warm_up(seconds)
    for _ in range(rounds):
        for one in timed:
            one.seconds.append(one.run(one.steps))
    return [one.row() for one in timed]


def check(contenders: Sequence[Contender], cold: np.ndarray, steps: int = 5) -> None:
    """Train all a little and compare with the first: the same students, or a row would compare different work.

    Args:
        contenders: all at their start, and left after these steps.
        cold: (cell,), whether training in a cell is not chaotic.
        steps: how many.
    """
    expected = None
    for contender in contenders:
        contender.train(steps)
        found = contender.weights().astype(np.float64)
        expected = found if expected is None else expected
        seeds, cells = found.shape[:2]
        reference, cells = expected[:seeds, :cells], cold[:cells]
        scale = np.abs(reference).max((2, 3), keepdims=True)
        difference = (np.abs(found - reference) / scale)[:, cells].max()
        if not difference < 1e-4:
            raise SystemExit(
                f"{contender.name} does not train the same students: after {steps} steps they are {difference:.1e} apart."
            )


def measure(quick: bool, say: Any) -> dict[str, Any]:
    """Everything that goes into benchmark.json."""
    devices = jax.devices()
    on_cpu = devices[0].platform == "cpu"
    experiment, rounds, seconds = Experiment.preset("desk"), 7, 1.0
    if quick:
        experiment = replace(
            experiment, task=TeacherStudent(samples=400), schedule=Schedule(1000),
            grid=Grid(temperature=[2.0**k for k in (-5, -4, 0, 6)], sigma_w=[256.0, 8.0, 1.0, 0.125], seeds=4),
        )  # fmt: skip
        rounds, seconds = 2, 0.05

    say("engines and others")
    contenders, passed_over = _contenders(experiment, devices)
    cold = np.array(experiment.cells()["temperature"]) <= 0.25
    check(contenders, cold)
    rows = race(contenders, rounds, seconds)
    del contenders
    gc.collect()
    fastest = next(row for row in rows if row["precision"] == "float32")  # engines come fastest first
    rate = statistics.median(fastest["rate"])

    say("start")
    start = _start(*((1, ["quick"]) if quick else (5, ["quick", "desk"])))
    say("records")
    records = _records(experiment, devices, rate, 1 if quick else rounds, seconds)
    growth, memory = _growth(experiment, devices, quick, 2 if quick else 5, seconds, say)
    result = {
        "machine": {
            "device": provenance.device_name(devices),
            "platform": devices[0].platform,
            "cores": len(os.sched_getaffinity(0)),
            "cpu": provenance.device_name(jax.devices("cpu")),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": None if on_cpu else _nvidia_smi("name,driver_version,memory.total,clocks.max.sm"),
            "versions": provenance.versions(("jax", "jaxlib", "optax", "numpy", "torch")),
            "commit": provenance.commit(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "quick": quick,
        },
        "work": {
            "widths": list(experiment.network.widths),
            "batch_size": experiment.sgd.batch_size,
            "samples": experiment.task.samples,
            "cells": math.prod(experiment.grid.shape),
            "seeds": experiment.grid.seeds,
            "students": experiment.students,
            "matmul_precision": MATMUL_PRECISION,
        },
        "rows": rows,
        "passed_over": passed_over,
        "records": records,
        "growth": growth,
        "memory": memory,
        "limits": _limits(experiment, devices, rate, 0.2 if quick else 2.0),
        "start": start,
        "projection": None,
    }
    if not on_cpu and not quick:
        say("the paper's length, projected")
        result["projection"] = _projection(devices)
    return result


def _contenders(experiment: Experiment, devices: Sequence[Any]) -> tuple[list[Contender], dict[str, str]]:
    """Everything that trains these students here, our engines fastest first, and why anything does not."""
    trainers, passed_over = [], {}
    for name in engines.BUILT_IN:
        try:
            trainers.append(Trainer(experiment, name, devices))
        except ExperimentError as reason:
            passed_over[name] = str(reason)
    trainers.append(Trainer(replace(experiment, precision="float64"), "auto", devices))
    work = trainers[0].work()
    contenders = [trainer.contender() for trainer in trainers]
    on_cpu = devices[0].platform == "cpu"
    makers = {"plain JAX": others.plain_jax, "PyTorch": others.torch_rows, "the C roof": others.roofs}
    for name, make in makers.items():
        try:
            if make is others.roofs and not on_cpu:
                raise Missing("it is for CPUs; a GPU is measured against its arithmetic")
            contenders += make(work)
        except Missing as reason:
            passed_over[name] = f"{reason}."
    return contenders, passed_over


def _records(experiment: Experiment, devices: Sequence[Any], rate: float, rounds: int, seconds: float) -> dict[str, Any]:
    """Cost of the records of a run: observables on the device, without writing, against bare training in the same round."""
    trainer = Trainer(experiment, "auto", devices, observe=True)
    chunk = max(1, int(seconds * rate / experiment.students))
    times = Counter(when for stop in experiment.stops() for when in stop.occasions())
    spent: dict[str, list[float]] = {when: [] for when in trainer.training.ensemble.observe}
    training = []
    for k in range(rounds + 1):
        began = time.perf_counter()
        trainer.train(chunk)
        trained = time.perf_counter() - began
        observed = {when: trainer.observe(when) for when in spent}
        if k:  # the first round compiles
            training.append(trained / chunk * experiment.schedule.steps)
            for when, took in observed.items():
                spent[when].append(took)
    in_all = [sum(times[when] * took[k] for when, took in spent.items()) for k in range(rounds)]
    return {
        "steps": experiment.schedule.steps,
        "students": experiment.students,
        "occasions": {when: {"times": times[when], "seconds": took} for when, took in spent.items()},
        "seconds": in_all,
        "training_seconds": training,
        "share": statistics.median(a / b for a, b in zip(in_all, training, strict=True)),
    }


def _growth(
    experiment: Experiment, devices: Sequence[Any], quick: bool, rounds: int, seconds: float, say: Any
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, float]]]:
    """How the cost of a student-step of the fastest engine depends on one thing at a time, and memory against seeds."""
    grid, batch = experiment.grid, experiment.sgd.batch_size
    # A GPU needs the whole ensemble to be full; on a CPU a fifth of it is, and takes a fifth of the time.
    base = experiment if devices[0].platform != "cpu" or quick else replace(experiment, grid=replace(grid, seeds=20))
    sides = (2, 4) if quick else (6, 8, 10, 12, 16)
    n0, n1, n2, n3 = experiment.network.widths

    def plane(n: int) -> Experiment:
        """The same range of both axes in n x n cells."""
        temperature, sigma_w = np.logspace(-5, 6, n, base=2), np.logspace(-3, 8, n, base=2)
        return replace(base, grid=Grid(temperature=temperature, sigma_w=sigma_w, seeds=base.grid.seeds))

    def wide(k: float) -> Experiment:
        """Hidden layers k times as wide."""
        return replace(base, network=replace(base.network, widths=(n0, int(n1 * k), int(n2 * k), n3)))

    panels: dict[str, list[tuple[float, Experiment, int]]] = {
        "seeds": [(s, replace(experiment, grid=replace(grid, seeds=s)), len(devices))
                  for s in ((4, 6) if quick else (10, 20, 50, 100))],
        "cells": [(n * n, plane(n), len(devices)) for n in sides],
        "weights": [(n1 * n2 * k * k, wide(k), len(devices)) for k in ((1,) if quick else (0.25, 0.5, 1, 2))],
        "batch size": [(b, replace(base, sgd=replace(base.sgd, batch_size=b)), len(devices))
                       for b in ((batch, 8) if quick else (1, 2, 4, 8, 16))],
        "devices": [(d, base, d) for d in (*(2**k for k in range(0 if quick else 10) if 2**k < len(devices)), len(devices))],
    }  # fmt: skip
    growth, memory = {}, []
    for panel, points in panels.items():
        say(f"growth with {panel}")
        trainers = [Trainer(e, "auto", devices[:count]) for _, e, count in points]
        if panel == "seeds":
            memory = [trainer.memory() for trainer in trainers]
        rows = race([trainer.contender() for trainer in trainers], rounds, seconds / 2)
        growth[panel] = [{"value": value, **row} for (value, _, _), row in zip(points, rows, strict=True)]
        del trainers
        gc.collect()
    return growth, memory


def _limits(experiment: Experiment, devices: Sequence[Any], rate: float, seconds: float) -> dict[str, Any]:
    """What the machine could do at most, and what a student-step needs of it (4 B n1 n2 flop, its tanh not counted)."""
    _, n1, n2, _ = experiment.network.widths
    batch, cells = experiment.sgd.batch_size, math.prod(experiment.grid.shape)
    call = experiment.ladder.block
    flop = 4 * batch * n1 * n2
    if devices[0].platform == "cpu":
        try:
            peak, how = others.multiply_add_peak(seconds), "measured: chains of multiply-adds in roof.c on all cores"
        except Missing as reason:
            peak, how = None, f"not known: {reason}"
    else:
        peak, how = _gpu_peak(devices)
    moved = 2 * 4 * (n1 * n2 + 2) / call + 4 * batch * (n1 + 1) / cells
    bandwidth = _bandwidth(devices, seconds)
    return {
        "flop_per_student_step": flop,
        "tanh_per_student_step": batch * n2,
        "flop_per_second": peak,
        "flop_per_second_how": how,
        "arithmetic_rate": peak and peak / flop,
        "fraction_of_arithmetic": peak and rate * flop / peak,
        "bytes_per_student_step": moved,
        "bytes_per_student_step_how": f"state read and written once in {call} steps, a batch read once by {cells} cells",
        "bytes_per_second": bandwidth,
        "bytes_per_second_how": "measured: one pass over an array much larger than any cache, reading and writing",
        "memory_rate": bandwidth / moved,
    }


def _gpu_peak(devices: Sequence[Any]) -> tuple[float | None, str]:
    """Float32 flop/s without tensor cores, and the arithmetic behind it."""
    device = devices[0]
    known = next((v for name, v in KNOWN_GPUS.items() if name in device.device_kind), (None, None))
    lanes = LANES_PER_SM.get(str(getattr(device, "compute_capability", "")), 128)
    units = getattr(device, "core_count", None) or known[0]
    told = re.match(r"\s*(\d+)", _nvidia_smi("clocks.max.sm") or "")
    clock = float(told[1]) * 1e6 if told else known[1]
    if not units or not clock:
        return None, "not known: the device does not say how many multiprocessors it has, or how fast they are"
    where = "nvidia-smi's clocks.max.sm" if told else "the data sheet"
    return len(devices) * units * lanes * 2 * clock, (
        f"{len(devices)} x {units} multiprocessors x {lanes} lanes x 2 flop x {clock / 1e9:.3f} GHz ({where})"
    )


_TO_FIRST_STEP = """
import sys, tempfile, time
import phasejax as pj
asked = []
def third_time():
    # At the record of step 0, with the first call under way, and once it has been waited for.
    asked.append(time.time())
    return len(asked) == 3
with tempfile.TemporaryDirectory() as folder:
    try:
        pj.simulate(sys.argv[1], folder + "/run", interrupted=third_time, progress=False)
    except pj.Interrupted:
        print(asked[-1] - float(sys.argv[2]))
"""


def _start(rounds: int, presets: Sequence[str]) -> dict[str, Any]:
    """What the name of a run costs at its start, and how long its first step takes to come, in fresh processes."""
    # Beside this process, which has most of a GPU's memory.
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def seconds(code: str, *arguments: str, **more: str) -> float:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env | more, stdout=subprocess.PIPE, text=True, check=True)
        return float(done.stdout)

    name = "from experiments import benchmark; print(benchmark.naming())"
    first_step = {}
    for preset in presets:
        with tempfile.TemporaryDirectory() as cache:  # nothing is compiled yet the first time
            times = range(1 + rounds)
            first_step[preset] = [seconds(_TO_FIRST_STEP, preset, str(time.time()), XDG_CACHE_HOME=cache) for _ in times]
    return {"naming_seconds": [seconds(name) for _ in range(rounds)], "first_step_seconds": first_step}


def _nvidia_smi(query: str) -> str | None:
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=20, check=True)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0]


def _bandwidth(devices: Sequence[Any], seconds: float) -> float:
    """Bytes a second to and from memory, all devices together."""
    arrays = [jax.device_put(np.zeros(2**26, np.float32), device) for device in devices]
    add = jax.jit(lambda a: a + 1, donate_argnums=0)
    best, end = 0.0, None
    while end is None or time.perf_counter() < end:
        began = time.perf_counter()
        arrays = [add(a) for a in arrays]
        jax.block_until_ready(arrays)
        now = time.perf_counter()
        if end is None:  # the first one compiled
            end = now + seconds
        best = max(best, 2 * sum(a.nbytes for a in arrays) / (now - began))
    return best


def _projection(devices: Sequence[Any]) -> dict[str, Any]:
    """Time for the paper preset, from 1e5 steps of its whole ensemble."""
    paper, steps = Experiment.preset("paper"), 100_000
    trainer = Trainer(paper, "auto", devices)
    trainer.train(1000)
    began = time.perf_counter()
    trainer.train(steps)
    took = time.perf_counter() - began
    return {"engine": trainer.name, "steps": steps, "students": paper.students, "seconds": took,
            "paper_steps": paper.schedule.steps, "paper_minutes": took * paper.schedule.steps / steps / 60}  # fmt: skip


# -- showing ---------------------------------------------------------------------------------------------------------------


def find(rows: Sequence[dict[str, Any]], name: str, precision: str = "float32") -> dict[str, Any] | None:
    """The first row whose name begins so."""
    return next((row for row in rows if row["name"].startswith(name) and row["precision"] == precision), None)


def ratio(row: dict[str, Any], to: dict[str, Any] | None) -> float | None:
    """Median over rounds of the ratio of rates within a round."""
    return statistics.median(a / b for a, b in zip(row["rate"], to["rate"], strict=True)) if to else None


def spread(points: Sequence[dict[str, Any]], low: float, high: float) -> float | None:
    """How much more the dearest student-step costs than the cheapest between two values, as a share."""
    costs = [1 / statistics.median(p["rate"]) for p in points if low <= p["value"] <= high]
    return max(costs) / min(costs) - 1 if len(costs) > 1 else None


def tables(result: dict[str, Any]) -> str:
    """The numbers in Markdown."""
    machine, work, rows, limits = (result[key] for key in ("machine", "work", "rows", "limits"))
    lines = [
        f"{machine['device']}; {machine['versions']}; commit {machine['commit'][:10]}, {machine['created']}.",
        f"{work['students']:,} students ({work['cells']} cells, {work['seeds']} seeds), widths {work['widths']}, "
        f"batch {work['batch_size']}.", "",
        "| | precision | student-steps/s | min … max | of torch.func | of C roof | of its float32 | desk preset |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    if machine["quick"]:
        lines.insert(0, "With --quick the work is too small for its rates to mean anything.\n")
    desk = Experiment.preset("desk")
    for row in rows:
        median = statistics.median(row["rate"])
        own = find(rows, row["name"]) if row["precision"] == "float64" else None
        ratios = [ratio(row, find(rows, BASELINE)), ratio(row, find(rows, ROOF)), ratio(row, own)]
        lines.append(
            f"| {row['name']} | {row['precision']} | {median:.3g} | {min(row['rate']):.3g} … {max(row['rate']):.3g} | "
            + " | ".join("" if r is None else f"{r:.2g}" if r < 10 else f"{r:.0f}" for r in ratios)
            + f" | {_duration(desk.schedule.steps * desk.students / median)} |"
        )
    for name, reason in result["passed_over"].items():
        lines.append(f"\nNot measured: {name}. {reason}")

    lines += ["", "| cost of a student-step (ns) | " + " | ".join(["", *[""] * 4]) + "|", "|---" * 6 + "|"]
    for panel, points in result["growth"].items():
        cells = [f"{p['value']:g}: {1e9 / statistics.median(p['rate']):.3g}" for p in points]
        lines.append(f"| {panel} | " + " | ".join(cells + [""] * (5 - len(cells))) + " |")
    for panel, low, high in (("seeds", 10, 100), ("cells", 36, 144)):
        uneven = spread(result["growth"][panel], low, high)
        if uneven is not None:
            lines.append(f"\nFrom {low} to {high} {panel} the cost of a student-step varies by {uneven:.0%}.")

    memory = result["memory"][-1]
    lines.append(
        f"\nMemory: {memory['state_bytes_per_student']:,.0f} bytes of state a student, and a seed "
        f"{memory['data_bytes_per_seed']:,.0f} of data and {memory['batches_bytes_per_seed']:,.0f} of batches; "
        f"{memory['students']:,} students {memory['bytes'] / 1e6:,.0f} MB."
    )
    if limits["flop_per_second"]:
        lines.append(
            f"\nOperations: {limits['flop_per_student_step']:,} flop and {limits['tanh_per_student_step']} tanh a "
            f"student-step, {limits['flop_per_second'] / 1e12:.3g} Tflop/s ({limits['flop_per_second_how']}): at most "
            f"{limits['arithmetic_rate']:.3g} student-steps/s if a tanh were free; {rows[0]['name']} reaches "
            f"{limits['fraction_of_arithmetic']:.2f} of it."
        )
    lines.append(
        f"\nBytes: {limits['bytes_per_student_step']:.3g} a student-step ({limits['bytes_per_student_step_how']}), "
        f"{limits['bytes_per_second'] / 1e9:.3g} GB/s ({limits['bytes_per_second_how']}): at most "
        f"{limits['memory_rate']:.3g} student-steps/s."
    )
    records = result["records"]
    each = ", ".join(
        f"{o['times']} x {statistics.median(o['seconds']):.2f} s ({when})" for when, o in records["occasions"].items()
    )
    lines.append(
        f"\nRecords of {records['steps']:,} steps of {records['students']:,} students: {each}; in all "
        f"{statistics.median(records['seconds']):.3g} s, {records['share']:.1%} of bare training."
    )
    if start := result.get("start"):  # older files have none
        lines.append(f"\nA run is named at its start in {statistics.median(start['naming_seconds']):.2f} s (desk preset).")
        lines += [
            f"\nFrom the command to the first step of {preset}: {first:.1f} s on a machine that has compiled nothing yet, "
            f"{statistics.median(again):.1f} s from the second time on."
            for preset, (first, *again) in start.get("first_step_seconds", {}).items()
        ]
    if projection := result["projection"]:
        lines.append(
            f"\nThe paper preset, projected from {projection['steps']:,} steps of {projection['students']:,} students in "
            f"{projection['seconds']:.3g} s with {projection['engine']}: {projection['paper_minutes']:.3g} minutes."
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
    )


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """engines and growth, as PDF and PNG."""
    figures = {"engines": _draw_rows, "growth": _draw_growth}
    written = []
    with matplotlib.style.context(STYLE_SHEET):
        for name, figure in figures.items():
            drawn = figure(result)
            for suffix in ("pdf", "png"):
                written.append(folder / f"{name}.{suffix}")
                drawn.savefig(written[-1])
    return written


def _draw_rows(result: dict[str, Any]) -> Figure:
    rows = sorted(result["rows"], key=lambda row: statistics.median(row["rate"]))
    figure = Figure(figsize=(5.0, 0.7 + 0.24 * len(rows)))
    ax = figure.subplots()
    for k, row in enumerate(rows):
        median = statistics.median(row["rate"])
        bars = [[median - min(row["rate"])], [max(row["rate"]) - median]]
        ours = row["name"] in engines.BUILT_IN
        ax.errorbar([median], [k], xerr=bars, marker="o", markersize=4, capsize=2, color="C0" if ours else "C1")
        ax.annotate(_scientific(median), (median, k), (0, 4), textcoords="offset points", ha="center", fontsize=6)
    ax.set_yticks(range(len(rows)), [f"{row['name']}, {row['precision']}" for row in rows])
    for label, row in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_color("C0" if row["name"] in engines.BUILT_IN else "C1")
    ax.set(xscale="log", xlabel="student-steps per second", ylim=(-0.6, len(rows) - 0.2))
    ax.margins(x=0.12)
    figure.suptitle(_heading(result), fontsize=8)
    return figure


def _scientific(number: float) -> str:
    """A number as physicists write it, for matplotlib."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return rf"${mantissa} \times 10^{{{int(exponent)}}}$"


def _heading(result: dict[str, Any]) -> str:
    work = result["work"]
    return f"{result['machine']['device']}; {work['students']:,} students, batch {work['batch_size']}"


def _draw_growth(result: dict[str, Any]) -> Figure:
    work = result["work"]
    _, n1, n2, _ = work["widths"]
    # Label of the axis, and where the guide to the eye goes through.
    panels = {"seeds": ("seeds", None), "cells": ("cells", None), "weights": (r"weights of a student, $n_1 n_2$", n1 * n2),
              "batch size": ("batch size $B$", work["batch_size"]), "devices": ("devices", 1)}  # fmt: skip
    figure = Figure(figsize=(7.0, 4.2))
    *axes, last = figure.subplots(2, 3).flat
    for ax, (panel, points) in zip(axes, result["growth"].items(), strict=True):
        label, through = panels[panel]
        x = np.array([p["value"] for p in points], float)
        costs = [[1e9 / r for r in p["rate"]] for p in points]
        y = np.array([statistics.median(c) for c in costs])
        ax.errorbar(x, y, [y - [min(c) for c in costs], [max(c) for c in costs] - y], marker="o", markersize=3, capsize=2)
        if through is None:
            ax.axhspan(y.min(), 1.2 * y.min(), color="C0", alpha=0.15, linewidth=0, label="20 % above the least")
        elif through in x:
            reference = y[list(x).index(through)]
            guide = reference * (through / x if panel == "devices" else x / through)
            ax.plot(x, guide, "--", color="0.5", label="inverse" if panel == "devices" else "proportional")
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="ns per student-step")
        _plain_ticks(ax, x, y)
        ax.legend()
    last.plot(
        [m["students"] for m in result["memory"]], [m["bytes"] / 1e6 for m in result["memory"]], marker="o", markersize=3
    )
    last.set(xlabel="students", ylabel="memory (MB)", xlim=(0, None), ylim=(0, None))
    figure.suptitle(f"{result['growth']['seeds'][0]['name']}, float32, {result['machine']['device']}", fontsize=8)
    return figure


def _plain_ticks(ax: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Ticks at the values measured, as plain numbers, and enough room that a flat line looks flat."""
    ax.set_xticks(x, [f"{v:g}" for v in x])
    ax.minorticks_off()
    low, high = min(y.min() / 2, ax.get_ylim()[0]), max(y.max() * 2, ax.get_ylim()[1])
    ticks = [m * 10.0**k for k in range(-3, 7) for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    ax.set_ylim(low, high)
    ax.set_yticks(ticks[:: max(1, len(ticks) // 5)], [f"{v:g}" for v in ticks[:: max(1, len(ticks) // 5)]])


# -- the command -----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write and print; or print what was written."""
    described = "Measure every engine that applies here, beside what one would run without phasejax."
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", allow_abbrev=False, description=described)
    parser.add_argument("--quick", action="store_true", help="a small ensemble for a moment: does it work")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/ and the device's name by default")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the tables of this benchmark.json and measure nothing"
    )
    options = parser.parse_args(argv)
    if options.table:
        try:
            print(tables(json.loads(options.table.read_text("utf-8"))))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            parser.error(f"{options.table} is no benchmark.json: {error}.")
        return
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))  # every core is a device, as in the command line
    name = re.sub(r"\W+", "-", provenance.device_name(jax.devices())).strip("-").lower()
    folder = options.out or Path("benchmarks") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {folder} cannot be made: {error.strerror}.")
    result = measure(options.quick, lambda words: print(f"measuring: {words}", file=sys.stderr, flush=True))
    (folder / "benchmark.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(tables(result))
    print()
    for path in (folder / "benchmark.json", *draw(result, folder)):
        print(path)


if __name__ == "__main__":
    main()
