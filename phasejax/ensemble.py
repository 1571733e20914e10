"""All students at once: the compiled functions that make, advance and observe them.

Students are laid out (seed, cell). The seed axis is sharded over a one-dimensional mesh of devices, and students never talk
to each other. On a CPU each shard takes its seeds one after another, so that the arithmetic of a seed is the same, to the
bit, whatever runs beside it.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from phasejax.checks import ExperimentError
from phasejax.experiment import Experiment
from phasejax.memory import available, held, size, written
from phasejax.observables import Observable, View, When
from phasejax.optimizers import Optimizer
from phasejax.seed import Blocks, make_batches, make_task, shared_data, start
from phasejax.starts import FromRun
from phasejax.state import Advance, Batches, Cells, Clock, State, Task

MATMUL_PRECISION = "highest"
"""Float32 products must be float32 products everywhere; the default lets GPUs and TPUs round them to fewer bits."""

_TOGETHER = 48
"""At most so many students are looked at together on a CPU: few enough for a cache, and enough for full vectors."""

_TOGETHER_BYTES = 2**29
"""On an accelerator as many as take about so much memory in passing; with copies it is below a gigabyte. No share of a
device's memory, for then each kind of device would have a program of its own, and no run could go on elsewhere."""

# Counts how often each function is traced, by name: a change of numbers, labels or steps must not add one.
traces: dict[str, int] = {}


class Place(NamedTuple):
    """Where compiled functions run."""

    devices: tuple[Any, ...]
    platform: str = ""
    """What they are written for, if not for what the devices are: any machine can lower them for any other."""

    @property
    def on_cpu(self) -> bool:
        """Whether they are written for a CPU."""
        return (self.platform or self.devices[0].platform) == "cpu"


def each(on_cpu: bool, function: Callable, *stacked: Any, together: int | None = None) -> Any:
    """Apply a function of one seed to pytrees with a leading seed axis; what seeds share in a `Task` is handed to all.

    On a CPU one after another: that stays in cache, and the arithmetic of a seed cannot depend on its neighbours. A single
    one is taken twice, for XLA unrolls a loop of one and may then round differently. On a GPU all must run side by side, or
    so many together, and XLA may round a seed differently beside others.
    """
    shared = [part.shared if isinstance(part, Task) else None for part in stacked]
    own = tuple(part._replace(shared=()) if isinstance(part, Task) else part for part in stacked)

    def one(*parts: Any) -> Any:
        whole = (
            part._replace(shared=of_all) if isinstance(part, Task) else part
            for part, of_all in zip(parts, shared, strict=True)
        )
        return function(*whole)

    if on_cpu:
        seeds = len(jax.tree.leaves(own)[0])
        looped = jax.tree.map(lambda array: jnp.concatenate([array, array]), own) if seeds == 1 else own
        return jax.tree.map(lambda array: array[:seeds], jax.lax.map(lambda parts: one(*parts), looped))
    return jax.vmap(one)(*own) if together is None else _grouped(together, one, *own)


def initial_state(network: Any, beginning: Any, optimizer: Optimizer, summed: bool, task: Task, cells: Cells) -> State:
    """One seed's students at step 0, with a leading cell axis."""
    numbered = jnp.arange(len(cells.starts), dtype=jnp.int32)
    begun = jax.vmap(lambda which, number: start(network, beginning, task, which, number))(numbered, cells.starts)
    weights = jax.tree.map(lambda array: array[cells.start], begun)
    moments = jax.vmap(lambda numbers, weights: optimizer.of(numbers).init(weights))(cells.numbers, weights)
    sums = jax.tree.map(jnp.zeros_like, weights) if summed else {}
    shape, dtype = cells.start.shape, cells.starts.dtype
    return State(weights, moments, weights, sums, jnp.zeros(shape, dtype), jnp.full(shape, -1, jnp.int32))


@dataclass(frozen=True)
class Ensemble:
    """The compiled functions of one kind of experiment on one set of devices.

    Of their arguments `step`, `window` and `first_epoch` are int32 scalars, and `labels` int32 (seed,), as `pad` gives them.
    """

    devices: int
    place: Callable[[np.ndarray], Array]
    """Put an array with a leading seed axis on the devices."""
    seeds: Callable[[Array], Task]
    """labels -> tasks, without the data that all seeds share."""
    shared: Callable[[], Any]
    """The data that all seeds share, once on each device; empty where each seed has its own."""
    init: Callable[[Task, Cells], State]
    """(tasks, cells) -> state at step 0."""
    batches: Callable[[Task, Array], Batches]
    """(tasks, first_epoch) -> the batches of a block of epochs."""
    advance: Callable[[State, Task, Batches, Cells, Clock], State]
    """(state, tasks, batches, cells, clock) -> state; the given state's buffers are used up."""
    mark: Callable[[State], State]
    """state -> state with its averaging window opened anew; the given state's buffers are used up."""
    observe: dict[str, Callable[..., dict[str, Array]]]
    """By occasion: (state, tasks, cells, step, window) -> {name: (seed, cell, ...)}; once: tasks -> {name: (seed, ...)}."""

    def tasks(self, labels: Array) -> Task:
        """Everything fixed about the seeds with these labels."""
        return self.seeds(labels)._replace(shared=self.shared())

    def pad(self, labels: Sequence[int]) -> np.ndarray:
        """Labels filled up with further ones until every device has equally many."""
        extra = self._padded(len(labels)) - len(labels)
        return (np.append(labels, max(labels) + 1 + np.arange(extra)) % 2**31).astype(np.int32)

    def _padded(self, seeds: int) -> int:
        return -(-seeds // self.devices) * self.devices

    def shapes(self, experiment: Experiment, seeds: int | None = None) -> dict[str, tuple[Any, ...]]:
        """Abstract arguments of each function, for so many seeds; those of the experiment if None.

        Raises:
            ExperimentError: an observable, a task or a network fails on them.
        """
        scalar: Any = jax.ShapeDtypeStruct((), jnp.int32)
        labels = jax.ShapeDtypeStruct((self._padded(seeds or experiment.grid.seeds),), jnp.int32)
        shared = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), self.shared())
        tasks = jax.eval_shape(self.seeds, labels)._replace(shared=shared)
        cells = jax.eval_shape(lambda: make_cells(experiment))
        if isinstance(experiment.start, FromRun):
            given = {
                name: jax.ShapeDtypeStruct((*labels.shape, *cells.starts.shape, *draw.shape[1:]), draw.dtype)
                for name, draw in tasks.draw.items()
            }
            tasks = tasks._replace(given=given)
        state = jax.eval_shape(self.init, tasks, cells)
        factors: Any = ()
        if not experiment.schedule.constant:
            factors = jax.ShapeDtypeStruct((experiment.ladder.block,), cells.starts.dtype)
        batches = jax.eval_shape(self.batches, tasks, scalar)
        found = {
            "seeds": (labels,),
            "init": (tasks, cells),
            "batches": (tasks, scalar),
            "advance": (state, tasks, batches, cells, Clock(scalar, scalar, scalar, factors)),
            "mark": (state,),
        }
        for when in self.observe:
            found[f"observe {when}"] = (tasks,) if when == "once" else (state, tasks, cells, scalar, scalar)
        return found

    def check(self, experiment: Experiment, observables: Sequence[Observable]) -> tuple[dict[str, int], int]:
        """Trace every observable without running it.

        Returns:
            Bytes of one record on each occasion it is taken, and of the state.

        Raises:
            ExperimentError: one does not give a number array with the axes it declares.
        """
        shapes, sizes = self.shapes(experiment), {}
        for when, observe in self.observe.items():
            found = jax.eval_shape(observe, *shapes[f"observe {when}"])
            for observable in observables:
                if observable.when == when:
                    observable.check(found[observable.name], 1 if when == "once" else 2)
            sizes[when] = _bytes(found)
        return sizes, _bytes(shapes["mark"])

    def require_memory(self, experiment: Experiment, on: Place) -> None:
        """Raise if an experiment takes more memory than there is, before it takes any.

        Raises:
            ExperimentError: arrays that have to be there at the same time are more than the devices can hold.
        """
        shapes = self.shapes(experiment)
        state, tasks, batches, cells, _ = shapes["advance"]
        # The others have nothing in passing that is as large as what they give.
        large = {"seeds": self.seeds, **{f"observe {when}": observe for when, observe in self.observe.items()}}
        temporary = max(written(function.trace(*shapes[name]).jaxpr.jaxpr) for name, function in large.items())
        records = sum(_bytes(jax.eval_shape(self.observe[when], *shapes[f"observe {when}"])) for when in self.observe)
        needed = {
            "data": _bytes((tasks, batches)) + (self.devices - 1) * _bytes(tasks.shared),
            "state": (2 if on.on_cpu else 1) * _bytes((state, cells)),  # which a checkpoint copies, to the machine's memory
            "records": (2 if on.on_cpu else 1) * records,
            "temporaries": self.devices * temporary,
        }
        there = available(on.devices)
        if sum(needed.values()) > there:
            parts = ", ".join(f"{name} {size(of)}" for name, of in needed.items())
            raise ExperimentError(f"The run needs at least {size(sum(needed.values()))} of memory ({parts}), and "
                                  f"{size(int(there))} are free here: take fewer seeds at a time with --shard, or less of "
                                  "what is large.")  # fmt: skip


def make_cells(experiment: Experiment) -> Cells:
    """The numbers of the cells of an experiment, in its precision, and which of them begin alike."""
    dtype, cells = jnp.dtype(experiment.precision), experiment.cells()
    numbers = {name: jnp.asarray(np.array(values), dtype) for name, values in cells.items()}
    starts, start = experiment.starts()
    return Cells(numbers, jnp.asarray(np.array(starts), dtype), jnp.asarray(np.array(start), jnp.int32))


def build(
    experiment: Experiment, advance: Advance, observables: Sequence[Observable], on: Place, programs: str | None = ""
) -> Ensemble:
    """The compiled functions for an experiment.

    Each is made once for all experiments that agree in what it depends on, which is what it is given here: the values of
    the cells and labels, and the schedule, are in none of them.

    Args:
        experiment: what is trained.
        advance: an engine's function for it.
        observables: what is recorded.
        on: where.
        programs: what is known to be computed, by its digest: functions of one's own may read what has changed since they
            were traced. None for functions that have not been traced yet.
    """
    network, task, sgd = experiment.network, experiment.task, experiment.sgd
    blocks = Blocks(sgd.order, task.samples, sgd.batch_size, experiment.ladder.block // experiment.epoch_steps)
    view = View(network, task, experiment.start, experiment.plain)
    by_occasion = {when: tuple(o for o in observables if o.when == when) for when in get_args(When)}
    everywhere = NamedSharding(_mesh(on.devices), _EVERYWHERE)

    @functools.cache
    def shared() -> Any:
        return jax.device_put(shared_data(task, experiment.precision), everywhere)

    return Ensemble(
        devices=len(on.devices),
        place=lambda array: jax.device_put(array, NamedSharding(_mesh(on.devices), _SEED)),
        seeds=_seeds(programs, network, task, experiment.grid.replicas, experiment.precision, on),
        shared=shared,
        init=_init(programs, network, experiment.start, experiment.optimizer, not experiment.plain, on),
        batches=_batches(programs, blocks, on),
        advance=_advance(programs, advance, experiment.ladder.block if spans(experiment, on) else 0, on),
        mark=_mark(on),
        observe={when: _observe(programs, when, view, chosen, on) for when, chosen in by_occasion.items() if chosen},
    )


def _bytes(arrays: Any) -> int:
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(arrays))


_SEED, _EVERYWHERE = PartitionSpec("seed"), PartitionSpec()
_TASK: Any = Task._make([*[_SEED] * 7, _EVERYWHERE])


@functools.cache
def _mesh(devices: tuple[Any, ...]) -> Mesh:
    return jax.make_mesh((len(devices),), ("seed",), axis_types=(AxisType.Auto,), devices=devices)


def _sharded(name: str, function: Callable, on: Place, specs: Sequence[Any], donate: tuple[int, ...] = ()) -> Callable:
    """A function of one shard, compiled for all of them; the outputs are sharded over seeds."""

    def traced(*args: Any) -> Any:
        traces[name] = traces.get(name, 0) + 1
        return function(*args)

    mapped = jax.shard_map(traced, mesh=_mesh(on.devices), in_specs=tuple(specs), out_specs=_SEED, check_vma=False)
    return jax.jit(mapped, donate_argnums=donate)


def _each(on: Place, function: Callable, *stacked: Any, together: int | None = None) -> Any:
    return each(on.on_cpu, function, *stacked, together=together)


def _kept(make: Callable[..., Callable]) -> Callable[..., Callable]:
    """Makes functions once for equal arguments and programs, and anew where the programs are None."""

    @functools.lru_cache(maxsize=64)  # users' parts come and go
    def made(programs: str, *arguments: Any) -> Callable:
        return make(*arguments)

    @functools.wraps(make)
    def kept(programs: str | None, *arguments: Any) -> Callable:
        return make(*arguments) if programs is None else made(programs, *arguments)

    return kept


@_kept
def _seeds(network: Any, task: Any, replicas: int, precision: str, on: Place) -> Callable:
    def seeds(labels: Array) -> Task:
        return _each(on, lambda label: make_task(network, task, replicas, jnp.dtype(precision), label), labels)

    return _sharded("seeds", seeds, on, [_SEED])


@_kept
def _init(network: Any, beginning: Any, optimizer: Optimizer, summed: bool, on: Place) -> Callable:
    def init(tasks: Task, cells: Cells) -> State:
        return _each(on, lambda task: initial_state(network, beginning, optimizer, summed, task, cells), tasks)

    return _sharded("init", init, on, [_TASK, _EVERYWHERE])


@_kept
def _batches(blocks: Blocks, on: Place) -> Callable:
    def batches(tasks: Task, first_epoch: Array) -> Batches:
        return _each(on, lambda task: make_batches(blocks, task, first_epoch), tasks)

    return _sharded("batches", batches, on, [_TASK, _EVERYWHERE])


def spans(experiment: Experiment, on: Place) -> bool:
    """Whether a call may go beyond a block of epochs: all blocks are alike, and the host's turns between them would show.

    On a CPU they are a thousandth of a block's time.
    """
    return experiment.sgd.order == "cyclic" and experiment.schedule.constant and not on.on_cpu


@_kept
def _advance(advance: Advance, block: int, on: Place) -> Callable:
    def over_blocks(state: State, tasks: Task, batches: Batches, cells: Cells, clock: Clock) -> State:
        end = clock.step + clock.steps

        def one(now: tuple[State, Array]) -> tuple[State, Array]:
            state, step = now
            steps = jnp.minimum(block - step % block, end - step)
            return advance(state, tasks, batches, cells, Clock(step, step % block, steps, clock.factors)), step + steps

        return jax.lax.while_loop(lambda now: now[1] < end, one, (state, clock.step))[0]

    return _sharded(
        "advance", over_blocks if block else advance, on, [_SEED, _TASK, _SEED, _EVERYWHERE, _EVERYWHERE], donate=(0,)
    )


@functools.cache
def _mark(on: Place) -> Callable:
    def mark(state: State) -> State:
        gradient_sum, loss_sum = jax.tree.map(jnp.zeros_like, (state.gradient_sum, state.loss_sum))
        return state._replace(mark=jax.tree.map(jnp.copy, state.weights), gradient_sum=gradient_sum, loss_sum=loss_sum)

    return _sharded("mark", mark, on, [_SEED], donate=(0,))


@_kept
def _observe(when: When, view: View, observables: tuple[Observable, ...], on: Place) -> Callable:
    if when == "once":
        return _sharded("observe once", lambda tasks: _each(on, lambda task: _of_task(observables, task), tasks),
                        on, [_TASK])  # fmt: skip
    needs = frozenset(need for observable in observables for need in observable.needs)

    def of_shard(state: State, tasks: Task, cells: Cells, step: Array, window: Array) -> dict[str, Array]:
        def of_seed(together: int, state: State, task: Task) -> dict[str, Array]:
            numbered = jnp.arange(len(cells.starts), dtype=jnp.int32)
            initial = jax.vmap(lambda which, number: view.initial(task, which, number))(numbered, cells.starts)

            def of_cell(state: State, numbers: dict[str, Array], start: Array) -> dict[str, Array]:
                student = view.student(state, initial[start], task, numbers, step, window, needs)
                return {o.name: o.of(student, task) for o in observables}

            return _grouped(together, of_cell, state, cells.numbers, cells.start)

        if on.on_cpu:
            return _each(on, functools.partial(of_seed, _TOGETHER), state, tasks)
        seeds, students = _together(of_seed, len(cells.start), state, tasks)
        return _each(on, functools.partial(of_seed, students), state, tasks, together=seeds)

    return _sharded(f"observe {when}", of_shard, on, [_SEED, _TASK, *[_EVERYWHERE] * 3])


def _of_task(observables: Sequence[Observable], task: Task) -> dict[str, Array]:
    return {o.name: o.of(task) for o in observables}


def _together(of_seed: Callable[[int, State, Task], Any], cells: int, state: State, tasks: Task) -> tuple[int, int]:
    """How many seeds an accelerator looks at together, and how many students of each: all of them, or some of one seed's."""

    def alone(arrays: Any) -> Any:
        return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), arrays)

    task = alone(tasks._replace(shared=()))._replace(shared=tasks.shared)
    # Measured on the program of a seed whose students are looked at all together.
    taken = max(1, held(jax.make_jaxpr(functools.partial(of_seed, cells))(alone(state), task).jaxpr))
    if taken <= _TOGETHER_BYTES:
        return _even(_TOGETHER_BYTES // taken, len(state.loss_sum)), cells
    return 1, _even(max(1, _TOGETHER_BYTES * cells // taken), cells)


def _even(most: int, count: int) -> int:
    """How many of so many to take together, so that no group has to be filled up, which copies all, if that can be."""
    return next((size for size in range(min(most, count), most // 2, -1) if count % size == 0), most)


def _grouped(together: int, function: Callable, *stacked: Any) -> Any:
    """Apply a function of one to all, a group after another, the last of which is filled up by repeating its last one."""
    count = len(jax.tree.leaves(stacked)[0])
    groups = -(-count // together)
    together = -(-count // groups)

    def cut(array: Array) -> Array:
        if groups * together > count:
            array = array[jnp.minimum(jnp.arange(groups * together), count - 1)]
        return array.reshape(groups, together, *array.shape[1:])

    found = jax.lax.map(lambda parts: jax.vmap(function)(*parts), jax.tree.map(cut, stacked))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:count], found)
