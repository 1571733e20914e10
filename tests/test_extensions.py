"""Each extension runs at small size, draws its picture, and is as short as it says."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import phasejax as pj

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # experiments/ is in the checkout only
SCRIPTS = sorted(path.stem for path in (ROOT / "experiments" / "extensions").glob("[a-z]*.py"))


def smaller(experiment):
    """Two values an axis, one seed, a few steps."""
    axes = {name: (values[0], values[-1]) for name, values in experiment.grid.axes.items()}
    return replace(experiment, grid=replace(experiment.grid, seeds=2, **axes), schedule=pj.Schedule(10))


@pytest.mark.parametrize("name", [n if n == "own_study" else pytest.param(n, marks=pytest.mark.long) for n in SCRIPTS])
def test_it_runs_and_draws_a_picture(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module(f"experiments.extensions.{name}")
    (given,) = [value for value in script.main.__defaults__ if isinstance(value, pj.Experiment | pj.Study)]
    if isinstance(given, pj.Study):
        small = replace(given, base=smaller(given.base), members=given.members[:2])
    else:
        small = smaller(given)
    written = script.main(small)
    assert {path.suffix for path in written} >= {".png", ".pdf"}
    assert all((tmp_path / path).stat().st_size > 1000 for path in written)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_short_and_needs_no_part_of_the_inside(name):
    text = (ROOT / "experiments" / "extensions" / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 60
    assert "._" not in text.replace("._replace(", "")
    assert "from phasejax" not in text
