"""How long to train, at which learning rate, and when to look: the ladder of stops.

All of it follows from the steps, the steps of an epoch and this object alone, so a run that is interrupted, cut or resumed
climbs the same ladder.
"""

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from phasejax.checks import number, one_of, part, refuse, sequence, set_fields, whole

# Epochs shorter than this many steps are joined into one block, so that a call is always worth its overhead; but no more
# samples than this, for a block's are all held at once, and large batches are worth it sooner.
_STEPS_PER_CALL, _SAMPLES_PER_CALL = 1000, 2**16


@part("schedule")
class Schedule:
    """How long to train, how the learning rate goes, and when to look.

    The learning rate at update k of n is the cell's own times a factor, and the temperature with it: T(t) = T factor(k / n).

    Raises:
        ExperimentError: a number that cannot be, or knots that do not ascend.
    """

    steps: int = 100_000
    """Updates per student; 0 only records the initial state."""
    records_per_decade: int = 8
    """Records per factor of ten in steps, evenly spaced on a log axis; above one epoch they fall on whole epochs."""
    rate: Any = ()
    """The factor's knots, (share of the run, factor) each, or "cosine" from 1 to 0; constant if empty."""
    interpolation: str = "log"
    """Between knots: linear in the logarithm of the factor (log), or in the factor itself (linear)."""
    weights: str = "decades"
    """When weights are recorded: at all "records", at whole "decades" of steps and the ends, or at the "ends"."""
    stride: int = 1
    """Records are taken at so many times the steps they would be at else: members of a study fall together."""

    def __post_init__(self) -> None:
        set_fields(self, steps=whole("schedule.steps", self.steps, 0),
                   records_per_decade=whole("schedule.records_per_decade", self.records_per_decade, 1, 1000),
                   stride=whole("schedule.stride", self.stride, 1))  # fmt: skip
        one_of("schedule.interpolation", self.interpolation, ("log", "linear"))
        one_of("schedule.weights", self.weights, ("records", "decades", "ends"))
        if self.rate == "cosine":
            return
        if isinstance(self.rate, str):
            raise refuse("schedule.rate", self.rate, 'give knots, (share of the run, factor) each, or "cosine"')
        knots = []
        for knot in sequence("schedule.rate", self.rate):
            pair = sequence("schedule.rate", knot)
            if len(pair) != 2:
                raise refuse("schedule.rate", list(pair), "a knot is a pair, (share of the run, factor)")
            share = number("schedule.rate", pair[0], "a share of the run is a number from 0 to 1")
            if not 0 <= share <= 1:
                raise refuse("schedule.rate", share, "a share of the run is a number from 0 to 1")
            least = "a factor must be a positive finite number" if self.interpolation == "log" else "it must not be negative"
            factor = number("schedule.rate", pair[1], least, 0 if self.interpolation == "log" else -math.ulp(0))
            if knots and share < knots[-1][0]:
                raise refuse("schedule.rate", share, "the shares of the knots must ascend")
            knots.append((share, factor))
        set_fields(self, rate=tuple(knots))

    @property
    def constant(self) -> bool:
        """Whether the learning rate is the cell's own throughout."""
        return not self.rate

    def factor(self, step: int) -> float:
        """Factor of the learning rate at the update that follows so many others."""
        if self.constant:
            return 1.0
        share = step / self.steps if self.steps else 0.0
        if self.rate == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        shares, factors = [s for s, _ in self.rate], [f for _, f in self.rate]
        after = bisect.bisect_right(shares, share)
        if after in (0, len(shares)):
            return factors[min(after, len(shares) - 1)]
        (s0, s1), (f0, f1) = shares[after - 1 : after + 1], factors[after - 1 : after + 1]
        part = (share - s0) / (s1 - s0)
        return f0 * (f1 / f0) ** part if self.interpolation == "log" else f0 + (f1 - f0) * part


class Stop(NamedTuple):
    """A step at which the compiled loop comes back to the host, and what is done there."""

    step: int
    record: bool = False
    """Observe."""
    decade: bool = False
    """The record is at step 0, at a power of ten or at the end."""
    end: bool = False
    """The record is the first or the last."""
    mark: bool = False
    """Open the window over which training loss and gradient are averaged, one epoch before a record."""

    def occasions(self) -> tuple[str, ...]:
        """What is recorded here."""
        now = {"records": self.record, "decades": self.decade, "ends": self.end, "once": self.step == 0}
        return tuple(when for when, due in now.items() if due)


class Ladder(NamedTuple):
    """The stops of a schedule, for epochs of so many steps."""

    schedule: Schedule
    epoch: int
    """Updates per epoch, D // B."""
    batch: int = 1
    """Samples per update B."""

    @property
    def block(self) -> int:
        """Updates whose batches are made at once: an epoch, or several where an epoch is very short."""
        steps = min(_STEPS_PER_CALL, _SAMPLES_PER_CALL // self.batch)
        return self.epoch * max(1, steps // self.epoch)

    def records(self) -> list[int]:
        """The steps at which records are taken, ascending: 0, about `records_per_decade` per decade, and the last.

        Above one epoch a record falls on a whole epoch; powers of ten are recorded as they are.
        """
        last = self.schedule.steps
        records = self._decades() | {min(last, step) for step in self._spaced(last)}
        return sorted(records)

    def ends_of_shorter_runs(self) -> list[int]:
        """Records at which a shorter run could have ended and this one gone on from it, ascending."""
        return [
            step for step in sorted({*self._decades(), *self._spaced(self.schedule.steps)}) if step < self.schedule.steps
        ]

    def stops(self) -> list[Stop]:
        """The ladder of stops, ascending from step 0: records and marks.

        Of averaging windows that overlap only one can be open: that of the last record, else that of the earlier record.
        """
        last = self.schedule.steps
        records, decades = set(self.records()), self._decades()
        closing = self._window_start(last)
        opened = reached = 0
        marks = {opened, closing}
        for step in sorted(records):
            start = self._window_start(step)
            if start == opened or (reached <= start <= closing and (step <= closing or start == closing)):
                opened, reached = start, step
                marks.add(start)
        return [Stop(s, s in records, s in decades, s in (0, last), s in marks) for s in sorted(records | marks)]

    def window(self, step: int) -> int:
        """Updates over which a record averages the training loss and gradient: an epoch, or all so far if fewer."""
        return step - self._window_start(step)

    def factors(self, first: int) -> Sequence[float]:
        """Factors of the learning rate at the updates of the block that begins after `first` others."""
        return [self.schedule.factor(step) for step in range(first, first + self.block)]

    def _window_start(self, step: int) -> int:
        return max(0, step - self.epoch)

    def _decades(self) -> set[int]:
        last, stride = self.schedule.steps, self.schedule.stride
        return {0, last} | {stride * 10**k for k in range(len(str(last))) if stride * 10**k <= last}

    def _spaced(self, last: int) -> Iterator[int]:
        k = 0
        while (step := self.schedule.stride * round(10 ** (k / self.schedule.records_per_decade))) <= last:
            yield step if step <= self.epoch else round(step / self.epoch) * self.epoch
            k += 1
