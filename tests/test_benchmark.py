"""The benchmark runs through, measures the same work everywhere, and needs no netCDF4 and no tyro."""

import importlib.util
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # experiments/ is in the checkout only

from experiments import benchmark  # noqa: E402
from experiments.others import Contender  # noqa: E402

FIGURES = [f"{name}.{suffix}" for name in ("engines", "growth") for suffix in ("pdf", "png")]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """(benchmark.json of a quick run, its folder, standard output)."""
    folder = tmp_path_factory.mktemp("benchmark")
    probe = (
        "import sys\nfrom experiments import benchmark\n"
        f"benchmark.main(['--quick', '--out', {str(folder)!r}])\n"
        "print([m for m in ('netCDF4', 'tyro', 'xarray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "benchmark.json").read_text()), folder, done.stdout


@pytest.mark.long
def test_a_bare_machine_is_enough(quick):
    assert quick[2].splitlines()[-1] == "[]"


@pytest.mark.long
def test_every_row_is_there_or_has_its_reason(quick):
    result, folder, printed = quick
    names = {(row["name"], row["precision"]) for row in result["rows"]}
    assert {("autodiff", "float32"), ("plain JAX vmap(grad)", "float32")} <= names
    assert any(precision == "float64" for _, precision in names)
    torch = [name for name, _ in names if "orch" in name]
    assert len(torch) == (3 if importlib.util.find_spec("torch") else 0)
    assert ("PyTorch" in result["passed_over"]) == (not torch)
    assert any(name.startswith("C roof") for name, _ in names) != ("the C roof" in result["passed_over"])
    for row in itertools.chain(result["rows"], *result["growth"].values()):
        assert len(row["seconds"]) == len(row["rate"]) == 2
        assert all(math.isfinite(number) and number > 0 for number in (*row["seconds"], *row["rate"], row["students"]))
        assert row["rate"][0] == pytest.approx(row["students"] * row["steps"] / row["seconds"][0])
        assert row["name"] in printed
    assert list(result["growth"]) == ["seeds", "cells", "weights", "batch size", "devices"]
    assert all((folder / name).stat().st_size > 1000 for name in FIGURES)


@pytest.mark.long
def test_it_says_what_machine_it_was_and_what_the_work_costs(quick):
    result = quick[0]
    assert result["machine"]["cores"] >= 1
    assert "jax" in result["machine"]["versions"]
    assert result["limits"]["flop_per_student_step"] == 4 * 4 * 32 * 16
    # W, its mark, and three numbers a student.
    few, many = result["memory"]
    assert few["state_bytes_per_student"] == many["state_bytes_per_student"] == 2 * 4 * 512 + 8
    assert many["bytes"] / few["bytes"] == pytest.approx(many["students"] / few["students"])
    records = result["records"]
    assert records["occasions"]["records"]["times"] > records["occasions"]["decades"]["times"] > 0
    assert 0 < result["start"]["naming_seconds"][0] < 60
    assert all(seconds > 0 for seconds in result["start"]["first_step_seconds"]["quick"])
    assert records["share"] == pytest.approx(records["seconds"][0] / records["training_seconds"][0])


@pytest.mark.long
def test_the_tables_are_printed_again_from_the_file(quick, capsys):
    _, folder, printed = quick
    benchmark.main(["--table", str(folder / "benchmark.json")])
    assert capsys.readouterr().out.strip() in printed
    with pytest.raises(SystemExit) as left:
        benchmark.main(["--table", str(folder / "nothing.json")])
    assert left.value.code == 2
    assert "nothing.json" in capsys.readouterr().err


def decaying(name, rate, cells=4):
    """A contender whose weights shrink by this rate a step."""
    w = np.ones((2, cells, 3, 5))

    def train(steps):
        w[:] *= (1 - rate) ** steps

    return Contender(name, "float32", 2 * cells, train, lambda: w)


def test_a_contender_that_trains_other_students_is_refused():
    cold = np.array([True, True, False, False])
    benchmark.check([decaying("a", 0.1), decaying("b", 0.1), decaying("one cell", 0.1, cells=1)], cold)
    with pytest.raises(SystemExit, match="cheat does not train the same students"):
        benchmark.check([decaying("a", 0.1), decaying("cheat", 0.101)], cold)


def test_a_ratio_is_taken_within_rounds():
    """A machine that is slow in one round slows both rows of it down."""
    ours, theirs = {"rate": [10.0, 2.0, 10.0]}, {"rate": [5.0, 1.0, 2.0]}
    assert benchmark.ratio(ours, theirs) == 2.0
    assert benchmark.ratio(ours, None) is None
    points = [{"value": value, "rate": [rate]} for value, rate in ((10, 4.0), (50, 5.0), (500, 50.0))]
    assert benchmark.spread(points, 10, 100) == pytest.approx(0.25)


def test_the_page_has_the_tables_of_the_benchmark_that_is_kept():
    kept = json.loads((ROOT / "benchmarks" / "two-cores" / "benchmark.json").read_text())
    assert benchmark.tables(kept).strip() in (ROOT / "docs" / "performance.md").read_text()
