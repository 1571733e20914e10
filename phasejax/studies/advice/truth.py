"""What the whole training says where a pilot gave advice, and what other ways to a setting would have cost."""

import math

import numpy as np
import xarray as xr

from phasejax.advice.pilot import SEEDS, normalises
from phasejax.advice.reading import Reading, boundary, read, scores
from phasejax.analysis.run import grid_axis, settings
from phasejax.analysis.statistics import nearest
from phasejax.experiment import Experiment

BUDGET = 0.01
"""Steps of a pilot over those of the whole training."""


class Truth:
    """A whole training on a plane: its boundaries, and how much worse than the best a setting is.

    The best cell is chosen by half of the seeds and looked at by the others, both ways round: the lowest of many noisy means
    is low.
    """

    def __init__(self, run: xr.Dataset) -> None:
        self.run, self.rate = run, grid_axis(run)
        self.y = scores(run)
        self.columns = boundary(self.y.mean("seed"), self.rate)
        seeds = np.arange(run.sizes["seed"])
        self._halves = [(seeds[0::2], seeds[1::2]), (seeds[1::2], seeds[0::2])]

    @property
    def best(self) -> tuple[float, float]:
        """Temperature (or learning rate) and sigma_w of the lowest mean over all seeds."""
        mean = self.y.mean("seed")
        up, across = np.unravel_index(int(mean.values.argmin()), mean.shape)
        return float(mean[self.rate][up]), float(mean.sigma_w[across])

    def jamming(self, rate: float) -> xr.Dataset:
        """`boundary` along sigma_w at the temperature (or learning rate) nearest to one."""
        return boundary(self.y.mean("seed").sel({self.rate: rate}, method="nearest"), "sigma_w")

    def regret(self, rate: float, sigma_w: float) -> float:
        """Decades by which the cell nearest to a setting is worse than the best."""
        up, across = nearest(self.y[self.rate], rate), nearest(self.y.sigma_w, sigma_w)
        return float(np.mean([self._over(look)[up, across] - self._best(choose, look) for choose, look in self._halves]))

    def _over(self, seeds: np.ndarray) -> np.ndarray:
        return self.y.isel(seed=seeds).mean("seed").values

    def _best(self, choose: np.ndarray, look: np.ndarray) -> float:
        return float(self._over(look).flat[self._over(choose).argmin()])

    def searched(self, budget: float, halving: bool, draws: int = 400) -> float:
        """Mean regret of a random search, or of successive halving, of one seed a cell.

        Args:
            budget: what it may cost, in trainings of one student.
            halving: go on with the better half after 1/64, 1/32 ... of the training, with as many cells as the budget bears.
            draws: over which the mean is.
        """
        random, last = np.random.default_rng(0), int(self.run.step[-1])
        rungs = [last // 2**k for k in range(6, -1, -1)] if halving else [last]
        records = [int(np.abs(self.run.step.values - at).argmin()) for at in rungs]
        ys = np.stack([scores(self.run, record).values.reshape(-1, self.y.sizes["seed"]) for record in records])
        kept = [2.0**-k for k in range(len(rungs))]
        first = min(ys.shape[1], max(1, int(budget / np.dot(kept, np.diff([0, *rungs]) / last))))
        found = []
        for choose, look in self._halves:
            at_end, best = self._over(look).ravel(), self._best(choose, look)
            for _ in range(draws // 2):
                cells, seed = random.permutation(ys.shape[1])[:first], random.choice(choose)
                for rung, share in enumerate(kept):
                    order = np.argsort(ys[rung, cells, seed])
                    cells = cells[order[: max(1, int(first * share / 2)) if rung + 1 < len(kept) else 1]]
                found.append(at_end[cells[0]] - best)
        return float(np.mean(found))


def pilot_and_truth(run: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """A run cut in two: the first seeds up to a hundredth of the steps, and the others, whole."""
    short = nearest(np.maximum(run.step, 0.5), BUDGET * int(run.step[-1]))
    return run.isel(step=slice(short + 1), seed=slice(SEEDS)), run.isel(seed=slice(SEEDS, None))


def advice_of(pilot: xr.Dataset, steps: int) -> Reading:
    """What a pilot says of a whole training of so many steps."""
    falls = normalises(Experiment.from_tables(settings(pilot)))
    return read(pilot, math.log10(steps / int(pilot.step[-1])) if falls else None)
