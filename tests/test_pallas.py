"""The GPU kernel where there is no GPU: interpreted, and lowered for one; `test_engines.py` has it beside the others."""

import re
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small
from jax.sharding import AbstractDevice, AbstractMesh

from phasejax import Experiment, ExperimentError, Grid, Network, Sgd, TeacherStudent, engines
from phasejax.engines import autodiff, pallas
from phasejax.ensemble import Place, build
from phasejax.state import Clock
from phasejax.training import Training

GPU = SimpleNamespace(platform="gpu", compute_capability="9.0")
# Nothing here is a power of two, so nodes, features and the last block of cells are all padded.
UNEVEN = small(
    network=Network((3, 5, 3, 1), trainable=(2,)),
    task=TeacherStudent(samples=15, test_samples=1),
    sgd=Sgd(batch_size=3),
    grid=Grid(learning_rate=tuple(0.1 * k for k in range(1, 6)), sigma_w=tuple(2.0**-k for k in range(-3, 4)), seeds=3),
    precision="float64",
)


def arguments(experiment):
    """What the engine's function takes, up to the clock, at the start of an experiment."""
    training = Training(experiment, interpreted(experiment), (), jax.devices()[:1])
    return training.state, training.tasks, training.batches(), training.cells


def interpreted(experiment):
    return pallas.advance(experiment, interpret=True)


def clock(step, first, steps):
    return Clock(jnp.int32(step), jnp.int32(first), jnp.int32(steps))


def test_padding_changes_nothing_and_leaves_the_rest_of_the_state_alone():
    with jax.enable_x64(True):
        state, *given = arguments(UNEVEN)
        w = state.weights["2"]
        weights = {"2": w.at[2, -1].set(jnp.nan)}  # the last student of all diverges, and does so alone
        diverged = state.diverged_step.at[0, 9].set(3)
        state = state._replace(weights=weights, mark={"2": w + 1}, diverged_step=diverged)
        given = (state, *given, clock(4, 4, 40))
        reference = jax.jit(autodiff.advance(UNEVEN, jax.devices()))(*given)
        trained = jax.jit(interpreted(UNEVEN))(*given)
    for expected, found in zip(jax.tree.leaves(reference), jax.tree.leaves(trained), strict=True):
        assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.nanmax(np.abs(expected)))
    assert np.nanmax(np.abs(np.array(trained.weights["2"]) - np.array(w))) > 0.1
    diverged = np.array(trained.diverged_step)
    assert diverged[0, 9] == 3
    assert diverged[2, -1] == 4
    assert (diverged >= 0).sum() == 2


def test_a_stretch_in_two_calls_and_a_seed_alone_are_the_same_to_the_bit():
    with jax.enable_x64(True):
        state, tasks, batches, cells = arguments(UNEVEN)
        traced = []

        @jax.jit
        def advance(*args):
            traced.append(args[0].loss_sum.shape)
            return interpreted(UNEVEN)(*args)

        together = advance(state, tasks, batches, cells, clock(0, 0, 25))
        halfway = advance(state, tasks, batches, cells, clock(0, 0, 11))
        in_two = advance(halfway, tasks, batches, cells, clock(11, 11, 14))
        assert len(traced) == 1, "other numbers of steps do not recompile"
        alone = [jax.tree.map(lambda a: a[1:2], part) for part in (state, tasks, batches)]
        alone = advance(*alone, cells, clock(0, 0, 25))
    jax.tree.map(np.testing.assert_array_equal, together, in_two)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda a: a[1:2], together), alone)


@pytest.mark.parametrize(("precision", "tanh"), [("float32", "__nv_tanhf"), ("float64", "__nv_tanh")])
def test_it_lowers_to_triton_for_a_gpu_with_true_products_and_an_accurate_tanh(precision, tanh):
    """The paper's students, on whatever machine this is."""
    experiment = Experiment(precision=precision)
    # Newer versions of JAX ask which GPU a kernel is lowered for.
    h200 = AbstractMesh((1,), ("gpu",), abstract_device=AbstractDevice("NVIDIA H200", None, "gpu"))
    with jax.enable_x64(precision == "float64"):
        advance = pallas.advance(experiment)
        shapes = build(experiment, advance, (), Place(tuple(jax.devices()[:1]))).shapes(experiment)["advance"]
        with jax.sharding.use_abstract_mesh(h200):
            text = jax.jit(advance).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton") == 1
    assert "num_warps = 1 " in text
    operations = set(re.findall(r"[\w.$]+", text[text.index('ir = "ML') :].replace("\\00", " ")))
    assert {"extern_elementwise", "reduce", "mulf", "for", tanh} <= operations
    # A matrix product, MLIR's own functions, PTX written by hand.
    assert not {"dot", "math", "elementwise_inline_asm"} & operations


def test_auto_takes_it_on_a_gpu_where_it_applies():
    assert engines.choose(Experiment(), "auto", [GPU]) == engines.Choice(pallas, "")
    assert engines.choose(Experiment(precision="float64"), "auto", [GPU]).engine is pallas
    newer = SimpleNamespace(platform="gpu", compute_capability="10.0")
    assert engines.choose(UNEVEN, "auto", [newer]).engine is pallas


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"network": Network((3, 128, 128, 1), trainable=(2,))}, "the 128 x 128 weights of a student are too many"),
        ({"network": Network((3, 64, 64, 1), trainable=(2,)), "precision": "float64"}, "registers in float64"),
        ({"sgd": Sgd(batch_size=20)}, "at most 16 samples"),
        ({"network": Network(activation="relu", trainable=(2,))}, "tanh nodes"),
    ],
)
def test_where_it_does_not_apply_a_sentence_says_why(parts, reason):
    experiment = small(**parts)
    with pytest.raises(ExperimentError, match=rf"engine = 'pallas'.*{reason}.*; here .*autodiff can be used"):
        engines.choose(experiment, "pallas", [GPU])
    chosen = engines.choose(experiment, "auto", [GPU])
    assert chosen.engine is engines.autodiff
    assert f"Not pallas: {pallas.why_not(experiment, [GPU])}." in chosen.passed_over
    assert "native" not in chosen.passed_over, "an engine for other devices was not passed over"


@pytest.mark.parametrize(("platform", "capability"), [("cpu", None), ("gpu", "7.5"), ("gpu", "gfx90a")])
def test_it_is_refused_on_other_devices(platform, capability):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    with pytest.raises(ExperimentError, match=r"engine = 'pallas'.*NVIDIA GPUs.*; here .*autodiff can be used"):
        engines.choose(small(), "pallas", [device])
    assert engines.choose(small(), "auto", [device]).engine is not pallas


def test_without_pallas_in_jax_auto_says_so_and_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    chosen = engines.choose(small(), "auto", [GPU])
    assert chosen.engine.name == "autodiff"
    assert "no Triton backend" in chosen.passed_over
