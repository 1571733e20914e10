"""What is measured: pure functions of one student and its task, evaluated inside the compiled graph (Eqs 3.2-3.6, 4.1)."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import Array

from phasejax.experiment import Network, refuse
from phasejax.files.schema import RESERVED
from phasejax.kernels.linalg import left_singular
from phasejax.level_dynamics import READINGS, LevelDynamics, level_dynamics
from phasejax.network import loss
from phasejax.samples import mean_gradient, on_samples
from phasejax.task import Task, start

if TYPE_CHECKING:
    from phasejax.ensemble import State

When = Literal["records", "decades", "ends", "once"]


@dataclass(frozen=True)
class Observable:
    """One variable of the file: a function and what must be known to store and read it.

    `function` takes a `Student` and its `Task` and returns an array; it is vmapped over the ensemble. With
    `when="once"` it takes the task alone, and is evaluated once a seed.
    """

    name: str
    """The variable's name."""
    function: Callable[..., Array]
    """(student, task) -> array with an axis for each of `dims`, or task -> array for `when="once"`."""
    long_name: str
    """What it is, in words."""
    dims: tuple[str, ...] = ()
    """Names of the array's axes; equal names must have equal sizes throughout a file."""
    units: str = "1"
    """Units; everything in the paper is dimensionless."""
    equation: str = ""
    """The equation of the paper it implements, if any."""
    coordinates: tuple[tuple[str, tuple[str, ...] | tuple[float, ...]], ...] = ()
    """Names or values along the axes that have them, (axis, values) each; other axes count from 1."""
    when: When = "records"
    """At every record, at whole decades of steps and the ends, at the two ends only, or once."""

    def check(self, found: Any, leading: int) -> None:
        """Compare with the shape and dtype it gives, behind so many axes of the ensemble.

        Raises:
            ExperimentError: they do not fit.
        """
        shape = getattr(found, "shape", None)
        if shape is None or len(shape) != leading + len(self.dims):
            given = "no array" if shape is None else f"an array of {len(shape) - leading} axes"
            raise refuse("observe", self.name, f"its function gives {given}, and its dims are {list(self.dims)}")
        if found.dtype.name not in ("float32", "float64", "int32", "int64"):
            raise refuse("observe", self.name, f"its values are {found.dtype.name}; float32, float64 or int32 is needed")


class Student(NamedTuple):
    """What an observable sees of one student at one step. A is the number of test samples."""

    layers: tuple[Array, ...]
    """Its weights from the first trained layer on, (n_l, n_(l-1)) each; frozen ones among them are the teacher's."""
    trained: tuple[Array, ...]
    """Its trained layers only."""
    features: Array
    """phi(t) on the test inputs, (A, n_(L-1)) (Eq 2.5)."""
    initial_features: Array
    """phi(0) on the test inputs, (A, n_(L-1))."""
    outputs: Array
    """On the test inputs, (A, n_L)."""
    train_loss: Array
    """Mean batch loss over the window, each before its update; NaN where no window was open, at step 0 for one."""
    gradient_norm: Array
    """Norm of the mean batch gradient over the window, while W moves; NaN likewise."""
    diverged_step: Array
    """int32, -1 if it never diverged."""
    eigenvalues: tuple[Array, ...]
    """Of X = W W^T, ascending, (n_l,), one a trained layer."""
    dynamics: tuple[LevelDynamics | None, ...]
    """Drift and noise of the level spacing on the test inputs, one a trained layer; None for a layer of a single node."""
    learning_rate: Array
    sigma_w: Array
    step: Array


def student_layers(network: Network, task: Task, trained: Sequence[Array]) -> tuple[Array, ...]:
    """Weights from the first trained layer on: the student's where trained, else the teacher's."""
    own = dict(zip(network.trainable, trained, strict=True))
    return tuple(own.get(layer, task.teacher[layer - 1]) for layer in range(min(own), len(task.teacher) + 1))


def initial_features(network: Network, task: Task, sigma_w: Array) -> Array:
    """phi(0) on the test inputs, (A, n_(L-1)), of every student that starts at this sigma_W."""
    layers = student_layers(network, task, start(network, task, sigma_w))
    return on_samples(network, layers, task.test_features, task.test_targets).entering[-1].T


def view(network: Network, state: "State", initial: Array, task: Task, learning_rate: Array, sigma_w: Array, step: Array,
         window: Array) -> Student:  # fmt: skip
    """One student as observables see it, from its slice of the State and its initial features.

    `window` is the number of updates since the mark.
    """

    def dynamics(layer: int, basis: Array) -> LevelDynamics | None:
        position = layer - network.trainable[0]
        return level_dynamics(basis, now.u[position], now.g[position]) if len(basis) > 1 else None

    layers = student_layers(network, task, state.weights)
    now = on_samples(network, layers, task.test_features, task.test_targets)
    values, bases = zip(*map(left_singular, state.weights), strict=True)
    # Multiplied by, not divided by: whether XLA turns a division into this depends on how many seeds there are.
    per_update = 1 / jnp.where(window > 0, window, jnp.nan).astype(learning_rate.dtype)
    per_rate = 1 / learning_rate
    # Plain SGD moves W by the learning rate times the gradients' sum, so their mean need not be added up on the way.
    displacement = tuple((mark - w) * per_rate for mark, w in zip(state.mark, state.weights, strict=True))
    outputs = now.u[-1].T
    # A student may end the last update with weights that no batch has seen yet.
    finite = jnp.stack([jnp.isfinite(part).all() for part in (*state.weights, outputs)]).all()
    return Student(
        layers=layers,
        trained=state.weights,
        features=now.entering[-1].T,
        initial_features=initial,
        outputs=outputs,
        train_loss=state.loss_sum * per_update,
        gradient_norm=frobenius(state.gradient_sum or displacement) * per_update,
        diverged_step=jnp.where((state.diverged_step < 0) & ~finite, step, state.diverged_step),
        eigenvalues=tuple(value**2 for value in values),
        dynamics=tuple(map(dynamics, network.trainable, bases)),
        learning_rate=learning_rate,
        sigma_w=sigma_w,
        step=step,
    )


def frobenius(matrices: Sequence[Array]) -> Array:
    """Norm of all the entries of several matrices."""
    return jnp.sqrt(sum(jnp.sum(m**2) for m in matrices))


def cosine(a: Array, b: Array) -> Array:
    """Frobenius cosine of two arrays of one shape; NaN where one of them is zero."""
    return jnp.sum(a * b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()))


def alignment(student: Student, task: Task) -> Array:
    """Cosine of the features and the field h_ja = sum_i y_ia W^(L)_ij the targets exert on them (Eqs 2.8, 3.5, 3.6)."""
    return cosine(task.test_targets @ student.layers[-1], student.features)


def eigenvalues(w: Array) -> Array:
    """Eigenvalues of X = W W^T, ascending (Eq 4.1): (n_l,), for W of shape (n_l, n_(l-1)).

    They are the squares of the singular values of W, which keeps the small ones accurate and none negative.
    """
    return left_singular(w)[0] ** 2


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


def full_gradient_norm(network: Network, student: Student, task: Task) -> Array:
    """Norm of the mean gradient over the whole training set at fixed W (Eq 3.3)."""
    return frobenius(mean_gradient(network, student.layers, task.features, task.targets))


@functools.cache
def standard(network: Network) -> tuple[Observable, ...]:
    """The observables of the paper, with teacher overlaps and weights, for a network of any shape.

    What exists once a trained layer goes by its bare name if there is one such layer, and by the name with the layer's
    number (`eigenvalues_2`) if there are several. Equal networks get the very same objects.
    """
    general = (
        Observable("test_loss", lambda s, t: loss(s.outputs, t.test_targets),
                   "test loss, half the mean squared error", equation="2.6, 3.2"),
        Observable("train_loss", lambda s, t: s.train_loss,
                   "training loss, mean over the batches of the last epoch (or all updates so far, if fewer) while W moves",
                   equation="2.6"),
        Observable("gradient_norm", lambda s, t: s.gradient_norm,
                   "norm of the batch gradient averaged over the last epoch (or all updates so far, if fewer) while W moves",
                   equation="3.3"),
        Observable("full_gradient_norm", functools.partial(full_gradient_norm, network),
                   "norm of the gradient averaged over the training set at fixed W", equation="3.3", when="ends"),
        Observable("G_t0", lambda s, t: jnp.mean(s.features * s.initial_features),
                   "feature correlation G(t,0), mean over test samples and nodes of phi(t) phi(0)", equation="3.4"),
        Observable("G_00", lambda s, t: jnp.mean(s.initial_features**2),
                   "feature correlation G(0,0), mean square of the initial features on the test set", equation="3.4"),
        Observable("G_tt", lambda s, t: jnp.mean(s.features**2),
                   "feature correlation G(t,t), mean square of the features on the test set", equation="3.4"),
        Observable("alignment", alignment,
                   "cosine of the features and the target field h on the test set", equation="3.5, 3.6"),
        Observable("feature_overlap", lambda s, t: cosine(s.features, t.test_teacher_features),
                   "overlap Q, cosine of the features and the teacher's features on the test set"),
        Observable("feature_density", feature_density,
                   "density of the features over test samples and nodes", ("feature",), equation="2.21",
                   coordinates=(("feature", FEATURE_BINS),), when="ends"),
        Observable("diverged_step", lambda s, t: s.diverged_step,
                   "first update with a batch loss, or record with an output, that was not finite; -1 without one"),
    )  # fmt: skip
    several = len(network.trainable) > 1
    own = [_of_layer(k, layer, f"_{layer}" if several else "") for k, layer in enumerate(network.trainable)]
    own += [_level_dynamics(k, layer, f"_{layer}" if several else "") for k, layer in enumerate(network.trainable)
            if network.widths[layer] > 1]  # fmt: skip
    return sum(own, general)


def combine(standard: Sequence[Observable], own: Sequence[Observable]) -> tuple[Observable, ...]:
    """Standard observables and a user's own in one list.

    Raises:
        ExperimentError: a name, an axis or an occasion cannot be.
    """
    taken = [o.name for o in standard]
    axes = {dim for o in standard for dim in o.dims}
    for observable in own:
        name = observable.name
        if name in taken or name in RESERVED | axes or not name.isidentifier():
            raise refuse("observe", name, "an observable needs a name of its own, a Python identifier")
        if observable.when not in get_args(When):
            raise refuse("observe", name, f"its `when` is {observable.when!r}; choose from {', '.join(get_args(When))}")
        bad = [d for d in observable.dims if d in RESERVED or d in taken or not d.isidentifier()]
        if bad or len(set(observable.dims)) < len(observable.dims):
            raise refuse("observe", name, f"its dims {list(observable.dims)} must be different identifiers, not taken")
        taken.append(name)
    return (*standard, *own)


def _of_layer(k: int, layer: int, suffix: str) -> tuple[Observable, ...]:
    level, w = f"level{suffix}", f"W^({layer})"
    return (
        Observable(f"eigenvalues{suffix}", lambda s, t: s.eigenvalues[k],
                   f"eigenvalues of W W^T, W = {w}, ascending", (level,), equation="4.1"),
        Observable(f"target_eigenvalues{suffix}", lambda t: eigenvalues(t.teacher[layer - 1]),
                   f"eigenvalues of W W^T of the teacher, W = {w}, ascending", (level,), equation="4.1", when="once"),
        Observable(f"teacher_overlap{suffix}", lambda s, t: cosine(s.trained[k], t.teacher[layer - 1]),
                   f"overlap R with the teacher, Frobenius cosine of their {w}"),
        Observable(f"weights{suffix}", lambda s, t: s.trained[k],
                   f"trained weights {w}", (f"node{suffix}", f"input{suffix}"), when="decades"),
    )  # fmt: skip


def _level_dynamics(k: int, layer: int, suffix: str) -> tuple[Observable, ...]:
    """Coefficients of the equation for the mean level spacing; a single level has no spacing."""
    about = f"of the mean level spacing of W W^T, W = W^({layer}), on the test inputs, in four readings"
    meanings = {
        "K_S": (f"drift {about}", "4.8, B.9"),
        "V_S": (f"Coulomb repulsion {about}", "4.8, B.7"),
        "D_S": (f"diffusion {about}", "4.8, B.9"),
        "restoring": (
            f"restoring drift {about}, which the criterion compares with T (n_2-1)/(4 sqrt(r) sigma_W^2) V_S",
            "4.15",
        ),
    }

    def coefficient(name: str) -> Callable[[Student, Task], Array]:
        return lambda s, t: getattr(s.dynamics[k], name)

    return tuple(
        Observable(
            name + suffix, coefficient(name), meaning, ("reading",), equation=equation, coordinates=(("reading", READINGS),)
        )
        for name, (meaning, equation) in meanings.items()
    )
