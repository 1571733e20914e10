"""What one seed has: its teacher, data and frozen features, its students' start, and the order of its batches.

Every random number here is drawn from a key folded from labels (the seed's number, the epoch's number), never from a
position in an array, so that a label means the same task on every grid, device and shard (Eq 3.1).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.network import Network, initial
from phasejax.starts import FromTeacher
from phasejax.state import Batches, Data, Task, Weights
from phasejax.tasks import Keys

# First labels under the root key: what belongs to a seed, and what all seeds share.
_SEED, _SHARED = 0, 1
# Labels under a seed's key.
_TEACHER, _STUDENT, _INPUTS, _ORDER = range(4)


def seed_key(label: Array) -> Array:
    """The key from which everything random about a seed is folded."""
    return jax.random.fold_in(jax.random.fold_in(_root(), _SEED), label)


def _root() -> Array:
    # The key of seed 0, made of its words: `jax_random_seed_offset` does not enter.
    return jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl="threefry2x32")


def trained_names(network: Any, weights: Weights) -> tuple[str, ...]:
    """Names of the arrays that are trained, of all those a network has."""
    return tuple(getattr(network, "trained", None) or sorted(weights))


def make_task(network: Any, task: Any, replicas: int, dtype: Any, label: Array) -> Task:
    """Everything fixed about the seed with this label (an int32 scalar); data that all seeds share are not in it."""
    key = seed_key(label)
    disorder = seed_key(label // replicas) if replicas > 1 else key
    student = initial(network, jax.random.fold_in(key, _STUDENT), dtype)
    trained = trained_names(network, student)

    own: Any = ()
    teacher: Weights = {}
    if hasattr(task, "draw"):
        keys = Keys(
            jax.random.fold_in(disorder, _TEACHER),
            jax.random.fold_in(disorder, _INPUTS),
            jax.random.fold_in(_root(), _SHARED),
        )
        own, teacher = task.draw(keys, network, dtype)
        own = Data(*(_cast(array, dtype) for array in own))
    frozen = {name: array for name, array in {**student, **teacher}.items() if name not in trained}
    seen = network.apply(teacher, own.test_features)[1] if teacher else ()
    if own and isinstance(network, Network):
        # What lies before the first trained layer never changes, so it is done once.
        first = min(network.trainable)
        before = {name: array for name, array in frozen.items() if int(name) < first}
        own = own._replace(features=network.behind(before, own.features, first),
                           test_features=network.behind(before, own.test_features, first))  # fmt: skip
        frozen = {name: array for name, array in frozen.items() if name not in before}
    draw = {name: student[name] for name in trained}
    return Task(label, teacher, draw, frozen, {}, seen, own, ())


def shared_data(task: Any, dtype: Any) -> Any:
    """The `Data` that all seeds share, on the host, in a dtype; empty where each seed has its own."""
    if hasattr(task, "draw"):
        return ()
    x, y, test_x, test_y = task.load()
    return Data(*(array.astype(dtype) if array.dtype.kind == "f" else array for array in (x, y, test_x, test_y)))


def _cast(array: Array, dtype: Any) -> Array:
    return array.astype(dtype if jnp.issubdtype(array.dtype, jnp.floating) else jnp.int32)


def start(network: Any, beginning: Any, task: Task, which: Array, number: Array) -> Weights:
    """The trained arrays of the students with this start.

    Args:
        network: the network.
        beginning: `FromDraw`, `FromTeacher` or `FromRun`.
        task: the seed's.
        which: int32 scalar, the number of the start.
        number: its sigma_w, W(0) = sigma_W xi / sqrt(n) (Eq 2.11), or the size of a perturbation.
    """
    if task.given:
        return {name: array[which] for name, array in task.given.items()}
    if isinstance(beginning, FromTeacher):
        return {name: task.teacher[name] + number * draw for name, draw in task.draw.items()}
    scales = network.scales if isinstance(network, Network) else {}
    # Biases and gains are no random matrices: they start as they are drawn.
    return {name: scales.get(name, 1.0) * number * draw if draw.ndim > 1 else draw for name, draw in task.draw.items()}


class Blocks(NamedTuple):
    """How the batches of a block of epochs are made."""

    order: str
    samples: int
    batch: int
    epochs: int
    """In a block."""


def make_batches(blocks: Blocks, task: Task, first_epoch: Array) -> Batches:
    """The batches of the epochs of a block, from `first_epoch` (an int32 scalar) on."""
    samples, batch = blocks.samples, blocks.batch
    used = samples // batch * batch
    key = jax.random.fold_in(seed_key(task.label), _ORDER)
    in_order = jnp.arange(samples, dtype=jnp.int32)

    def order(epoch: Array) -> Array:
        match blocks.order:
            case "shuffled":
                return jax.random.permutation(jax.random.fold_in(key, epoch), in_order)
            case "iid":
                return jax.random.randint(jax.random.fold_in(key, epoch), (used,), 0, samples, jnp.int32)
            case _:
                return in_order

    epochs = first_epoch + jnp.arange(blocks.epochs, dtype=jnp.int32)
    indices = jax.vmap(order)(epochs).reshape(-1, batch)
    if task.own:
        return Batches(task.features[indices], task.targets[indices])
    return Batches((), (), indices)


def batch(batches: Batches, task: Task, k: Array) -> tuple[Array, Array]:
    """Features and targets of the k-th batch of a block."""
    if task.own:
        return batches.features[k], batches.targets[k]
    chosen = batches.indices[k]
    return task.features[chosen], task.targets[chosen]
