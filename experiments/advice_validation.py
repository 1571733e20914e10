"""Is the advice right? Its pilots beside the whole training, on networks it was made on and on others.

    python -m experiments.advice_validation --which development     # minutes; trains what is missing
    python -m experiments.advice_validation --which held-out        # and confirming
    python -m experiments.advice_validation --table                 # the table of benchmarks/advice.json, once more

The truth is the whole training on the pilot's plane, with other seeds: the best cell is chosen on half of them and looked at
on the other half, both ways round. Writes benchmarks/advice.json.
"""

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtrit

import phasejax as pj
from experiments.extensions.residual import Residual
from phasejax.advice import NEEDED, Advice
from phasejax.advice.words import WITHIN
from phasejax.files.layout import begun
from phasejax.studies.advice.truth import Truth

RUNS = Path("runs/advice-validation")
RESULTS = Path("benchmarks/advice.json")
SEEDS, FIRST_SEED = 8, 100
"""Of the truth; the pilot's are 0 to 4."""
ALL = tuple(2.0**k for k in range(-3, 4))
"""sigma_w where all layers are trained."""
ONE = (0.125, 0.5, 1.0, 2.0, 8.0, 32.0)
"""sigma_w where one layer is."""
FEW = (0.25, 0.5, 1.0, 2.0, 4.0)
"""sigma_w of networks that take long."""


FIRST_SPREAD = 0.6
"""Octaves that intervals allowed for what seeds do not explain when the networks held out were trained."""
T_QUANTILE = float(stdtrit(4, 0.95))
"""Of the jackknife over five seeds, for intervals of 90 %."""


def case(
    widths: Any = (3, 32, 16, 1), activation: Any = "tanh", *, trainable: Any = (), batch: int = 4, optimizer: str = "sgd",
    order: Any = "cyclic", steps: int = 30_000, task: Any = None, sigma_w: Any = ALL, **numbers: float,
) -> pj.Experiment:  # fmt: skip
    """An experiment of some architecture."""
    network = widths if not isinstance(widths, tuple) else pj.Network(widths, activation, trainable)
    rate: dict[str, Any] = {"temperature" if optimizer == "sgd" else "learning_rate": 0.1}
    return pj.Experiment(
        network=network, task=task or pj.TeacherStudent(samples=4096, test_samples=256),
        sgd=pj.Sgd(optimizer, batch, order), grid=pj.Grid({**rate, "sigma_w": sigma_w, **numbers}),
        schedule=pj.Schedule(steps),
    )  # fmt: skip


def classes(number: int) -> pj.Arrays:
    """Inputs with the class that a random network gives them the largest output for."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2560, 6)).astype(np.float32)
    y = (np.tanh(2 * x @ random.standard_normal((6, 16))) @ random.standard_normal((16, number))).argmax(1)
    return pj.Arrays(x[:2048], y[:2048], x[2048:], y[2048:])


DEVELOPMENT = {
    "the paper's": case(trainable=(2,), sigma_w=ONE, steps=100_000),
    "the paper's, all layers": case(),
    "B = 1": case(batch=1),
    "B = 16": case(batch=16),
    "momentum 0.9": case(momentum=0.9),
    "iid": case(order="iid", trainable=(2, 3), sigma_w=ONE),
    "relu": case(activation="relu"),
    "gelu": case(activation="gelu", steps=100_000),
    "erf": case(activation="erf"),
    "sin": case((3, 24, 1), "sin"),
    "identity": case((3, 16, 16, 1), "identity"),
    "one hidden layer": case((3, 32, 1)),
    "three hidden layers": case((3, 16, 16, 16, 1)),
    "twice as wide": case((3, 64, 32, 1)),
    "two outputs": case((6, 20, 2), task=pj.TeacherStudent(samples=512, test_samples=256)),
    "four classes": case((6, 24, 4), task=classes(4)),
    "adam": case(optimizer="adam"),
    "adam, one hidden layer": case((4, 32, 1), "relu", optimizer="adam"),
    "adam, B = 32": case((3, 24, 24, 1), optimizer="adam", batch=32),
    "ten inputs": case((10, 32, 16, 1)),
    "B = 64": case((5, 24, 12, 1), batch=64),
    "adam, gelu": case((5, 32, 16, 1), "gelu", optimizer="adam"),
}
"""Networks that the rules were made on. The last three had been held out from a version of them in which the cell that is
recommended was the coldest of all that are tied; other networks were then named in their place."""

HELD_OUT = {
    "twelve inputs": case((12, 24, 12, 1)),
    "B = 50": case((4, 20, 20, 1), batch=50, order="iid", sigma_w=FEW),
    "adam, erf": case((6, 24, 12, 1), "erf", optimizer="adam"),
    "adam, three hidden layers, B = 16": case((4, 20, 20, 20, 1), optimizer="adam", batch=16),
    "three outputs": case((4, 32, 16, 3)),
    "digits": case((64, 20, 10), "relu", batch=16, task=pj.Digits(), sigma_w=FEW),
    "digits, tanh, momentum": case((64, 16, 10), batch=16, task=pj.Digits(), sigma_w=FEW, momentum=0.8),
    "residual": case(Residual(12, 3), sigma_w=FEW),
    "sigmoid": case((3, 24, 12, 1), "sigmoid", steps=100_000),
    "10^5 steps, one layer of two": case((5, 40, 20, 1), "erf", trainable=(1,), sigma_w=ONE, steps=100_000),
    "four hidden layers, gelu": case((4, 16, 16, 16, 16, 1), "gelu", order="shuffled"),
    "wide relu": case((6, 64, 64, 1), "relu", batch=8, sigma_w=FEW),
}
"""Networks that nothing was chosen on; the width of intervals was afterwards."""

CONFIRMING = {
    "sin, eight inputs": case((8, 24, 1), "sin"),
    "B = 128": case((3, 16, 1), batch=128, sigma_w=FEW),
    "erf, B = 2, momentum 0.95": case((3, 24, 12, 1), "erf", batch=2, momentum=0.95),
    "adam, digits": case((64, 16, 10), optimizer="adam", batch=16, task=pj.Digits(), sigma_w=FEW),
    "adam, relu, three hidden layers": case((4, 16, 16, 16, 1), "relu", optimizer="adam"),
    "two layers of three": case((4, 24, 12, 1), trainable=(1, 2), sigma_w=ONE),
    "relu, four outputs": case((5, 24, 4), "relu"),
    "gelu, one layer of three, 10^5 steps": case(
        activation="gelu", trainable=(2,), order="shuffled", sigma_w=ONE, steps=100_000
    ),
    "sigmoid, B = 8": case((4, 32, 1), "sigmoid", batch=8),
}
"""Networks that nothing at all was chosen on."""


CASES = {"development": DEVELOPMENT, "held-out": HELD_OUT, "confirming": CONFIRMING}


def whole(experiment: pj.Experiment, advice: Advice, folder: Path) -> Truth:
    """The whole training on the pilot's plane."""
    rate, y = advice.reading.rate, advice.reading.y
    numbers = dict(experiment.grid.numbers) | {rate: tuple(y[rate].values.tolist())}
    run = replace(experiment, grid=pj.Grid(numbers, SEEDS, FIRST_SEED), observe=NEEDED)
    return Truth(pj.simulate(run, folder / "truth", resume=begun(folder / "truth")).load())


def ramp(experiment: pj.Experiment, advice: Advice, folder: Path) -> float:
    """What a learning-rate range test says at PyTorch's default initialisation, sigma_w = 1/sqrt(3), at the pilot's cost.

    The rate goes up from the plane's least to its greatest; the answer is a tenth of that of the least loss.
    """
    rate, y = advice.reading.rate, advice.reading.y
    low, high = float(y[rate][0]), float(y[rate][-1])
    steps = round(experiment.schedule.steps * min(1.0, advice.cost / 5))
    numbers = dict(experiment.grid.numbers) | {rate: high, "sigma_w": 3**-0.5}
    schedule = pj.Schedule(steps, 100, rate=[(0, low / high), (1, 1)])
    run = replace(experiment, grid=pj.Grid(numbers, 5), schedule=schedule, observe=NEEDED)
    found = pj.simulate(run, folder / "ramp", resume=begun(folder / "ramp")).load()
    cap = np.log10(found.constant_loss)
    mean = np.minimum(np.log10(found.test_loss.where(np.isfinite(found.test_loss), 1e30)), cap).mean("seed")
    share = float(found.step[int(mean.values.argmin())]) / steps
    return low * (high / low) ** share / 10


def judged(name: str, experiment: pj.Experiment) -> dict[str, Any]:
    """A network's pilot beside its truth."""
    folder = RUNS / "".join(letter if letter.isalnum() else "-" for letter in name)
    advice = pj.advise(experiment, folder)
    truth, reading = whole(experiment, advice, folder), advice.reading
    columns = []
    for k in range(reading.y.sizes["sigma_w"]):
        ours, theirs = reading.columns.isel(sigma_w=k), truth.columns.isel(sigma_w=k)
        columns.append({
            "sigma_w": float(ours.sigma_w), "kind": str(ours.kind.values), "contrast": float(ours.contrast),
            "T_c": float(ours.T_c), "error": float(ours.error), "low": float(ours.low), "high": float(ours.high),
            "true contrast": float(theirs.contrast), "true T_c": float(theirs["at"]),
            "true slope": float(theirs.slope),
        })  # fmt: skip
    best = reading.best
    other = truth.jamming(best.rate)
    jamming = reading.jamming
    momentum: Any = dict(experiment.grid.numbers).get("momentum", 0.0)
    effective = experiment.sgd.batch_size * (1 - momentum) / (1 + momentum)
    sgd = truth.rate == "temperature"
    sharpness = float(xr.open_dataset(folder / "start.nc").sharpness.mean()) if sgd else math.nan
    baselines = {
        "T = 1/8, sigma_w = 1": truth.regret(1 / 8, 1) if sgd else math.nan,
        "2/(B_eff lambda), sigma_w = 1": truth.regret(2 / (effective * sharpness), 1) if sgd else math.nan,
        "2^2.7 T_0, sigma_w = 1": truth.regret(2**2.7 * advice.edge, 1) if sgd else math.nan,
        "T_0, sigma_w = 1": truth.regret(advice.edge, 1) if sgd else math.nan,
        "ramp at PyTorch's initialisation": truth.regret(ramp(experiment, advice, folder), 3**-0.5),
        "random search": truth.searched(advice.cost, halving=False),
        "successive halving": truth.searched(advice.cost, halving=True),
    }
    return {
        "name": name, "steps": experiment.schedule.steps, "cost": advice.cost, "T_0": advice.edge, "axis": reading.rate,
        "gain": reading.gain, "best": [best.rate, best.sigma_w],
        "true best": list(truth.best),
        "least y": float(truth.y.mean("seed").min()),
        "regret": truth.regret(best.rate, best.sigma_w) if reading.learned else None,
        "baselines": baselines, "columns": columns,
        "jamming": {"sigma_c": float(jamming.sigma_c), "low": float(jamming.low), "high": float(jamming.high),
                    "true contrast": float(other.contrast), "true sigma_c": float(other["at"])},
    }  # fmt: skip


def table_of_scores(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is asked of the advice, of some networks, each with its 90 % interval of a bootstrap over networks."""
    draws = np.random.default_rng(0).integers(0, len(rows), (1000, len(rows)))

    def with_error(of: Any) -> dict[str, Any]:
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            many = [of([rows[k] for k in draw]) for draw in draws]
            return {"is": of(list(rows)), "from": float(np.nanquantile(many, 0.05)), "to": float(np.nanquantile(many, 0.95))}

    def over(values: Any, statistic: Any = np.mean) -> Any:
        def of(rows: Sequence[dict[str, Any]]) -> float:
            found = np.array([value for row in rows for value in values(row)], float)
            return float(statistic(found)) if found.size else math.nan

        return of

    found: dict[str, Any] = {
        "networks": len(rows), "columns reported": sum(map(len, map(reported, rows))),
        "T_c: mean error, octaves": with_error(over(errors)),
        "T_c: mean signed error (truth over pilot), octaves": with_error(over(lambda row: [-e for e in signed(row)])),
        "T_c: share within 1 octave": with_error(over(lambda row: [e <= 1 for e in errors(row)])),
        "T_c: largest error, octaves": with_error(over(errors, np.max)),
        "false boundaries": sum(row_false(row) for row in rows),
        "share of boundaries unreported": with_error(over(unreported)),
        "jamming: share within 1 octave": with_error(over(lambda row: [e <= 1 for e in jamming(row)])),
        "jamming: largest error, octaves": with_error(over(jamming, np.max)),
        "regret: mean, decades": with_error(over(regret)),
        "regret: mean, what is below 0 as 0": with_error(over(lambda row: [max(r, 0) for r in regret(row)])),
        "regret: largest, decades": with_error(over(regret, np.max)),
        "regret: share within the decades promised": with_error(over(lambda row: [r <= WITHIN for r in regret(row)])),
    }  # fmt: skip
    of_interval = {
        "coverage": lambda low, high: low <= 0 <= high,
        "mean width, octaves": lambda low, high: high - low,
        "mean score, octaves": lambda low, high: high - low + 2 / 0.1 * max(low, -high, 0),
    }
    for words, spread in (("", None), (f" with delta = {FIRST_SPREAD}", FIRST_SPREAD)):
        for name, number in of_interval.items():
            found[f"intervals{words}: {name}"] = with_error(
                over(lambda row, number=number, spread=spread: [number(*ends) for ends in intervals(row, spread)])
            )
    for name in rows[0]["baselines"]:
        found[f"regret: mean of {name}, decades"] = with_error(
            over(lambda row, name=name: [row["baselines"][name]] if row["baselines"][name] == row["baselines"][name] else [])
        )
    return found


def reported(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Columns in which a boundary was reported and there is one in the end."""
    return [c for c in row["columns"] if c["kind"] in ("boundary", "divergence") and true(c)]


def true(column: dict[str, Any]) -> bool:
    """Whether a column has a boundary after the whole training."""
    return column["true contrast"] > 1 and column["true T_c"] > 0


def signed(row: dict[str, Any]) -> list[float]:
    """Octaves by which T_c was put too high."""
    return [math.log2(c["T_c"] / c["true T_c"]) for c in reported(row)]


def errors(row: dict[str, Any]) -> list[float]:
    """Octaves."""
    return [abs(error) for error in signed(row)]


def row_false(row: dict[str, Any]) -> int:
    """Boundaries reported where there is none in the end."""
    return sum(c["kind"] in ("boundary", "divergence") and not true(c) for c in row["columns"])


def unreported(row: dict[str, Any]) -> list[bool]:
    """Of boundaries there are, which were not reported."""
    return [c["kind"] not in ("boundary", "divergence") for c in row["columns"] if true(c)]


def intervals(row: dict[str, Any], spread: float | None = None) -> list[tuple[float, float]]:
    """Ends of the intervals of T_c in octaves from the truth; with another delta."""
    found = []
    for c in reported(row):
        low, high = (math.log2(c[end] / c["true T_c"]) for end in ("low", "high"))
        if spread is not None:
            middle, half = math.log2(c["T_c"] / c["true T_c"]), math.hypot(T_QUANTILE * c["error"], spread)
            low, high = middle - half, middle + half
        found.append((low, high))
    return found


def jamming(row: dict[str, Any]) -> list[float]:
    """Error of the jamming boundary in octaves, where both have one."""
    found = row["jamming"]
    if not (found["sigma_c"] > 0 and found["true sigma_c"] > 0 and found["true contrast"] > 1):
        return []
    return [abs(math.log2(found["sigma_c"] / found["true sigma_c"]))]


def regret(row: dict[str, Any]) -> list[float]:
    """Of the recommended cell, in decades."""
    return [] if row["regret"] is None else [row["regret"]]


def spread_left_out(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The least delta, in twentieths of an octave, with which intervals cover nine in ten.

    Of all networks, then of all but each one, and what share of the columns of that one it covers.
    """

    def least(rows: Sequence[dict[str, Any]]) -> float:
        def covered(spread: float) -> float:
            return float(np.mean([low <= 0 <= high for row in rows for low, high in intervals(row, spread)]))

        return next(k / 20 for k in range(1, 80) if covered(k / 20) >= 0.9)

    left = {row["name"]: least([other for other in rows if other is not row]) for row in rows}
    covers = [low <= 0 <= high for row in rows for low, high in intervals(row, left[row["name"]])]
    return {"all": least(rows), "each left out": left, "coverage of those left out": float(np.mean(covers))}


def between_of(value: dict[str, float]) -> str:
    """An interval in words."""
    return f"{value['from']:.2f} to {value['to']:.2f}"


def table(result: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = []
    unseen = [row for which in ("held-out", "confirming") if which in result for row in result[which]["networks"]]
    together = {"held-out and confirming": {"scores": table_of_scores(unseen), "networks": []}} if unseen else {}
    for which, found in (result | together).items():
        lines += [f"### {which}", "", "| | | 90 % |", "|---|---|---|"]
        for name, value in found["scores"].items():
            there, between = (value, "") if not isinstance(value, dict) else (value["is"], between_of(value))
            lines.append(f"| {name} | {there:.3g} | {between} |")
        lines += ["", "| network | cost | T_c, octaves too high, by sigma_w | regret | best, true best: log2 T, sigma_w |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for row in found["networks"]:
            errors = ", ".join(f"{error:+.2f}" for error in signed(row)) or "none"
            of = " and ".join("(" + ", ".join(f"{math.log2(v):+.0f}" for v in row[at]) + ")" for at in ("best", "true best"))
            regret = "" if row["regret"] is None else f"{row['regret']:.2f}"
            lines.append(f"| {row['name']} | {row['cost']:.2g} | {errors} | {regret} | {of} |")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, judge, write and print; or print what was written."""
    parser = argparse.ArgumentParser(prog="python -m experiments.advice_validation", allow_abbrev=False,
                                     description="Compare the advice with whole trainings.")  # fmt: skip
    parser.add_argument("--which", choices=tuple(CASES), default="development")
    parser.add_argument("--only", nargs="*", default=None, help="names of networks; prints, and writes nothing")
    parser.add_argument("--table", action="store_true", help="print the tables of what was found, and train nothing")
    options = parser.parse_args(argv)
    result = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if not options.table:
        rows = []
        for name, experiment in CASES[options.which].items():
            if options.only is None or name in options.only:
                rows.append(judged(name, experiment))
                print(name, f"regret {rows[-1]['regret']}, T_c {np.round(signed(rows[-1]), 2)}", flush=True)
        found: dict[str, Any] = {"scores": table_of_scores(rows), "networks": rows}
        if options.which == "development" and options.only is None:
            found["spread"] = spread_left_out(rows)
        result = {**result, options.which: found} if options.only is None else {options.which: found}
        if options.only is None:
            RESULTS.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
