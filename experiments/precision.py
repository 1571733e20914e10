"""The same students in float32 and in float64: do they agree as an ensemble, in each phase?

    python -m experiments.precision          # trains both, or takes runs/precision/ up where it is; compares, draws

Same labels are the same students in either precision. Where training is chaotic they part student by student, so losses,
memory G(t,0) and eigenvalues are compared as distributions over seeds. Prints one sentence and draws
figures/precision/precision.pdf and .png.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import ks_2samp

from phasejax import Experiment, ExperimentError, Grid, Schedule, StoreError, simulate
from phasejax.figures.style import STYLE_SHEET, TWO_COLUMNS, power_of_two, training_length
from phasejax.files.layout import paths

COLD, HOT = (2.0**-5, 2.0**-3), (4.0, 64.0)
PHASES = {"ordered": (COLD, 0.125), "jammed": (COLD, 256.0), "paramagnetic": (HOT, 0.125)}
"""Temperatures and sigma_W: a piece of a column of the grid in each phase."""
QUANTITIES = {"test_loss": "test loss", "G_t0": r"$G(t,0)$", "eigenvalues": r"eigenvalues of $W W^T$"}


class Comparison(NamedTuple):
    """What the sentence says."""

    loss: dict[str, tuple[float, float]]
    """By phase: relative difference of the mean test losses and its bootstrap error, of the cell where it is largest."""
    memory: tuple[float, float]
    """Largest difference of the mean G(t,0) of a cell, and its bootstrap error."""
    distance: float
    """Largest Kolmogorov-Smirnov distance of any quantity in any cell; eigenvalues level by level."""
    least_p: float
    """The smallest p-value among all of these tests,"""
    tests: int
    """and how many there were."""


def run(precision: str, steps: int, seeds: int) -> xr.Dataset:
    """Train, go on with, or open the run in this precision."""
    experiment = replace(
        Experiment(), grid=Grid(temperature=COLD + HOT, sigma_w=(256.0, 16.0, 1.0, 0.125), seeds=seeds),
        schedule=Schedule(steps), precision=precision,
    )  # fmt: skip
    out = Path("runs/precision") / precision
    return simulate(experiment, out, resume=any(path.exists() for path in paths(out)), progress=True)


def final(run: xr.Dataset, phase: str, name: str) -> xr.DataArray:
    """A quantity at the end in the cells of a phase, (temperature, seed) and perhaps level."""
    temperatures, sigma = PHASES[phase]
    chosen = run[name].isel(step=-1).sel(temperature=list(temperatures), sigma_w=sigma)
    return chosen.transpose("temperature", "seed", ...).load()


def difference(single: np.ndarray, double: np.ndarray, relative: bool) -> tuple[float, float]:
    """Mean over seeds (the only axis) in float32 minus that in float64, and its error by a bootstrap over seeds.

    A seed is one student in both, so seeds are drawn in pairs.
    """
    drawn = np.random.default_rng(0).integers(0, len(single), (2000, len(single)))

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a.mean(-1) / b.mean(-1) - 1 if relative else a.mean(-1) - b.mean(-1)

    return float(compare(single, double)), float(compare(single[drawn], double[drawn]).std())


def compare(single: xr.Dataset, double: xr.Dataset) -> Comparison:
    """Float32 against float64, at the end."""
    loss, memory, tests = {}, [], []
    for phase in PHASES:
        pairs = {name: (final(single, phase, name).values, final(double, phase, name).values) for name in QUANTITIES}
        cells = range(len(PHASES[phase][0]))
        found = [difference(*(a[k] for a in pairs["test_loss"]), relative=True) for k in cells]
        loss[phase] = max(found, key=lambda pair: abs(pair[0]))
        memory += [difference(*(a[k] for a in pairs["G_t0"]), relative=False) for k in cells]
        for a, b in pairs.values():
            a, b = (x.reshape(*x.shape[:2], -1) for x in (a, b))
            tests += [ks_2samp(a[k, :, level], b[k, :, level]) for k in cells for level in range(a.shape[2])]
    return Comparison(
        loss, max(memory, key=lambda pair: abs(pair[0])), max(t.statistic for t in tests),
        min(t.pvalue for t in tests), len(tests),
    )  # fmt: skip


def sentence(found: Comparison, run: xr.Dataset) -> str:
    """The result, for the documentation."""
    losses = ", ".join(f"{_with_error(100 * d, 100 * error)} % ({phase})" for phase, (d, error) in found.loss.items())
    verdict = "no" if found.least_p > 0.05 / found.tests else "a"
    return (
        f"After {training_length(run)}, mean test losses in float32 differ from those in float64 by {losses}, in the cell "
        f"of each phase where they differ most, and the mean G(t,0) of a cell by {_with_error(*found.memory)} at most; the "
        f"largest Kolmogorov-Smirnov distance of losses, G(t,0) and single eigenvalues is {found.distance:.2g}, the least "
        f"p-value of {found.tests} such tests {found.least_p:.2g}: {verdict} difference at the 5 % level (Bonferroni)."
    )


def _with_error(value: float, error: float) -> str:
    """A number and its error, to the first digit of the error."""
    digits = max(0, -math.floor(math.log10(error))) if error > 0 else 6
    return f"{value:+.{digits}f} ± {error:.{digits}f}"


def draw(single: xr.Dataset, double: xr.Dataset) -> Figure:
    """Distributions over seeds at the end: a column each phase, a row each quantity, a colour each temperature."""
    figure = Figure(figsize=(TWO_COLUMNS, 5.6))
    axes = figure.subplots(len(QUANTITIES), len(PHASES))
    for row, (name, label) in zip(axes, QUANTITIES.items(), strict=True):
        for ax, phase in zip(row, PHASES, strict=True):
            temperatures, sigma = PHASES[phase]
            for data, style in ((double, {"linewidth": 2.5, "alpha": 0.35}), (single, {"linewidth": 0.9})):
                values = final(data, phase, name).values
                for k, temperature in enumerate(temperatures):
                    ordered = np.sort(values[k].ravel())
                    share = np.arange(1, ordered.size + 1) / ordered.size
                    text = None if data is double else f"$T = {power_of_two(temperature)}$"
                    ax.step(ordered, share, where="post", color=f"C{k}", label=text, **style)
            ax.set(xlabel=label, ylim=(0, 1.02), xscale="linear" if name == "G_t0" else "log")
            ax.xaxis.set_minor_formatter(NullFormatter())
            if name == "test_loss":
                ax.set_title(rf"{phase}, $1/\sigma_W = {power_of_two(1 / sigma)}$")
                ax.legend(loc="upper left")
        row[0].set_ylabel("share of students" if name != "eigenvalues" else "share of eigenvalues")
    figure.suptitle(f"float32 (thin) and float64 (wide) after {training_length(double)}", fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Train or open both runs, say what they show, and draw it."""
    described = "Compare the ensemble in float32 and float64, in each phase."
    parser = argparse.ArgumentParser(prog="python -m experiments.precision", allow_abbrev=False, description=described)
    parser.add_argument("--steps", type=int, default=1_000_000, help="updates per student")
    parser.add_argument("--seeds", type=int, default=32, help="students a cell")
    options = parser.parse_args(argv)
    try:
        single, double = (run(precision, options.steps, options.seeds) for precision in ("float32", "float64"))
    except (ExperimentError, StoreError) as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
    print(sentence(compare(single, double), double))
    folder = Path("figures/precision")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(STYLE_SHEET):
        figure = draw(single, double)
        for suffix in ("pdf", "png"):
            figure.savefig(folder / f"precision.{suffix}")
            print(folder / f"precision.{suffix}")


if __name__ == "__main__":
    main()
