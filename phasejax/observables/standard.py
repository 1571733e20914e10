"""The observables of the paper (Eqs 3.2-3.6, 4.1, 4.8), with teacher overlaps, spectra and weights, for any network."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from phasejax import seed
from phasejax.kernels import linalg
from phasejax.network import Network, initial
from phasejax.observables.gradient import mean_gradient
from phasejax.observables.level_dynamics import READINGS
from phasejax.observables.observable import Observable, When
from phasejax.observables.stability import of_stability
from phasejax.observables.student import norm
from phasejax.state import Student, Task
from phasejax.tasks import loss_of, mean_loss_of


def cosine(a: Array, b: Array) -> Array:
    """Frobenius cosine of two arrays of one shape; NaN where one of them is zero."""
    return jnp.sum(a * b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()))


def eigenvalues(w: Array) -> Array:
    """Eigenvalues of X = W W^T, ascending (Eq 4.1): (n_l,), for W of shape (n_l, n_(l-1)).

    They are the squares of the singular values of W, which keeps the small ones accurate and none negative.
    """
    return linalg.singular_values(w) ** 2


# Bin centres of the feature density on [-1, 1]; an odd number, so that one bin is centred at 0.
_BINS = 41
FEATURE_BINS = tuple((2 * k + 1) / _BINS - 1 for k in range(_BINS))


def feature_density(student: Student, task: Task) -> Array:
    """Density of the features over test samples and nodes on [-1, 1] (Fig 1): (bins,); what lies outside is not counted."""
    phi = student.features.ravel()
    bins = jnp.floor((phi + 1) * (_BINS / 2)).astype(jnp.int32)
    bins = jnp.where((bins == _BINS) & (phi <= 1), _BINS - 1, bins)  # the last bin is closed, and 1 - ulp rounds up
    counts = jnp.zeros(_BINS, jnp.int32).at[jnp.where(bins < 0, _BINS, bins)].add(1, mode="drop")
    return counts.astype(phi.dtype) * (_BINS / 2 / phi.size)


def test_accuracy(student: Student, task: Task) -> Array:
    """Share of the test inputs whose largest output is that of their label."""
    right = jnp.argmax(student.outputs, axis=-1) == task.test_targets
    return jnp.mean(right.astype(student.outputs.dtype))


def alignment(readout: str, student: Student, task: Task) -> Array:
    """Cosine of the features and the field h_ja = sum_i y_ia W^(L)_ij the targets exert on them (Eqs 2.8, 3.5, 3.6).

    Labels count as one number a class, 1 for the right one.
    """
    w, targets = student.layers[readout], task.test_targets
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, len(w), dtype=w.dtype)
    return cosine(targets @ w, student.features)


def constant_loss(network: Any, loss: Callable, task: Task) -> Array:
    """Mean loss on the test inputs of the constant output that the training targets suggest: ().

    This is their mean, or of labels the logarithms of their shares.

    Args:
        network: for the number of its outputs.
        loss: mean of a batch.
        task: a seed's.
    """
    targets = task.targets
    if jnp.issubdtype(targets.dtype, jnp.integer):
        width = jax.eval_shape(network.apply, task.frozen | task.draw, task.test_features)[0].shape[-1]
        shares = jax.nn.one_hot(targets, width, dtype=task.test_features.dtype).mean(0)
        output = jnp.log(jnp.maximum(shares, 1 / len(targets)))
    else:
        output = targets.mean(0)
    return loss(jnp.tile(output, (len(task.test_features), 1)), task.test_targets)


@functools.lru_cache(maxsize=64)
def standard(network: Any, task: Any, weights: When = "decades") -> tuple[Observable, ...]:
    """All that the package can record of a network on a task; equal arguments get the very same objects.

    What there is once a trained array goes by its bare name if there is one such array, and by the name with the array's
    (`eigenvalues_2`) if there are several.

    Args:
        network: the network.
        task: the task.
        weights: when these are recorded.
    """
    loss, mean_loss = loss_of(task), mean_loss_of(task)
    readout = network.readout if isinstance(network, Network) else ""
    meaning = {"mse": "half the mean squared error", "cross_entropy": "mean cross-entropy"}.get(
        task.loss, "mean over the samples"
    )

    def full_gradient_norm(student: Student, task: Task) -> Array:
        return norm(mean_gradient(network, loss, student.weights, task.frozen, task.features, task.targets))

    general = (
        Observable("test_loss", lambda s, t: mean_loss(s.outputs, t.test_targets),
                   f"test loss, {meaning}", equation="2.6, 3.2" if task.loss == "mse" else ""),
        Observable("test_accuracy", test_accuracy, "share of the test inputs whose label is told right", needs=("labels",)),
        Observable("train_loss", lambda s, t: s.train_loss,
                   "training loss, mean over the batches of the last epoch (or all updates so far, if fewer) while W moves",
                   equation="2.6" if task.loss == "mse" else ""),
        Observable("gradient_norm", lambda s, t: s.gradient_norm,
                   "norm of the batch gradient averaged over the last epoch (or all updates so far, if fewer) while W moves",
                   equation="3.3"),
        Observable("full_gradient_norm", full_gradient_norm,
                   "norm of the gradient averaged over the training set at fixed W", equation="3.3", when="ends"),
        Observable("G_t0", lambda s, t: jnp.mean(s.features * s.initial_features),
                   "feature correlation G(t,0), mean over test samples and nodes of phi(t) phi(0)", equation="3.4",
                   needs=("hidden",)),
        Observable("G_00", lambda s, t: jnp.mean(s.initial_features**2),
                   "feature correlation G(0,0), mean square of the initial features on the test set", equation="3.4",
                   needs=("hidden",)),
        Observable("G_tt", lambda s, t: jnp.mean(s.features**2),
                   "feature correlation G(t,t), mean square of the features on the test set", equation="3.4",
                   needs=("hidden",)),
        Observable("alignment", functools.partial(alignment, readout),
                   "cosine of the features and the target field h on the test set", equation="3.5, 3.6",
                   needs=("layers", "hidden")),
        Observable("feature_overlap", lambda s, t: cosine(s.features, t.test_teacher_features),
                   "overlap Q, cosine of the features and the teacher's features on the test set",
                   needs=("teacher", "hidden")),
        Observable("feature_density", feature_density,
                   "density of the features over test samples and nodes", ("feature",), equation="2.21",
                   coordinates=(("feature", FEATURE_BINS),), when="ends", needs=("hidden",)),
        Observable("diverged_step", lambda s, t: s.diverged_step,
                   "first update with a batch loss, or record with an output, that was not finite; -1 without one"),
        Observable("constant_loss", functools.partial(constant_loss, network, mean_loss),
                   "test loss of the constant output that the training targets suggest", when="once", by_name=True),
    )  # fmt: skip
    shapes = {name: array.shape for name, array in jax.eval_shape(_drawn(network)).items()}
    trained = seed.trained_names(network, shapes)
    own = [one for name in trained for one in _of_array(name, len(shapes[name]), suffix(name, trained), weights)]
    matrices = [name for name in trained if len(shapes[name]) == 2]
    own += [one for name in matrices for one in _of_matrix(name, suffix(name, matrices))]
    if isinstance(network, Network):
        own += [one for name in matrices if shapes[name][0] > 1 for one in _of_levels(name, suffix(name, matrices))]
    return (*general, *own, *of_stability(network, loss))


def _drawn(network: Any) -> Callable[[], dict[str, Array]]:
    return lambda: initial(network, jax.random.key(0, impl="threefry2x32"), jnp.float32)


def suffix(name: str, among: Any) -> str:
    """What the variables of an array end in: an underscore and its name, or nothing where it is the only one."""
    return "_" + re.sub(r"\W", "_", name) if len(among) > 1 else ""


def _words(name: str) -> str:
    return f"W^({name})" if name.isdigit() else name


def _of_array(name: str, axes: int, suffix: str, when: When) -> tuple[Observable, ...]:
    dims = ("node", "input") if axes == 2 else tuple(f"axis_{k}" for k in range(1, axes + 1))
    return (
        Observable(f"weights{suffix}", lambda s, t: s.weights[name], f"trained weights {_words(name)}",
                   tuple(dim + suffix for dim in dims), when=when, group="weights"),
    )  # fmt: skip


def _of_matrix(name: str, suffix: str) -> tuple[Observable, ...]:
    level, w = f"level{suffix}", _words(name)
    return (
        Observable(f"eigenvalues{suffix}", lambda s, t: s.eigenvalues[name],
                   f"eigenvalues of W W^T, W = {w}, ascending", (level,), equation="4.1", group="eigenvalues"),
        Observable(f"target_eigenvalues{suffix}", lambda t: eigenvalues(t.teacher[name]),
                   f"eigenvalues of W W^T of the teacher, W = {w}, ascending", (level,), equation="4.1", when="once",
                   needs=("teacher",), group="target_eigenvalues"),
        Observable(f"teacher_overlap{suffix}", lambda s, t: cosine(s.weights[name], t.teacher[name]),
                   f"overlap R with the teacher, Frobenius cosine of their {w}", needs=("teacher",),
                   group="teacher_overlap"),
    )  # fmt: skip


def _of_levels(name: str, suffix: str) -> tuple[Observable, ...]:
    """Coefficients of the equation for the mean level spacing; a single level has no spacing."""
    about = f"of the mean level spacing of W W^T, W = {_words(name)}, on the test inputs, in four readings"
    meanings = {
        "K_S": (f"drift {about}", "4.8, B.9"),
        "V_S": (f"Coulomb repulsion {about}", "4.8, B.7"),
        "D_S": (f"diffusion {about}", "4.8, B.9"),
        "restoring": (
            f"restoring drift {about}, which the criterion compares with T (n_2-1)/(4 sqrt(r) sigma_W^2) V_S",
            "4.15",
        ),
    }

    def coefficient(which: str) -> Callable[[Student, Task], Array]:
        return lambda s, t: getattr(s.dynamics[name], which)

    return tuple(
        Observable(which + suffix, coefficient(which), meaning, ("reading",), equation=equation,
                   coordinates=(("reading", READINGS),), needs=("level_dynamics",), group=which)
        for which, (meaning, equation) in meanings.items()
    )  # fmt: skip
