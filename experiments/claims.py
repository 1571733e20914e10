"""Verdicts on the paper's statements at several training lengths, side by side: the tables of docs/claims.md.

    python -m experiments.claims quick=runs/quick.nc desk=runs/desk.nc 'full=runs/full/*.nc' --study runs/batch_size-desk

makes, between the marks of the page: every verdict with that of its null; the numbers; the same of the statements that take
a study of several runs; what becomes of the verdicts with fewer seeds of the larger runs; and how much of the test loss is
the test set's, from the weights that runs record.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.full_length import together
from experiments.pages import put, table
from phasejax import Experiment, ExperimentError, RunError, StoreError
from phasejax.analysis.phases import PHASES
from phasejax.analysis.run import until
from phasejax.analysis.statistics import log10, sound
from phasejax.claims import AGREES, DIFFERS, UNDECIDED, Claim, Verdict, check
from phasejax.claims.writing import about, number
from phasejax.files.reading import open_run
from phasejax.studies.paper.claims import CLAIMS
from phasejax.studies.study import open_study

PAGE = Path("docs/claims.md")
FEWER, DRAWS = (4, 10, 16, 50), 5
TEST_SAMPLES = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FILES", help="runs, shortest first; slabs of one run by a pattern")
    parser.add_argument("--study", type=Path, required=True, help="folder of the runs of the batch_size study")
    options = parser.parse_args(arguments)
    named = dict(run.split("=", 1) for run in options.runs)
    runs = {name: read(files) for name, files in named.items()}
    page = {name: judged(run, "run") for name, run in runs.items()}
    of_study = {options.study.name: judged(open_study(options.study), "study")}
    several = [name for name, run in runs.items() if run.sizes["seed"] > max(FEWER)]
    parts = ["\n".join(f"- `{name}`: {about(run)}" for name, run in runs.items())]
    parts += ["## Verdicts", "Where nothing is said of it, the null *differs*.", table([*verdicts(page), *counts(page)])]
    parts += ["Of several runs:", table(verdicts(of_study)), "## Numbers", table(numbers(page)), table(numbers(of_study))]
    parts += [fewer(name, runs[name], page[name]) for name in several]
    parts += ["## The test set", test_set(runs)]
    put("tables", "\n" + "\n\n".join(parts) + "\n", PAGE)
    wrong = [f"{key} in {name}" for name in several for key, v in page[name].items() if v.null not in ("", DIFFERS)]
    print(f"Nulls that do not differ: {', '.join(wrong)}." if wrong else "Every null differs where there are seeds enough.")
    return bool(wrong)


def judged(data: xr.Dataset | xr.DataTree, over: str) -> dict[str, Verdict]:
    """Verdicts on the statements over a run, or over a study."""
    return {v.claim.key: v for v in check(data, [claim for claim in CLAIMS if claim.over == over])}


def read(files: str) -> xr.Dataset:
    """A run, of all slabs that a pattern names."""
    parts = [open_run(file) for file in sorted(glob(files)) or [files]]
    return parts[0] if len(parts) == 1 else together(parts)


def verdicts(page: dict[str, dict[str, Verdict]]) -> list[tuple[str, ...]]:
    """A row a statement, two columns a run: its verdict, and what its null came out as where that is not *differs*."""
    rows = [("statement", "", *page)]
    for claim in _claims(page):
        cells = []
        for found in page.values():
            v = found[claim.key]
            cells.append(v.verdict + (f" (null: {v.null})" if v.null not in ("", DIFFERS) else ""))
        rows.append((claim.statement, claim.where, *cells))
    return rows


def counts(page: dict[str, dict[str, Verdict]]) -> list[tuple[str, ...]]:
    """How many there are of each verdict, rows under those of `verdicts`."""
    of_runs = [Counter(v.verdict for v in found.values()) for found in page.values()]
    there = dict.fromkeys(verdict for of in of_runs for verdict in of)
    return [(f"*{verdict}*", "", *(str(of[verdict]) for of in of_runs)) for verdict in there]


def _claims(page: dict[str, dict[str, Verdict]]) -> list[Claim]:
    return [v.claim for v in next(iter(page.values())).values()]


def numbers(page: dict[str, dict[str, Verdict]]) -> list[tuple[str, ...]]:
    """A row a number: its interval, and its value in each run, and in its null in the last but one."""
    middle = list(page)[min(1, len(page) - 1)]
    rows: list[tuple[str, ...]] = [("number", "to agree", *page, f"null of {middle}")]
    for claim in _claims(page):
        after = " (set after the fact)" if claim.afterwards else ""
        for k, rule in enumerate(claim.measures):
            found = [v[claim.key].measured for v in page.values()]
            null = page[middle][claim.key].null_measured
            values = [number(m[k]) if m else "" for m in (*found, null)]
            rows.append((f"{claim.key}: {rule.name}", rule.interval() + (after if rule.judged else ""), *values))
    return rows


def fewer(name: str, run: xr.Dataset, whole: dict[str, Verdict]) -> str:
    """Shares of verdicts with seeds drawn from a run, without replacement, by how they compare with those of all of them."""
    kinds = (
        "the same",
        UNDECIDED,
        "decided instead of undecided",
        f"{DIFFERS} for {AGREES}",
        f"{AGREES} for {DIFFERS}",
        "other",
    )
    rows: list[tuple[str, ...]] = [("seeds", *kinds)]
    run = load_last(run)
    for seeds in FEWER:
        counts: Counter[str] = Counter()
        for draw in range(DRAWS):
            labels = np.random.default_rng((seeds, draw)).choice(run.sizes["seed"], seeds, replace=False)
            for v in judged(run.isel(seed=np.sort(labels)), "run").values():
                counts[_kind(v.verdict, whole[v.claim.key].verdict)] += 1
        rows.append((str(seeds), *(f"{100 * counts[kind] / counts.total():.1f} %" for kind in kinds)))
    words = (
        f"Verdicts on {DRAWS} draws of so many of the {run.sizes['seed']} seeds of `{name}`, beside those on all of them. "
        "*Other* is from or to *needs longer training*."
    )
    return "\n\n".join(["## Fewer seeds", words, table(rows)])


def _kind(verdict: str, whole: str) -> str:
    if verdict == whole:
        return "the same"
    if verdict == UNDECIDED:
        return UNDECIDED
    if whole == UNDECIDED:
        return "decided instead of undecided"
    return f"{verdict} for {whole}" if {verdict, whole} == {AGREES, DIFFERS} else "other"


def load_last(run: xr.Dataset) -> xr.Dataset:
    """The start and the last decade of a run, in memory, without weights."""
    steps = run.step.values
    kept = np.flatnonzero((steps == 0) | (steps >= steps[-1] / 10))
    return run.drop_vars(["weights", "feature_density"], errors="ignore").isel(step=kept).load()


def test_set(runs: dict[str, xr.Dataset]) -> str:
    """How far the loss on a run's own test inputs lies from that on others, at the ends, by phase."""
    rows = [("run, step", *(f"log10 test loss, {phase}: own inputs - {TEST_SAMPLES} others" for phase in PHASES))]
    for name, run in runs.items():
        if "weights" not in run:
            continue
        for step in (int(run.step_decades[0]), int(run.step_decades[-1])):
            # The first are the run's own.
            own, other = losses(run, step)
            recorded = sound(until(run, None), run.test_loss).sel(step=step)
            if not np.allclose(own, recorded.transpose(*own.dims), rtol=0.02, equal_nan=True):
                raise RunError(f"The losses of {name} at step {step} are not those of its weights.")
            difference = log10(own) - log10(other)
            cells = []
            for phase in PHASES.values():
                of_seed = difference.where(phase(run)).mean(["temperature", "sigma_w"])
                error = float(of_seed.std("seed", ddof=1)) / np.sqrt(of_seed.count("seed").item())
                cells.append(f"{float(of_seed.mean()):+.3f} +- {error:.3f}")
            rows.append((f"{name}, {step:,}", *cells))
    words = (f"The {Experiment().task.test_samples} test inputs are the same for all seeds, so what they add is not in an "
             "error over seeds. From the recorded weights, the loss on them beside that on others, in decades: means over "
             "seeds and the cells of a phase. The error is over seeds; what remains is the set's own.")  # fmt: skip
    return "\n\n".join([words, table(rows)])


def losses(run: xr.Dataset, step: int) -> tuple[xr.DataArray, xr.DataArray]:
    """Test loss of every student on its own test inputs and on others, (temperature, sigma_w, seed)."""
    import jax.numpy as jnp

    from phasejax.seed import make_task

    experiment = Experiment.from_toml(run.attrs["experiment"], "the file", 2 if "format_version" in run.attrs else 1)
    own = experiment.task.test_samples
    more = replace(experiment.task, test_samples=own + TEST_SAMPLES)
    found: list[list[np.ndarray]] = [[], []]
    for label in run.seed.values:
        task = make_task(experiment.network, more, 1, jnp.float32, jnp.int32(label))
        weights = run.weights.sel(step_decades=step, seed=label).transpose("temperature", "sigma_w", "node", "input").values
        readout = np.asarray(task.frozen["3"])
        outputs = np.tanh(np.asarray(task.own.test_features) @ np.swapaxes(weights, -1, -2)) @ readout[0]
        errors = (outputs - np.asarray(task.own.test_targets)[:, 0]) ** 2 / 2
        for parts, part in zip(found, (errors[..., :own], errors[..., own:]), strict=True):
            parts.append(part.mean(-1))
    dims, coords = ("temperature", "sigma_w", "seed"), run.coords
    named = {name: coords[name] for name in dims}
    own_loss, other_loss = (xr.DataArray(np.stack(parts, -1), named, dims) for parts in found)
    return own_loss, other_loss


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ExperimentError, RunError, StoreError) as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
