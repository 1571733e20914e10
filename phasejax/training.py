"""An ensemble under way: what is trained, how far it is, and the one way to take it further. Nothing here knows of files."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from phasejax.checks import refuse
from phasejax.ensemble import MATMUL_PRECISION, Ensemble, Place, build, make_cells, spans
from phasejax.experiment import Experiment
from phasejax.observables import Observable
from phasejax.observables.standard import suffix
from phasejax.schedule import Stop
from phasejax.state import Advance, Clock, State


@contextlib.contextmanager
def settings_of(experiment: Experiment) -> Iterator[None]:
    """JAX's settings that decide results, for as long as an experiment is trained."""
    with (
        jax.enable_x64(experiment.precision == "float64"),
        jax.default_matmul_precision(MATMUL_PRECISION),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False),
    ):
        yield


class Training:
    """The students of an experiment at some step; within `settings_of` the experiment only.

    Args:
        experiment: what is trained.
        advance: an engine's function for it.
        observables: what can be recorded.
        devices: JAX devices over which seeds are spread.
        given: weights to start from, (seed, start, ...), where they are another run's, by the ends of the variables' names.
        programs: what is computed, by its digest, where that is known.
    """

    def __init__(
        self,
        experiment: Experiment,
        advance: Advance,
        observables: Sequence[Observable],
        devices: Sequence[Any],
        given: Mapping[str, np.ndarray] | None = None,
        programs: str = "",
    ) -> None:
        self.experiment, self.ladder = experiment, experiment.ladder
        on = Place(tuple(devices))
        self.ensemble: Ensemble = build(experiment, advance, observables, on, programs)
        self.ensemble.require_memory(experiment, on)
        self._spans = spans(experiment, on)
        self.cells = make_cells(experiment)
        labels = self.ensemble.pad(experiment.grid.labels)
        self.tasks = self.ensemble.tasks(self.ensemble.place(labels))
        if given:
            self.tasks = self.tasks._replace(given=self._placed(given, len(labels)))
        # State and step change in one assignment, so that whatever interrupts finds both of one moment.
        self._now: tuple[State, int] = (self.ensemble.init(self.tasks, self.cells), 0)
        self.marked_step = 0
        self._block: tuple[int, Any] | None = None

    def _placed(self, given: Mapping[str, np.ndarray], seeds: int) -> dict[str, Array]:
        placed = {}
        for name, draw in self.tasks.draw.items():
            array = given.get(suffix(name, self.tasks.draw))
            if array is None or array.shape[2:] != draw.shape[1:]:
                found = "none" if array is None else str(array.shape[2:])
                raise refuse("start.path", self.experiment.start.path, f"that run's weights {name} are {found}, and "
                             f"{draw.shape[1:]} is needed")  # fmt: skip
            # Seeds that only fill up the devices begin like any other.
            placed[name] = self.ensemble.place(np.resize(array, (seeds, *array.shape[1:])))
        return placed

    @property
    def state(self) -> State:
        """The training state now."""
        return self._now[0]

    @property
    def step(self) -> int:
        """Updates done."""
        return self._now[1]

    def batches(self) -> Any:
        """The batches of the block of epochs that the next update is in."""
        # The cyclic order repeats itself, so its one block serves for the whole run.
        key = 0 if self.experiment.sgd.order == "cyclic" else self.step // self.ladder.block
        if self._block is None or self._block[0] != key:
            self._block = None  # let the old batches go before the new ones are made
            epoch = jnp.int32(key * (self.ladder.block // self.ladder.epoch))
            self._block = (key, self.ensemble.batches(self.tasks, epoch))
        return self._block[1]

    def call(self, steps: int) -> int:
        """Train so many steps more, or to the end of the block of epochs where a call does not span several.

        This is one call of the compiled function.

        What a student does does not depend on where its steps are cut into calls.

        Returns:
            Updates done in the call, which may still be running.
        """
        number, first = divmod(self.step, self.ladder.block)
        if not self._spans:
            steps = min(steps, self.ladder.block - first)
        factors: Any = ()
        if not self.experiment.schedule.constant:
            factors = jnp.asarray(np.array(self.ladder.factors(number * self.ladder.block)), self.experiment.precision)
        clock = Clock(jnp.int32(self.step), jnp.int32(first), jnp.int32(steps), factors)
        state = self.ensemble.advance(self.state, self.tasks, self.batches(), self.cells, clock)
        self._now = (state, self.step + steps)
        return steps

    def ended(self) -> Array:
        """A number that is there once the last call has ended: the next one uses up the buffers of the state itself."""
        return _first(self.state.diverged_step)

    def train_to(self, step: int) -> None:
        """Train until so many updates are done, and wait for it."""
        while self.step < step:
            self.call(step - self.step)
        jax.block_until_ready(self.state)

    def mark(self) -> None:
        """Open the averaging window anew."""
        self._now = (self.ensemble.mark(self.state), self.step)
        self.marked_step = self.step

    def observe(self, stop: Stop) -> dict[str, Array]:
        """What is recorded at a stop, which is now: arrays (seed, cell, ...) by name, seeds that fill up included."""
        # A window that had to make way for another one leaves its record without averages.
        updates = self.ladder.window(stop.step)
        window = jnp.int32(updates if stop.step - updates == self.marked_step else 0)
        found: dict[str, Array] = {}
        for when in stop.occasions():
            if when in self.ensemble.observe:
                found |= self.ensemble.observe[when](*self.arguments(when, jnp.int32(stop.step), window))
        return found

    def arguments(self, when: str, step: Array, window: Array) -> tuple[Any, ...]:
        """What the ensemble's function takes that observes on an occasion."""
        return (self.tasks,) if when == "once" else (self.state, self.tasks, self.cells, step, window)

    def arrays(self) -> dict[str, Array]:
        """The arrays of the state by name, `weights/2` for instance; seeds that fill up devices included."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.state)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}

    def leaves(self) -> dict[str, np.ndarray]:
        """Copies of these arrays, of the experiment's seeds; the state's own buffers are used up by the next call."""
        return {name: np.array(leaf)[: self.experiment.grid.seeds] for name, leaf in self.arrays().items()}

    def restore(self, leaves: Mapping[str, np.ndarray], step: int, marked_step: int) -> None:
        """Go on from a state as `leaves` gave it."""
        placed = []
        for name, fresh in self.arrays().items():
            # Seeds that only fill up the devices start anew; nobody sees them.
            filled = np.array(fresh)
            filled[: len(leaves[name])] = leaves[name]
            placed.append(self.ensemble.place(filled))
        self._now = (jax.tree.unflatten(jax.tree.structure(self.state), placed), step)
        self.marked_step = marked_step


@jax.jit
def _first(array: Array) -> Array:
    return array.ravel()[0]
