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
from phasejax.ensemble import build

GPU = SimpleNamespace(platform="gpu", compute_capability="9.0")
# Nothing here is a power of two, so nodes, features and the last block of cells are all padded.
UNEVEN = small(
    network=Network((3, 5, 3, 1)),
    task=TeacherStudent(samples=15, test_samples=1),
    sgd=Sgd(batch_size=3),
    grid=Grid(learning_rates=tuple(0.1 * k for k in range(1, 6)), sigma_w=tuple(2.0**-k for k in range(-3, 4)), seeds=3),
    precision="float64",
)


def arguments(experiment):
    """State, tasks, batches and learning rates of an experiment."""
    ensemble = build(experiment, pallas.engine(interpret=True), (), jax.devices()[:1])
    tasks = ensemble.tasks(jnp.asarray(experiment.seed_labels, jnp.int32))
    state = ensemble.init(tasks, jnp.asarray(experiment.grid.sigma_w, experiment.precision))
    rates = jnp.asarray(experiment.learning_rates, experiment.precision)
    return state, tasks, ensemble.batches(tasks, jnp.int32(0)), rates


def counts(step, first, n_steps):
    return jnp.int32(step), jnp.int32(first), jnp.int32(n_steps)


def test_padding_changes_nothing_and_leaves_the_rest_of_the_state_alone():
    with jax.enable_x64(True):
        state, *given = arguments(UNEVEN)
        weights = (state.weights[0].at[2, 4, 6].set(jnp.nan),)  # the last student of all diverges, and does so alone
        diverged = state.diverged_step.at[0, 1, 2].set(3)
        state = state._replace(weights=weights, mark=(state.weights[0] + 1,), diverged_step=diverged)
        given = (state, *given, *counts(4, 4, 40))
        reference = jax.jit(autodiff.engine(UNEVEN.network, UNEVEN.sgd, True))(*given)
        trained = jax.jit(pallas.engine(interpret=True))(*given)
    for expected, found in zip(jax.tree.leaves(reference), jax.tree.leaves(trained), strict=True):
        assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.nanmax(np.abs(expected)))
    assert np.nanmax(np.abs(np.array(trained.weights[0]) - np.array(state.weights[0]))) > 0.1
    diverged = np.array(trained.diverged_step)
    assert diverged[0, 1, 2] == 3
    assert diverged[2, 4, 6] == 4
    assert (diverged >= 0).sum() == 2


def test_a_stretch_in_two_calls_and_a_seed_alone_are_the_same_to_the_bit():
    with jax.enable_x64(True):
        state, tasks, batches, rates = arguments(UNEVEN)
        traced = []

        @jax.jit
        def advance(*args):
            traced.append(args[0].weights[0].shape)
            return pallas.engine(interpret=True)(*args)

        together = advance(state, tasks, batches, rates, *counts(0, 0, 25))
        halfway = advance(state, tasks, batches, rates, *counts(0, 0, 11))
        in_two = advance(halfway, tasks, batches, rates, *counts(11, 11, 14))
        assert len(traced) == 1, "other numbers of steps do not recompile"
        alone = [jax.tree.map(lambda a: a[1:2], part) for part in (state, tasks, batches)]
        alone = advance(*alone, rates, *counts(0, 0, 25))
    jax.tree.map(np.testing.assert_array_equal, together, in_two)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda a: a[1:2], together), alone)


@pytest.mark.parametrize(("precision", "tanh"), [("float32", "__nv_tanhf"), ("float64", "__nv_tanh")])
def test_it_lowers_to_triton_for_a_gpu_with_true_products_and_an_accurate_tanh(precision, tanh):
    """The paper's students, on whatever machine this is."""
    experiment = Experiment(precision=precision)
    # Newer versions of JAX ask which GPU a kernel is lowered for.
    h200 = AbstractMesh((1,), ("gpu",), abstract_device=AbstractDevice("NVIDIA H200", None, "gpu"))
    with jax.enable_x64(precision == "float64"):
        shapes = jax.eval_shape(lambda: (*arguments(experiment), *counts(0, 0, 0)))
        with jax.sharding.use_abstract_mesh(h200):
            text = jax.jit(pallas.engine()).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton") == 1
    assert "num_warps = 1 " in text
    operations = set(re.findall(r"[\w.$]+", text[text.index('ir = "ML') :].replace("\\00", " ")))
    assert {"extern_elementwise", "reduce", "mulf", "for", tanh} <= operations
    # A matrix product, MLIR's own functions, PTX written by hand.
    assert not {"dot", "math", "elementwise_inline_asm"} & operations


def test_auto_takes_it_on_a_gpu_where_it_applies():
    chosen = engines.choose(Experiment(), "auto", [GPU])
    assert chosen == engines.Engine("pallas", pallas.engine(), "")
    assert engines.choose(Experiment(precision="float64"), "auto", [GPU]).name == "pallas"
    newer = SimpleNamespace(platform="gpu", compute_capability="10.0")
    assert engines.choose(UNEVEN, "auto", [newer]).name == "pallas"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"network": Network((3, 128, 128, 1))}, "the 128 x 128 weights of a student are too many"),
        ({"network": Network((3, 64, 64, 1)), "precision": "float64"}, "registers in float64"),
        ({"sgd": Sgd(batch_size=20)}, "at most 16 samples"),
        ({"network": Network(activation="relu")}, "tanh nodes"),
    ],
)
def test_where_it_does_not_apply_a_sentence_says_why(parts, reason):
    experiment = small(**parts)
    with pytest.raises(ExperimentError, match=rf"engine = 'pallas'.*{reason}.*; here .*autodiff can be used"):
        engines.choose(experiment, "pallas", [GPU])
    chosen = engines.choose(experiment, "auto", [GPU])
    assert chosen.name in ("fused", "autodiff")
    assert f"Not pallas: {pallas.why_not(experiment, GPU)}." in chosen.passed_over
    assert "native" not in chosen.passed_over, "an engine for other devices was not passed over"


@pytest.mark.parametrize(("platform", "capability"), [("cpu", None), ("gpu", "7.5"), ("gpu", "gfx90a")])
def test_it_is_refused_on_other_devices(platform, capability):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    with pytest.raises(ExperimentError, match=r"engine = 'pallas'.*NVIDIA GPUs.*; here .*fused or autodiff can be used"):
        engines.choose(small(), "pallas", [device])
    assert engines.choose(small(), "auto", [device]).name != "pallas"


def test_without_pallas_in_jax_auto_says_so_and_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    chosen = engines.choose(small(), "auto", [GPU])
    assert chosen.name == "fused"
    assert "no Triton backend" in chosen.passed_over
