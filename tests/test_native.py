"""The kernel of any network = the reference, one step at a time: activations, losses, rules, layers, batches, precisions."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engines import Bench, with_an_infinite_rate

from phasejax import Arrays, Grid, Network, Schedule, Sgd, TeacherStudent, engines
from phasejax.engines import native
from phasejax.kernels import build
from phasejax.network import ACTIVATIONS

TAME = Grid(learning_rate=(0.01, 0.05, 0.02), sigma_w=(0.5, 0.8), seeds=3)
ANNEALED = Schedule(60, rate=[(0, 1), (1, 0.1)])


def classes(inputs, outputs, samples=80, labels=True):
    """Data that all seeds share."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, inputs))
    y = rng.integers(0, outputs, samples) if labels else rng.normal(size=(samples, outputs))
    return Arrays(x, y, x[:8], y[:8])


LAYERS_BETWEEN = small(
    network=Network((3, 9, 6, 5, 2), ("gelu", "sin", "sigmoid"), (2, 4)), sgd=Sgd(batch_size=5), schedule=ANNEALED,
    grid=Grid(learning_rate=(0.01, 0.05, 0.02), sigma_w=0.7, momentum=0.9, weight_decay=(0.01, 0.1), seeds=3),
)  # fmt: skip
LABELS = small(
    network=Network((6, 9, 8, 4), ("erf", "relu"), (2, 3)), task=classes(6, 4, 85), sgd=Sgd("adam", 17, "shuffled"),
    grid=Grid(learning_rate=(0.01, 0.05, 0.02), sigma_w=0.7, b1=(0.5, 0.9), seeds=3),
)  # fmt: skip
EVERY_LAYER = small(network=Network((3, 9, 6, 2)), grid=TAME)


def worst_step(experiment, steps=(0, 1, 7)):
    """The largest difference from the reference after one step, relative to the largest weight of the array."""
    apart = 0.0
    with jax.enable_x64(experiment.precision == "float64"):
        ours, reference = Bench(experiment, "native"), Bench(experiment, "autodiff")
        for before in steps:
            ours.advance(before)
            reference._now = jax.tree.map(jnp.copy, ours.state), ours.step
            states = [jax.tree.map(np.array, bench.advance(1).state) for bench in (ours, reference)]
            assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
            for a, b in zip(*map(jax.tree.leaves, states), strict=True):
                assert a.dtype == b.dtype
                if a.dtype.kind == "i":
                    assert (a == b).all()
                else:
                    scale = np.abs(b).max(tuple(range(2, b.ndim)), keepdims=True)
                    apart = max(apart, float((np.abs(a - b) / np.where(scale > 0, scale, 1)).max()))
    return apart / np.finfo(experiment.precision).eps


@pytest.mark.parametrize("precision", ["float32", pytest.param("float64", marks=pytest.mark.long)])
@pytest.mark.parametrize("experiment", [LAYERS_BETWEEN, LABELS, EVERY_LAYER], ids=["between", "labels", "every layer"])
def test_a_step_is_the_references(experiment, precision):
    assert worst_step(dataclasses.replace(experiment, precision=precision)) < 60


@pytest.mark.long
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 8, 9, 16, 17])
@pytest.mark.parametrize("kind", ["plain", "annealed", "decay", "momentum", "adam"])
def test_batches_and_rules(kind, batch):
    more = {"decay": {"weight_decay": 0.1}, "momentum": {"momentum": (0.0, 0.9)}, "adam": {"b2": (0.9, 0.99), "eps": 1e-4}}
    experiment = small(
        network=Network((4, 10, 6, 3), ("tanh", "relu")), task=classes(4, 3, 1224, labels=batch % 2 == 1),
        sgd=Sgd("adam" if kind == "adam" else "sgd", batch, "iid"), precision="float64",
        schedule=ANNEALED if kind == "annealed" else Schedule(60),
        grid=Grid(learning_rate=(0.01, 0.05), sigma_w=(0.5, 0.8), seeds=3, **more.get(kind, {})),
    )  # fmt: skip
    assert worst_step(experiment) < 100


@pytest.mark.long
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("trainable", [(1,), (2,), (3,), (1, 3), (2, 3), ()])
def test_activations_and_layers(activation, trainable):
    for precision in ("float32", "float64"):
        network = Network((3, 7, 5, 1), activation, trainable)
        assert worst_step(small(network=network, grid=TAME, precision=precision)) < 60


@st.composite
def experiments(draw):
    depth = draw(st.integers(1, 4))
    widths = (draw(st.integers(1, 12)), *(draw(st.integers(1, 20)) for _ in range(depth - 1)), draw(st.integers(1, 12)))
    layers = range(1, depth + 1)
    trainable = draw(st.sets(st.sampled_from(layers), min_size=1))
    activations = tuple(draw(st.sampled_from(ACTIVATIONS)) for _ in range(depth - 1))
    labels = widths[-1] > 1 and draw(st.booleans())
    task = TeacherStudent(samples=80, test_samples=4)
    if labels or draw(st.booleans()):
        task = classes(widths[0], widths[-1], labels=labels)
    optimizer = draw(st.sampled_from(("sgd", "adam")))
    numbers = {}
    if optimizer == "sgd":
        numbers = dict.fromkeys(draw(st.sets(st.sampled_from(("momentum", "weight_decay")))), 0.1)
    rates = tuple(0.01 * k for k in range(1, 1 + draw(st.integers(1, 20))))
    return small(
        network=Network(widths, activations, tuple(trainable)), task=task,
        sgd=Sgd(optimizer, draw(st.integers(1, 17)), "iid"), precision=draw(st.sampled_from(("float32", "float64"))),
        grid=Grid(learning_rate=rates, sigma_w=0.7, seeds=draw(st.integers(1, 5)), **numbers),
        schedule=draw(st.sampled_from((Schedule(60), ANNEALED))),
    )  # fmt: skip


@pytest.mark.long
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(experiments())
def test_any_network_is_trained_as_the_reference_does(experiment):
    assert worst_step(experiment) < 1000


def bits(bench):
    return [np.array(leaf) for leaf in jax.tree.leaves(bench.state)]


@pytest.mark.parametrize("experiment", [LAYERS_BETWEEN, LABELS, EVERY_LAYER], ids=["between", "labels", "every layer"])
def test_neighbours_cuts_and_numbers_of_seeds_change_no_bit(experiment):
    """Six cells fill no vector: those of several seeds share one, some of which overflow at once."""

    def trained(seeds, first, cuts):
        grid = dataclasses.replace(experiment.grid, seeds=seeds, first_seed=first)
        bench = with_an_infinite_rate(dataclasses.replace(experiment, grid=grid), "native", cells=2)
        for steps in cuts:
            bench.advance(steps)
        return bits(bench)

    together = trained(11, 0, (30,))
    for label in (0, 4, 10):
        for whole, alone in zip(together, trained(1, label, (1, 9, 0, 20)), strict=True):
            np.testing.assert_array_equal(whole[label], alone[0])


def test_what_overflows_is_dated_and_alone():
    bench = with_an_infinite_rate(EVERY_LAYER, "native", cells=2).advance(25)
    diverged = np.array(bench.state.diverged_step)[:3]
    assert (diverged[:, :2] == 1).all()
    assert (diverged[:, 2:] == -1).all()
    assert all(np.isfinite(np.array(w)[:3, 2:]).all() for w in bench.state.weights.values())


def test_a_number_of_a_cell_builds_nothing():
    other = Grid(learning_rate=(0.3, 0.1, 0.02), sigma_w=2.0, momentum=0.5, weight_decay=(0.2, 0.1), seeds=7)
    with build.by_name():
        assert native._target(LAYERS_BETWEEN) == native._target(dataclasses.replace(LAYERS_BETWEEN, grid=other))
        without = dataclasses.replace(LAYERS_BETWEEN, grid=dataclasses.replace(TAME, sigma_w=2.0))
        assert native._target(without) != native._target(LAYERS_BETWEEN), "a term that is nowhere is left out"


@dataclasses.dataclass(frozen=True)
class Own:
    inputs: int = 3

    def init(self, key):
        return {"w": jax.random.normal(key, (1, 3))}

    def apply(self, weights, x):
        return x @ weights["w"].T, x


@pytest.mark.parametrize(("parts", "words"), [
    ({"network": Own()}, "the network, test_native:Own, is Python of your own"),
    ({"network": Network((3, 4, 1), jnp.arctan)}, "the activation .*arctan is Python of your own"),
    ({"task": TeacherStudent(samples=80, loss=lambda a, b: abs(a - b)[:, 0])}, "the loss .*lambda.* is Python of your own"),
    ({"sgd": Sgd(lambda learning_rate: None), "grid": TAME}, "the optimizer .*lambda.* is Python of your own"),
])  # fmt: skip
def test_what_is_the_users_own_python_is_left_to_the_reference(parts, words):
    chosen = engines.choose(small(**parts), "auto", jax.devices())
    assert chosen.engine is engines.autodiff
    assert re.search(f"Not native: {words}", chosen.passed_over)
