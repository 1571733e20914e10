"""What a user of `simulate` meets: interruptions, cores, progress, names; and the house as a whole."""

import ast
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from conftest import FEW, small

import phasejax as pj

ROOT = Path(pj.__file__).parent


@pytest.fixture(scope="module")
def expected():
    return pj.simulate(small(observe=FEW)).drop_attrs()


def at(call, act):
    """An `interrupted` that does something when it is asked for the so-manieth time."""
    counter = itertools.count()

    def ask():
        if next(counter) == call:
            act()
        return False

    return ask


def test_ctrl_c_writes_the_checkpoint_and_the_run_goes_on(tmp_path, expected):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    press = at(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(pj.Interrupted, match="stopped at step"):
        pj.simulate(small(observe=FEW), tmp_path / "run", interrupted=press)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert list((tmp_path / "run").glob("state-*.npz"))
    resumed = pj.simulate(small(observe=FEW), tmp_path / "run", resume=True)
    xr.testing.assert_identical(resumed.drop_attrs(), expected)


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pj.simulate(small(observe=FEW), tmp_path / "run", interrupted=at(1, twice))


def test_whatever_ends_a_run_its_way_so_far_is_kept(tmp_path, expected):
    def fail():
        raise RuntimeError("the notebook's kernel is unwell")

    with pytest.raises(RuntimeError, match="unwell"):
        pj.simulate(small(observe=FEW), tmp_path / "run", interrupted=at(6, fail))
    (state,) = (tmp_path / "run").glob("state-*.npz")
    assert int(state.stem.partition("-")[2]) > 0
    resumed = pj.simulate(small(observe=FEW), tmp_path / "run", resume=True)
    xr.testing.assert_identical(resumed.drop_attrs(), expected)


def python(text, **environment):
    cleared = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env=cleared | environment, check=True
    )


def test_all_cores_are_used_unless_jax_has_started_without_them():
    probe = "import jax, os, phasejax.simulation as s\n{}\nprint(len(s.all_devices()), len(os.sched_getaffinity(0)))"
    first = python(probe.format(""))
    used, cores = map(int, first.stdout.split())
    assert used == cores
    assert not first.stderr
    late = python(probe.format("jax.devices()"))
    if cores > 1:
        assert late.stdout.split()[0] == "1"
        assert f"JAX has started with 1 of this machine's {cores} cores" in late.stderr
        assert f'jax.config.update("jax_num_cpu_devices", {cores})' in late.stderr
    asked = python(probe.format('jax.config.update("jax_num_cpu_devices", 1)'))
    assert asked.stdout.split()[0] == "1"
    assert not asked.stderr


def test_a_bar_where_somebody_looks(monkeypatch, capsys):
    pj.simulate(small(observe=FEW)).close()
    assert not capsys.readouterr().err
    monkeypatch.setattr("phasejax.simulation.watched", lambda: True)
    pj.simulate(small(observe=FEW)).close()
    printed = capsys.readouterr().err
    assert "engine native" in printed or "engine autodiff" in printed
    pj.simulate(small(observe=FEW), progress=False).close()
    assert not capsys.readouterr().err


def test_the_public_names():
    assert pj.__version__
    assert set(pj.__all__) <= set(dir(pj))
    for name in dir(pj):
        assert getattr(pj, name) is not None
    assert pj.figures.draw_all
    assert pj.claims.check
    star = python("from phasejax import *\nprint(open.__module__, Experiment.__name__, Student.__name__)")
    assert star.stdout.split() == ["io", "Experiment", "Student"]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pj.nonsense
    assert (ROOT / "py.typed").exists()


def imports(path):
    """Modules of the package that one of them needs in order to be imported."""
    found = set()

    def visit(node):
        for child in ast.iter_child_nodes(node):
            typing = isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or typing:
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("phasejax"):
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    found.add(inner if inner in MODULES else child.module)
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


MODULES = {
    ".".join(("phasejax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def test_no_imports_in_circles_and_each_floor_below_the_next():
    graph = {name: imports(path) for name, path in MODULES.items()}
    seen, done = [], set()

    def walk(name):
        assert name not in seen, f"{' -> '.join(seen[seen.index(name) :])} -> {name} is a circle"
        if name in done:
            return
        seen.append(name)
        for other in sorted(graph[name] - {name}):
            walk(other)
        seen.pop()
        done.add(name)

    for name in graph:
        walk(name)

    def below(name, found=None):
        found = set() if found is None else found
        for other in graph[name] - found:
            found.add(other)
            below(other, found)
        return found

    assert not [name for name in below("phasejax.ensemble") if name.startswith(("phasejax.engines", "phasejax.files"))]
    assert not [name for name in below("phasejax.training") if name.startswith("phasejax.files")]
    downstream = [name for name in graph if name.startswith(("phasejax.analysis", "phasejax.claims", "phasejax.figures"))]
    for name in [*downstream, "phasejax.files.reading"]:
        assert not {"phasejax.ensemble", "phasejax.state", "phasejax.simulation"} & below(name), name


def test_modules_are_of_a_size_to_be_read():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 420}


LARGE = """
import resource, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
import phasejax as pj
from phasejax import engines, training
rng = np.random.default_rng(0)
x = rng.standard_normal((60_000, 784), np.float32)
task = pj.Arrays(x, rng.integers(0, 10, 60_000), x[:100], rng.integers(0, 10, 100))
del x
experiment = pj.Experiment(
    task=task, network=pj.Network((784, 4, 10), "relu"), sgd=pj.Sgd(batch_size=32, order="shuffled"),
    grid=pj.Grid(temperature=0.01, sigma_w=1.0, seeds=100), schedule=pj.Schedule(20),
    observe=("test_loss", "full_gradient_norm"),
)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
before = peak()
pj.simulate(experiment).close()
state = 100 * (784 * 4 + 4 * 10) * 4 * 4 / 1e9
print(peak() - before, state)
"""


@pytest.mark.long
def test_data_that_all_seeds_share_are_held_once():
    """60,000 x 784 float32 are 0.19 GB; gathered for each of 100 seeds an epoch would be 19 GB."""
    done = python(LARGE)
    grown, state = map(float, done.stdout.split())
    assert grown < 1 + 4 * state
