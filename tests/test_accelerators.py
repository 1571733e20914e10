"""What GPUs and TPUs are given, without one: lowered for them, and compiled here for what it takes of memory."""

import dataclasses
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small
from jax import export

from phasejax import Digits, Experiment, Grid, Network, Sgd, TeacherStudent, engines, ensemble, observables
from phasejax.memory import held
from phasejax.observables.standard import standard
from phasejax.schedule import Stop
from phasejax.training import Training, settings_of

DESK = Experiment.preset("desk")
TEN_OUTPUTS = dataclasses.replace(
    DESK,
    network=Network((64, 32, 10), "relu"),
    task=Digits(),
    sgd=Sgd("adam", batch_size=16),
    grid=Grid(learning_rate=(0.1, 0.01), sigma_w=(1.0, 0.5), seeds=4),
)
WIDE = dataclasses.replace(
    DESK, network=Network((10, 64, 64, 1), trainable=(1, 2, 3)), task=TeacherStudent(samples=4000, test_samples=128)
)
DEVICES = {
    "cuda": SimpleNamespace(platform="gpu", compute_capability="9.0"),
    "tpu": SimpleNamespace(platform="tpu"),
}


LOOKED_AT = ("test_loss", "eigenvalues", "G_t0", "full_gradient_norm", "weights", "target_eigenvalues")


def compiled_functions(experiment: Experiment, engine: str, platform: str) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """By name: the functions for a platform, with abstract arguments."""
    chosen = observables.choose(experiment, standard(experiment.network, experiment.task, experiment.schedule.weights))
    advance = engines.BUILT_IN[engine].advance(experiment, [DEVICES[platform]])
    place = ensemble.Place(tuple(jax.devices()[:1]), platform)
    made = ensemble.build(experiment, advance, chosen.observables, place)
    for name, arguments in made.shapes(experiment).items():
        kind, _, when = name.partition(" ")
        yield name, made.observe[when] if when else getattr(made, kind), arguments


def applying(experiment, platform):
    """Names of the engines that apply on a platform."""
    return [name for name, one in engines.BUILT_IN.items() if one.why_not(experiment, [DEVICES[platform]]) is None]


# What programs may call there by name: Triton's kernels, which XLA compiles.
CALLS = {"cuda": {"__gpu$xla.gpu.triton"}, "tpu": set()}


@pytest.mark.parametrize(
    ("experiment", "platform"),
    [
        pytest.param(DESK, "cuda", id="desk-cuda", marks=pytest.mark.long),
        pytest.param(DESK, "tpu", id="desk-tpu", marks=pytest.mark.long),
        pytest.param(TEN_OUTPUTS, "cuda", id="ten outputs-cuda", marks=pytest.mark.long),
        pytest.param(TEN_OUTPUTS, "tpu", id="ten outputs-tpu", marks=pytest.mark.long),
    ],
)
def test_every_function_lowers_and_calls_nothing_the_device_lacks(experiment, platform):
    names = applying(experiment, platform)
    assert names == {
        (True, "cuda"): ["pallas", "autodiff"],
        (True, "tpu"): ["autodiff"],
    }.get((experiment is DESK, platform), ["autodiff"])
    looked_at = set()
    with settings_of(experiment):
        for engine in names:
            for name, function, arguments in compiled_functions(experiment, engine, platform):
                if engine != names[-1] and name != "advance":
                    continue  # the same, whatever trains
                text = lowered(function, arguments, platform)
                looked_at.add(name)
                assert set(re.findall(r"custom_call @([\w.$]+)", text)) <= CALLS[platform], name
                assert "callback" not in text, name
                assert "f64" not in re.sub(r'".*?"', "", text), name
    assert {"seeds", "init", "batches", "advance", "mark", "observe records", "observe decades", "observe ends"} <= looked_at


def lowered(function, arguments, platform):
    """The text of a function for a platform, which JAX promises to be what is compiled there."""
    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in CALLS[platform]]
    return export.export(function, platforms=(platform,), disabled_checks=allowed)(*arguments).mlir_module()


def temporaries(experiment, occasions, monkeypatch):
    """Bytes that looking takes in passing, by occasion: of the programs for a GPU, compiled here and not run."""
    # Which part is for which device is decided when a program is lowered, here for a CPU.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays))
    with settings_of(experiment):
        functions = {
            name: (function, arguments) for name, function, arguments in compiled_functions(experiment, "autodiff", "cuda")
        }
        found = {}
        for when in occasions:
            observe, arguments = functions[f"observe {when}"]
            found[when] = observe.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    return found


@pytest.mark.parametrize(
    ("experiment", "occasions"),
    [
        pytest.param(DESK, ("ends",), id="desk"),
        pytest.param(WIDE, ("ends",), id="10-64-64-1", marks=pytest.mark.long),
        pytest.param(DESK, ("records", "decades"), id="desk, often", marks=pytest.mark.long),
        pytest.param(WIDE, ("records", "decades"), id="10-64-64-1, often", marks=pytest.mark.long),
    ],
)
def test_looking_at_all_students_takes_less_than_a_gigabyte(experiment, occasions, monkeypatch):
    """All 14,400 side by side would take 7.6 GB at desk and 59 GB at 10-64-64-1."""
    assert max(temporaries(experiment, occasions, monkeypatch).values()) < 1e9


@pytest.mark.long
def test_groups_change_no_record(monkeypatch):
    """Some seeds together, and some students of each, the last groups filled up: the same numbers as side by side."""
    experiment = small(
        precision="float64", observe=LOOKED_AT, grid=Grid(temperature=(0.1, 1.0), sigma_w=(1.0, 0.5, 2.0), seeds=5)
    )
    monkeypatch.setattr(ensemble.Place, "on_cpu", property(lambda place: False))
    found = []
    with settings_of(experiment):
        chosen = observables.choose(experiment, standard(experiment.network, experiment.task, "decades")).observables
        advance = engines.BUILT_IN["autodiff"].advance(experiment, [DEVICES["cuda"]])
        for take in ((5, 6), (2, 4)):
            monkeypatch.setattr(ensemble, "_together", lambda *_, take=take: take)
            training = Training(experiment, advance, chosen, jax.devices()[:1], programs=f"groups {take}")
            training.train_to(10)
            found.append(training.observe(Stop(10, record=True, decade=True, end=True)))
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_allclose(other[name], array, rtol=1e-9, atol=1e-9 * np.nanmax(np.abs(array)), err_msg=name)


@pytest.mark.long
def test_a_call_spans_blocks_and_a_run_in_many_calls_is_the_same(monkeypatch):
    """Blocks of 1000 steps; in the midst of one, across two ends of blocks, and on."""
    experiment = small(precision="float64", grid=Grid(temperature=0.05, sigma_w=(1.0, 0.5), seeds=2))
    found = {}
    with settings_of(experiment):
        for on_cpu, calls in ((True, (1000, 1000, 1000, 30)), (False, (3030,)), (False, (700, 2000, 330))):
            monkeypatch.setattr(ensemble.Place, "on_cpu", property(lambda place, on_cpu=on_cpu: on_cpu))
            advance = engines.BUILT_IN["autodiff"].advance(experiment, [DEVICES["cuda"]])
            training = Training(experiment, advance, (), jax.devices()[:1], programs=f"spans {on_cpu}")
            done = [training.call(steps) for steps in calls]
            assert sum(done) == 3030
            assert done == list(calls)
            found[on_cpu, calls] = np.array(training.state.weights["2"])
    first, *others = found.values()
    assert np.abs(first).max() > 0
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-9 * np.abs(first).max())


def test_what_a_program_holds_is_counted_while_it_is_needed():
    def program(x):
        a = x + 1  # 400 bytes each
        b = a * 2  # with a
        c = b - 1  # with b, when a is gone
        return jax.lax.map(lambda row: jnp.outer(row, row).sum(), c.reshape(10, 10))

    traced = jax.make_jaxpr(program)(jax.ShapeDtypeStruct((100,), "float32"))
    assert 800 <= held(traced.jaxpr) <= 400 + 400 + 40 + 2 * 400 + 10 * 4
    assert held(jax.make_jaxpr(lambda x: x + 1)(jax.ShapeDtypeStruct((100,), "float32")).jaxpr) == 400
