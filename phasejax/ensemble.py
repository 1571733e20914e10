"""All students at once: the State pytree, and the compiled functions that make, advance and observe it.

Students are laid out (seed, temperature, sigma_w). The seed axis is sharded over a one-dimensional mesh of devices, and
students never talk to each other. On a CPU each shard takes its seeds one after another, so that the arithmetic of a
seed is the same, to the bit, whatever runs beside it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from phasejax.experiment import Experiment, Network, Sgd
from phasejax.observables import Observable, When, initial_features, view
from phasejax.sgd import optimiser
from phasejax.task import Batches, Task, make_batches, make_task, start

MATMUL_PRECISION = "highest"
"""Float32 products must be float32 products everywhere; the default lets GPUs and TPUs round them to fewer bits."""

_TOGETHER = 48
"""About as many students are looked at together: few enough for a cache, and enough for full vectors and long loops."""

# Counts how often each function is traced, by name: a change of temperatures, sigma_W, labels or steps must not add one.
traces: dict[str, int] = {}


class State(NamedTuple):
    """The training state of an ensemble; leading axes (seed, temperature, sigma_w) wherever none are given."""

    weights: tuple[Array, ...]
    """Trained layers, (..., n_l, n_(l-1)) each."""
    moments: Any
    """The optimiser's own state (optax), one a student."""
    mark: tuple[Array, ...]
    """Weights when the averaging window was opened."""
    gradient_sum: tuple[Array, ...]
    """Sum of batch gradients since the mark; empty for plain SGD, where the displacement from the mark says it."""
    loss_sum: Array
    """Sum of batch losses, each before its update, since the mark."""
    diverged_step: Array
    """int32: the first update whose batch loss was not finite; -1 while there is none."""


# One shard's (state, tasks, batches, learning rates, step, first batch, number of steps) -> state.
Advance = Callable[[State, Task, Batches, Array, Array, Array, Array], State]


def initial_state(network: Network, sgd: Sgd, temperatures: int, task: Task, sigma_w: Array) -> State:
    """One seed's students at step 0 with the given (sigma_w,) scales, leading axes (temperature, sigma_w)."""
    column = jax.vmap(lambda sigma: start(network, task, sigma))(sigma_w)
    shape = (temperatures, sigma_w.shape[0])
    weights = tuple(jnp.broadcast_to(w[None], (temperatures, *w.shape)) for w in column)
    # A learning rate does not enter an optimiser's initial state.
    moments = jax.vmap(jax.vmap(optimiser(sgd, 0.0).init))(weights)
    sums = () if sgd.plain else tuple(jnp.zeros_like(w) for w in weights)
    return State(weights, moments, weights, sums, jnp.zeros(shape, sigma_w.dtype), jnp.full(shape, -1, jnp.int32))


def each(on_cpu: bool, function: Callable, *stacked: Any, together: int | None = None) -> Any:
    """Apply a function of one seed, or of one temperature, to pytrees with such a leading axis.

    On a CPU one after another, or so many together: that stays in cache, and the arithmetic of a seed cannot depend on its
    neighbours. On a GPU all must run side by side, and XLA may round a seed differently beside others.
    """
    if on_cpu:
        return jax.lax.map(lambda args: function(*args), stacked, batch_size=together)
    return jax.vmap(function)(*stacked)


@dataclass(frozen=True)
class Ensemble:
    """The compiled functions of one kind of experiment on one set of devices. The arrays they take are

    `learning_rates` (temperature,), `sigma_w` (sigma_w,), both in the experiment's precision; `step`, `start`, `n_steps`,
    `window` and `first_epoch` int32 scalars; `labels` int32 (seed,), as many as `pad` says.
    """

    devices: int
    place: Callable[[np.ndarray], Array]
    """Put an array with a leading seed axis on the devices."""
    tasks: Callable[[Array], Task]
    """labels -> tasks."""
    init: Callable[[Task, Array], State]
    """(tasks, sigma_w) -> state at step 0."""
    batches: Callable[[Task, Array], Batches]
    """(tasks, first_epoch) -> the batches of a block of epochs."""
    advance: Callable[[State, Task, Batches, Array, Array, Array, Array], State]
    """(state, tasks, batches, learning_rates, step, start, n_steps) -> state; the given state's buffers are used up."""
    mark: Callable[[State], State]
    """state -> state with its averaging window opened anew; the given state's buffers are used up."""
    observe: dict[str, Callable[..., dict[str, Array]]]
    """By occasion: (state, tasks, learning_rates, sigma_w, step, window) -> {name: (seed, temperature, sigma_w, ...)};
    for "once": tasks -> {name: (seed, ...)}."""

    def pad(self, labels: Sequence[int]) -> np.ndarray:
        """Labels filled up with further ones until every device has equally many, and at least two.

        (With a single seed XLA unrolls the loop over seeds and may round differently.)
        """
        each = max(2, -(-len(labels) // self.devices))
        extra = range(max(labels) + 1, max(labels) + 1 + each * self.devices - len(labels))
        return (np.array([*labels, *extra]) % 2**31).astype(np.int32)

    def check(self, experiment: Experiment, observables: Sequence[Observable]) -> tuple[dict[str, int], int]:
        """Trace every observable without running it.

        Returns:
            Bytes of one record on each occasion it is taken, and of the state.

        Raises:
            ExperimentError: one does not give a number array with the axes it declares.
        """
        scalar = jax.ShapeDtypeStruct((), jnp.int32)
        vectors = [
            jax.ShapeDtypeStruct((n,), jnp.dtype(experiment.precision))
            for n in (len(experiment.learning_rates), len(experiment.grid.sigma_w))
        ]
        tasks = jax.eval_shape(self.tasks, jax.ShapeDtypeStruct(self.pad(experiment.seed_labels).shape, jnp.int32))
        state = jax.eval_shape(self.init, tasks, vectors[1])
        sizes = {}
        for when, observe in self.observe.items():
            arguments = (tasks,) if when == "once" else (state, tasks, *vectors, scalar, scalar)
            found = jax.eval_shape(observe, *arguments)
            leading = 1 if when == "once" else 3
            for observable in observables:
                if observable.when == when:
                    observable.check(found[observable.name], leading)
            sizes[when] = _bytes(found)
        return sizes, _bytes(state)


def build(experiment: Experiment, advance: Advance, observables: Sequence[Observable], devices: Sequence[Any]) -> Ensemble:
    """The compiled functions for an experiment.

    Each is made once for all experiments that agree in what it depends on; the values of temperatures, sigma_W and seed
    labels, and the schedule, are in none of them.
    """
    network, sgd, on = experiment.network, experiment.sgd, tuple(devices)
    made = replace(
        Experiment(), network=network, task=experiment.task, precision=experiment.precision, sgd=Sgd(batch_size=1)
    )
    batched = replace(made, network=Network(), precision="float32", sgd=Sgd(batch_size=sgd.batch_size, order=sgd.order))
    by_occasion = {when: tuple(o for o in observables if o.when == when) for when in get_args(When)}
    return Ensemble(
        devices=len(on),
        place=lambda array: jax.device_put(array, NamedSharding(_mesh(on), _SEED)),
        tasks=_tasks(made, on),
        init=_init(network, replace(sgd, batch_size=1, order="iid"), len(experiment.learning_rates), on),
        batches=_batches(batched, on),
        advance=_advance(advance, on),
        mark=_mark(on),
        observe={when: _observe(when, network, chosen, on) for when, chosen in by_occasion.items() if chosen},
    )


def _bytes(arrays: Any) -> int:
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(arrays))


_SEED, _EVERYWHERE = PartitionSpec("seed"), PartitionSpec()


@functools.cache
def _mesh(devices: tuple[Any, ...]) -> Mesh:
    return jax.make_mesh((len(devices),), ("seed",), axis_types=(AxisType.Auto,), devices=devices)


def _sharded(
    name: str, function: Callable, devices: tuple[Any, ...], specs: Sequence[PartitionSpec], donate: tuple[int, ...] = ()
) -> Callable:
    """A function of one shard, compiled for all of them; the outputs are sharded over seeds."""

    def traced(*args: Any) -> Any:
        traces[name] = traces.get(name, 0) + 1
        return function(*args)

    mapped = jax.shard_map(traced, mesh=_mesh(devices), in_specs=tuple(specs), out_specs=_SEED, check_vma=False)
    return jax.jit(mapped, donate_argnums=donate)


def _each(devices: tuple[Any, ...], function: Callable, *stacked: Any, together: int | None = None) -> Any:
    return each(devices[0].platform == "cpu", function, *stacked, together=together)


@functools.cache
def _tasks(experiment: Experiment, devices: tuple[Any, ...]) -> Callable:
    def tasks(labels: Array) -> Task:
        return _each(devices, lambda label: make_task(experiment, label), labels)

    return _sharded("tasks", tasks, devices, [_SEED])


@functools.cache
def _init(network: Network, sgd: Sgd, temperatures: int, devices: tuple[Any, ...]) -> Callable:
    def init(tasks: Task, sigma_w: Array) -> State:
        return _each(devices, lambda task: initial_state(network, sgd, temperatures, task, sigma_w), tasks)

    return _sharded("init", init, devices, [_SEED, _EVERYWHERE])


@functools.cache
def _batches(experiment: Experiment, devices: tuple[Any, ...]) -> Callable:
    def batches(tasks: Task, first_epoch: Array) -> Batches:
        return _each(devices, lambda task: make_batches(experiment, task, first_epoch), tasks)

    return _sharded("batches", batches, devices, [_SEED, _EVERYWHERE])


@functools.cache
def _advance(advance: Advance, devices: tuple[Any, ...]) -> Callable:
    return _sharded("advance", advance, devices, [_SEED] * 3 + [_EVERYWHERE] * 4, donate=(0,))


@functools.cache
def _mark(devices: tuple[Any, ...]) -> Callable:
    def mark(state: State) -> State:
        gradient_sum, loss_sum = jax.tree.map(jnp.zeros_like, (state.gradient_sum, state.loss_sum))
        return state._replace(mark=jax.tree.map(jnp.copy, state.weights), gradient_sum=gradient_sum, loss_sum=loss_sum)

    return _sharded("mark", mark, devices, [_SEED], donate=(0,))


@functools.lru_cache(maxsize=64)  # a user's observables come and go
def _observe(when: When, network: Network, observables: tuple[Observable, ...], devices: tuple[Any, ...]) -> Callable:
    def of_task(task: Task) -> dict[str, Array]:
        return {o.name: o.function(task) for o in observables}

    if when == "once":
        return _sharded("observe once", lambda tasks: _each(devices, of_task, tasks), devices, [_SEED])

    def of_student(
        state: State, initial: Array, task: Task, rate: Array, sigma: Array, step: Array, window: Array
    ) -> dict[str, Array]:
        student = view(network, state, initial, task, rate, sigma, step, window)
        return {o.name: o.function(student, task) for o in observables}

    row = jax.vmap(of_student, in_axes=(0, 0, None, None, 0, None, None))

    def of_shard(state: State, tasks: Task, rates: Array, sigmas: Array, step: Array, window: Array) -> dict[str, Array]:
        # A divisor, for what is left over would have to be compiled a second time.
        divisors = (n for n in range(1, len(rates) + 1) if len(rates) % n == 0)
        rows = min(divisors, key=lambda n: abs(math.log(n * len(sigmas) / _TOGETHER)))

        def of_seed(state: State, task: Task) -> dict[str, Array]:
            initial = jax.vmap(lambda sigma: initial_features(network, task, sigma))(sigmas)

            def of_temperature(state: State, rate: Array) -> dict[str, Array]:
                return row(state, initial, task, rate, sigmas, step, window)

            return _each(devices, of_temperature, state, rates, together=rows)

        return _each(devices, of_seed, state, tasks)

    return _sharded(f"observe {when}", of_shard, devices, [_SEED] * 2 + [_EVERYWHERE] * 4)
