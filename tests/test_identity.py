"""A run goes on only as what it was: what changes its programs is refused, what does not is no matter."""

import dataclasses
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import FEW, small

import phasejax as pj
from phasejax import engines, ensemble
from phasejax.identity import identify
from phasejax.observables import choose
from phasejax.observables.standard import standard
from phasejax.provenance import compiled_by
from phasejax.training import settings_of


def identity(experiment, engine="autodiff"):
    with settings_of(experiment):
        devices = jax.devices()
        chosen = choose(experiment, standard(experiment.network, experiment.task, experiment.schedule.weights))
        return identify(experiment, engines.choose(experiment, engine, devices).engine, chosen.observables, devices)


def begin(out, experiment, **how):
    """Train a little."""
    counter = itertools.count()
    with pytest.raises(pj.Interrupted):
        pj.simulate(experiment, out, checkpoint_seconds=0, interrupted=lambda: next(counter) > 2, **how)


@dataclass(frozen=True)
class Cube:
    """A network of one's own."""

    power: int = 3
    inputs: int = 3

    def init(self, key):
        return {"w": jax.random.normal(key, (1, self.inputs), jnp.float32)}

    def apply(self, weights, x):
        return x @ weights["w"].T, x**self.power


def named(name, function):
    """A function under a name."""
    function.__qualname__ = function.__name__ = name
    return function


def host(function):
    """An experiment observed by what Python evaluates."""

    def observe(student, task):
        return jax.pure_callback(
            function, jax.ShapeDtypeStruct((), jnp.float32), student.train_loss, vmap_method="sequential"
        )

    return small(observe=(pj.Observable("mine", observe),))


LONG = [pytest.param(kind, marks=pytest.mark.long) for kind in ("optimizer", "loss", "network", "task")]


@pytest.mark.parametrize("kind", ["activation", "observable", *LONG])
def test_another_function_under_the_same_name_is_refused(tmp_path, monkeypatch, kind):
    pairs = {
        "activation": [
            {"network": pj.Network((3, 4, 4, 1), named("mine", f))} for f in (lambda z: jnp.tanh(z), lambda z: z)
        ],
        "observable": [
            {"observe": (pj.Observable("mine", named("mine", f)),)}
            for f in (lambda s, t: s.step, lambda s, t: s.step + 1)
        ],
        "optimizer": [
            {"sgd": pj.Sgd(named("mine", f)), "grid": pj.Grid(learning_rate=[0.1], sigma_w=1.0)}
            for f in (lambda learning_rate: optax.sgd(learning_rate), lambda learning_rate: optax.sgd(2 * learning_rate))
        ],
        "loss": [
            {"task": pj.TeacherStudent(80, 16, loss=named("mine", f))}
            for f in (lambda o, t: ((o - t) ** 2).sum(-1), lambda o, t: abs(o - t).sum(-1))
        ],
    }  # fmt: skip
    if kind in pairs:
        first, second = (small(**({"observe": FEW} | parts)) for parts in pairs[kind])
    else:
        first = second = small(network=Cube(), observe=FEW) if kind == "network" else small(task=Noisy(), observe=FEW)
    begin(tmp_path / "run", first)
    if kind == "network":
        monkeypatch.setattr(Cube, "apply", lambda self, weights, x: (2 * x @ weights["w"].T, x))
    if kind == "task":
        monkeypatch.setattr(Noisy, "scale", 2.0)
    assert first.to_toml() == second.to_toml()
    before = sorted((tmp_path / "run").iterdir())
    with pytest.raises(pj.StoreError, match="begun with other programs than these settings make here"):
        pj.simulate(second, tmp_path / "run", resume=True)
    assert sorted((tmp_path / "run").iterdir()) == before
    monkeypatch.undo()
    pj.simulate(first, tmp_path / "run", resume=True).close()


@dataclass(frozen=True)
class Noisy:
    """A task of one's own."""

    samples: int = 80
    loss: str = "mse"

    scale = 1.0

    def draw(self, keys, network, dtype):
        x = self.scale * jax.random.normal(keys.inputs, (self.samples, 3), jnp.float32)
        return pj.Data(x, x[:, :1], x[:4], x[:4, :1]), {}


steepness = 1.0


def test_a_function_of_ones_own_is_traced_anew_and_compiled_only_if_it_has_changed(monkeypatch):
    experiment = small(
        network=pj.Network((3, 4, 4, 1), named("mine", lambda z: jnp.tanh(steepness * z))),
        observe=("test_loss", pj.Observable("mine", lambda student, task: steepness * student.step)),
    )
    found, compiled = [], []
    for value in (1.0, 2.0, 1.0):
        monkeypatch.setattr(sys.modules[__name__], "steepness", value)
        before = ensemble.traces["advance"] if found else 0
        found.append(pj.simulate(experiment))
        compiled.append(ensemble.traces["advance"] - before)
    assert [float(run.mine.max()) for run in found] == [60.0, 120.0, 60.0]
    assert float(found[0].test_loss[-1].mean()) != float(found[1].test_loss[-1].mean())
    xr.testing.assert_identical(found[0].drop_attrs(), found[2].drop_attrs())
    assert found[0].attrs["identity"] == found[2].attrs["identity"] != found[1].attrs["identity"]
    assert compiled[2] < compiled[1], "what was compiled before is used again"


def test_a_run_whose_function_reads_what_has_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "steepness", 1.0)
    experiment = small(network=pj.Network((3, 4, 4, 1), named("mine", lambda z: jnp.tanh(steepness * z))), observe=FEW)
    begin(tmp_path / "run", experiment)
    monkeypatch.setattr(sys.modules[__name__], "steepness", 2.0)
    with pytest.raises(pj.StoreError, match="begun with other programs"):
        pj.simulate(experiment, tmp_path / "run", resume=True)


def other_compiler(monkeypatch, words):
    monkeypatch.setattr("phasejax.simulation.compiled_by", lambda: words)


@pytest.mark.parametrize("how", [{}, {"shard": (0, 2)}, {"schedule": pj.Schedule(100)}])
def test_another_jax_is_another_run(tmp_path, monkeypatch, how):
    experiment, words = small(observe=FEW), compiled_by()
    if "schedule" in how:
        pj.simulate(small(observe=FEW, schedule=pj.Schedule(10)), tmp_path / "run").close()
        experiment, how = small(observe=FEW, **how), {}
    else:
        begin(tmp_path / "run", experiment)
    other_compiler(monkeypatch, "jax 9.9 with jaxlib 9.9.1")
    with pytest.raises(pj.StoreError, match=rf"with {words}, and .*jax 9.9 with jaxlib 9.9.1: only the same goes on"):
        pj.simulate(experiment, tmp_path / "run", resume=True, **how)
    monkeypatch.undo()
    pj.simulate(experiment, tmp_path / "run", resume=True, **how).close()


def test_slabs_of_another_jax_are_not_joined(tmp_path, monkeypatch):
    pj.simulate(small(observe=FEW), tmp_path / "run", shard=(0, 2)).close()
    other_compiler(monkeypatch, "jax 9.9 with jaxlib 9.9.1")
    pj.simulate(small(observe=FEW), tmp_path / "run", shard=(1, 2)).close()
    with pytest.raises(pj.StoreError, match=r"was compiled by jax 9\.9 with jaxlib 9\.9\.1, and"):
        pj.merge(tmp_path / "run")


def test_flags_that_may_change_arithmetic_are_part_of_what_compiled_a_run(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_dump_to=/tmp")
    assert compiled_by() == f"jax {jax.__version__} with jaxlib {jaxlib.__version__}"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=3")
    assert compiled_by().endswith(f"{jaxlib.__version__} and XLA_FLAGS --xla_cpu_enable_fast_math=true")


def test_slabs_of_other_functions_are_not_joined(tmp_path):
    first, second = (
        small(network=pj.Network((3, 4, 4, 1), named("mine", f)), observe=FEW) for f in (lambda z: jnp.tanh(z), lambda z: z)
    )
    pj.simulate(first, tmp_path / "run", shard=(0, 2)).close()
    pj.simulate(second, tmp_path / "run", shard=(1, 2)).close()
    with pytest.raises(pj.StoreError, match="was made with identity"):
        pj.merge(tmp_path / "run")


def test_the_code_of_what_the_host_does_counts():
    one, same, other = (host(f) for f in (lambda z: np.float32(z), lambda z: np.float32(z), lambda z: np.float32(2 * z)))
    found = [identity(experiment).programs for experiment in (one, same, other)]
    assert found[0] != found[2]
    assert found[0] == found[1]


PROBE = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
{before}
import sys
sys.path.insert(0, {tests!r})
from test_identity import *
print(*identity(small()))
if {train}:
    print(pj.simulate(small(observe=FEW), engine="autodiff").test_loss.values.tobytes().hex()[:64])
"""


def elsewhere(before="", train=False, **environment):
    """The same identity, and the beginning of a result, from another process."""
    text = PROBE.format(before=before, train=train, tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_an_identity_is_the_same_in_every_process_whatever_jaxs_settings_and_compiler():
    """Settings of random numbers are pinned: they change nothing."""
    here = [*identity(small())]
    values = pj.simulate(small(observe=FEW), engine="autodiff").test_loss.values.tobytes().hex()[:64]
    others = {"JAX_THREEFRY_PARTITIONABLE": "0", "JAX_RANDOM_SEED_OFFSET": "7", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}
    assert elsewhere(train=True, **others) == [*here, values]
    # Without a compiler the kernels' stand-ins run, and the run is the same one.
    assert elsewhere(CXX="/nowhere/c++", PATH="/nowhere") == here


def test_changed_training_code_is_another_identity():
    here = identity(small()).programs
    changed = """
from phasejax.engines import autodiff
import jax.numpy as jnp
import jaxlib
original = autodiff.first_divergence
autodiff.first_divergence = lambda diverged, loss, step: original(diverged, loss + 1, step)
"""
    assert elsewhere(changed)[1] != here


def test_an_edited_caption_forbids_nothing(tmp_path):
    def mine(words):
        return pj.Observable("mine", step, words, units="1" if words == "one" else "2")

    begin(tmp_path / "run", small(observe=(mine("one"),)))
    run = pj.simulate(small(observe=(mine("two"),)), tmp_path / "run", resume=True)
    assert int(run.step[-1]) == 60


def step(student, task):
    return student.step


def test_a_run_with_other_values_has_the_same_programs_and_another_identity():
    one = small()
    for other in (
        dataclasses.replace(one, grid=pj.Grid(temperature=[0.1, 0.2, 0.3], sigma_w=[1, 2, 3], seeds=3)),
        dataclasses.replace(one, schedule=pj.Schedule(70)),
    ):
        assert identity(other).programs == identity(one).programs
        assert identity(other).whole != identity(one).whole
    more = dataclasses.replace(one, grid=dataclasses.replace(one.grid, seeds=5, first_seed=2))
    assert identity(more) == identity(one), "which seeds there are is said beside it"
    assert identity(dataclasses.replace(one, sgd=pj.Sgd(batch_size=8))).programs != identity(one).programs


CHANGES = {
    "network.widths": {"network": pj.Network((3, 32, 15, 1), trainable=(2,))},
    "network.activation": {"network": pj.Network((3, 32, 16, 1), "relu", (2,))},
    "network.trainable": {"network": pj.Network((3, 32, 16, 1), trainable=(2, 3))},
    "network.sigma_w_scale": {"network": pj.Network((3, 32, 16, 1), trainable=(2,), sigma_w_scale=(2.0,))},
    "task.samples": {"task": pj.TeacherStudent(40, 16)},
    "task.test_samples": {"task": pj.TeacherStudent(80, 17)},
    "task.loss": {"task": pj.TeacherStudent(80, 16, loss=lambda o, t: abs(o - t).sum(-1))},
    "sgd.optimizer": {"sgd": pj.Sgd("adam"), "grid": pj.Grid(learning_rate=[0.01], sigma_w=1.0, seeds=3)},
    "sgd.batch_size": {"sgd": pj.Sgd(batch_size=8)},
    "sgd.order": {"sgd": pj.Sgd(order="iid")},
    "grid.temperature": {"grid": pj.Grid(temperature=[2**-5, 1.0, 32.0], sigma_w=[256.0, 1.0, 0.125], seeds=3)},
    "grid.sigma_w": {"grid": pj.Grid(temperature=[2**-5, 1.0, 64.0], sigma_w=[256.0, 1.0, 0.25], seeds=3)},
    "grid.momentum": {"grid": pj.Grid(temperature=[2**-5, 1.0, 64.0], sigma_w=[256.0, 1.0, 0.125], seeds=3, momentum=0.1)},
    "grid.seeds": {"grid": pj.Grid(temperature=[2**-5, 1.0, 64.0], sigma_w=[256.0, 1.0, 0.125], seeds=4)},
    "grid.first_seed": {"grid": pj.Grid(temperature=[2**-5, 1.0, 64.0], sigma_w=[256.0, 1.0, 0.125], seeds=3, first_seed=1)},
    "grid.replicas": {"grid": pj.Grid(temperature=[2**-5, 1.0, 64.0], sigma_w=[256.0, 1.0, 0.125], seeds=3, replicas=3)},
    "schedule.steps": {"schedule": pj.Schedule(50)},
    "schedule.records_per_decade": {"schedule": pj.Schedule(60, 3)},
    "schedule.rate": {"schedule": pj.Schedule(60, rate=[(0, 1), (1, 0.1)])},
    "schedule.weights": {"schedule": pj.Schedule(60, weights="ends")},
    "observe": {"observe": ("test_loss", "weights")},
    "precision": {"precision": "float64"},
}


@pytest.fixture(scope="module")
def before():
    return pj.simulate(small(observe=FEW))


QUICK = ("network.activation", "grid.sigma_w", "schedule.weights", "observe")


@pytest.mark.parametrize(
    "field", [field if field in QUICK else pytest.param(field, marks=pytest.mark.long) for field in CHANGES]
)
def test_every_field_changes_the_result_after_a_run_in_the_same_process(before, field):
    changed = small(**({"observe": FEW} | CHANGES[field]))
    after = pj.simulate(changed)
    assert not before.drop_attrs().identical(after.drop_attrs())
    assert identity(changed).whole != identity(small(observe=FEW)).whole or field in ("grid.seeds", "grid.first_seed")


def test_fields_that_change_nothing_but_what_is_said():
    """The interpolation between knots where there are none, and a start at the draw said in words."""
    one, other = (
        small(observe=FEW),
        small(observe=FEW, schedule=pj.Schedule(60, interpolation="linear"), start=pj.FromDraw()),
    )
    xr.testing.assert_identical(pj.simulate(one).drop_attrs(), pj.simulate(other).drop_attrs())
