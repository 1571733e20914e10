"""What one seed learns: its teacher, its data, its frozen features, its student's draw, and the order of its batches.

Every random number here is drawn from a key folded from labels (the seed's number, the epoch's number), never from a
position in an array, so that a label means the same task on every grid, device and shard (Eq 3.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from phasejax import network
from phasejax.activations import activation
from phasejax.experiment import Experiment, Network

# First labels under the root key: what belongs to a seed, and what all seeds share.
_SEED, _SHARED = 0, 1
# Labels under a seed's key.
_TEACHER, _STUDENT, _INPUTS, _ORDER = range(4)


class Task(NamedTuple):
    """Arrays of one seed. D training and A test samples; f is the width that enters the first trained layer."""

    label: Array
    """int32, the seed's label."""
    teacher: tuple[Array, ...]
    """The teacher's weights, (n_l, n_(l-1)) for l = 1 ... L."""
    draw: tuple[Array, ...]
    """The student's start at sigma_W = 1, one (n_l, n_(l-1)) matrix a trained layer."""
    features: Array
    """(D, f): training inputs behind the frozen layers, which never change."""
    targets: Array
    """(D, n_L): the teacher's outputs."""
    test_features: Array
    """(A, f)."""
    test_targets: Array
    """(A, n_L)."""
    test_teacher_features: Array
    """(A, n_(L-1)): the teacher's own features, those of its last hidden layer."""


class Batches(NamedTuple):
    """Batches of one seed, contiguous in the order they are used."""

    features: Array
    """(steps, B, f)."""
    targets: Array
    """(steps, B, n_L)."""


def seed_key(label: Array) -> Array:
    """The key from which everything random about a seed is folded."""
    return jax.random.fold_in(jax.random.fold_in(_root(), _SEED), label)


def _root() -> Array:
    return jax.random.key(0, impl="threefry2x32")


def make_task(experiment: Experiment, label: Array) -> Task:
    """Everything fixed about the seed with this label (an int32 scalar), in the experiment's precision."""
    net, dtype = experiment.network, jnp.dtype(experiment.precision)
    phi, first = activation(net.activation), min(net.trainable)
    key = seed_key(label)

    teacher = network.draw(jax.random.fold_in(key, _TEACHER), net.widths, dtype)
    student = network.draw(jax.random.fold_in(key, _STUDENT), net.widths, dtype)

    def data(key: Array, samples: int) -> tuple[Array, Array, Array]:
        x = jax.random.normal(key, (samples, net.widths[0]), jnp.float32).astype(dtype)
        entering = network.features(teacher[: first - 1], x, phi)
        # The readout has no activation: a network trained from its last layer on has its features frozen.
        last = network.features(teacher[first - 1 : -1], entering, phi)
        return entering, network.output(teacher[-1], last), last

    features, targets, _ = data(jax.random.fold_in(key, _INPUTS), experiment.task.samples)
    test = data(jax.random.fold_in(_root(), _SHARED), experiment.task.test_samples)
    draw = tuple(student[layer - 1] for layer in net.trainable)
    return Task(label, teacher, draw, features, targets, *test)


def start(net: Network, task: Task, sigma_w: Array) -> tuple[Array, ...]:
    """The trained layers of the student that starts at this sigma_W (a scalar): W(0) = sigma_W xi / sqrt(n) (Eq 2.11)."""
    scales = net.sigma_w_scale or (1.0,) * len(task.draw)
    return tuple(scale * sigma_w * draw for draw, scale in zip(task.draw, scales, strict=True))


def make_batches(experiment: Experiment, task: Task, first_epoch: Array) -> Batches:
    """The batches of the `experiment.block_epochs` epochs from `first_epoch` (an int32 scalar) on."""
    samples, batch = experiment.task.samples, experiment.sgd.batch_size
    used = experiment.epoch_steps * batch
    key = jax.random.fold_in(seed_key(task.label), _ORDER)
    in_order = jnp.arange(samples, dtype=jnp.int32)

    def order(epoch: Array) -> Array:
        match experiment.sgd.order:
            case "shuffled":
                return jax.random.permutation(jax.random.fold_in(key, epoch), in_order)
            case "iid":
                return jax.random.randint(jax.random.fold_in(key, epoch), (used,), 0, samples, jnp.int32)
            case _:
                return in_order

    epochs = first_epoch + jnp.arange(experiment.block_epochs, dtype=jnp.int32)
    indices = jax.vmap(order)(epochs).reshape(-1, batch)
    return Batches(task.features[indices], task.targets[indices])
