"""Measured motion of levels beside what their equation predicts, from a run's records."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from phasejax.analysis.run import settings
from phasejax.analysis.statistics import sound
from phasejax.analysis.theory import Coefficients, integrate, stationary_variance

WHOLE = ("drift", "ito", "coulomb", "finite_step")
"""Parts of the motion to second order."""
READINGS: dict[str, tuple[str, ...]] = {
    "second order": WHOLE,
    "without Itô": ("drift", "coulomb", "finite_step"),
    "the paper's Eq 4.8": ("drift", "equally_spaced"),
}
"""What is taken of it."""
KICKED = 10
"""Steps in which levels that begin close together are thrown apart: too close for perturbation theory."""
_MOVING = 0.5
_INPUTS, _OUTPUTS = 11, 6


def learning_rate(run: xr.Dataset) -> xr.DataArray:
    """Epsilon of plain SGD, (temperature,)."""
    return run.temperature * settings(run)["sgd"]["batch_size"]


def displacement(run: xr.Dataset, first: int = 0) -> xr.DataArray:
    """x_i(t) - x_i(first), of sound students: (step, ..., seed, level)."""
    levels = sound(run, run.eigenvalues).sel(step=slice(first, None))
    return levels - levels.isel(step=0, drop=True)


def predicted(run: xr.Dataset, first: int = 0) -> xr.DataArray:
    """What each part of the motion has moved the levels by since then, a motion before each step: (part, step, ...).

    Every step must be recorded.
    """
    rate = learning_rate(run)
    by = {"drift": 1.0, "finite_step": rate}
    parts = [sound(run, run.motion.sel(part=str(p))) * by.get(str(p), run.temperature) * rate for p in run.part.values]
    moves = xr.concat(parts, run.part).sel(step=slice(first, None))
    return moves.cumsum("step").shift(step=1, fill_value=0.0).assign_coords(step=moves.step)


def moves(run: xr.Dataset) -> xr.Dataset:
    """The temperatures at which the levels move by more than they are in 200 steps."""
    return run.isel(temperature=np.flatnonzero(run.temperature >= _MOVING))


def trace(levels: xr.DataArray) -> xr.DataArray:
    """Of X."""
    return levels.sum("level", skipna=False)


def width(levels: xr.DataArray) -> xr.DataArray:
    """x_N - x_1."""
    return levels.isel(level=-1, drop=True) - levels.isel(level=0, drop=True)


def growth(run: xr.Dataset, of: Callable[[xr.DataArray], xr.DataArray], first: int = KICKED) -> xr.Dataset:
    """How much width or trace has grown since then, and by which parts of the motion: (..., seed), (part, ..., seed)."""
    found = {"moved": of(displacement(run, first)), "parts": of(predicted(run, first))}
    return xr.Dataset(found).isel(step=-1, drop=True)


def ratio(means: xr.Dataset, reading: str) -> xr.DataArray:
    """Predicted over measured growth, of means over students."""
    return means.parts.sel(part=list(READINGS[reading])).sum("part", skipna=False) / means.moved


class Companions:
    """Levels that move by the coefficients of students, each by those of one, but have noise of their own.

    Coefficients belong to the levels they were measured at. What is taken over are the rates K_i / x_i, the variances
    V_ij / (x_i + x_j), and the normalised root of the covariance, which are constant for isotropic noise and a linear force.
    Between records they are interpolated.
    """

    def __init__(self, run: xr.Dataset) -> None:
        def values(of: xr.DataArray) -> np.ndarray:
            return of.transpose("step", "seed", "level", ...).values.astype(float)

        run, rate = run.sel(step=slice(KICKED, None)), float(run.temperature) * settings(run)["sgd"]["batch_size"]
        self.times, self.levels = run.step.values * rate, values(run.eigenvalues)
        part = {str(name): values(run.motion.sel(part=name)) for name in run.part.values}
        sizes = np.sqrt(self.levels)
        elements, diagonal = (values(run.noise.sel(of=of)) for of in ("elements", "diagonal"))
        covariances, vectors = np.linalg.eigh(diagonal / (4 * sizes[..., :, None] * sizes[..., None, :]))
        self._drift = (part["drift"] + rate * part["finite_step"]) / self.levels
        self._ito = part["ito"]
        self._noise = elements / (self.levels[..., :, None] + self.levels[..., None, :])
        self._root = (vectors * np.sqrt(np.clip(covariances, 0, None))[..., None, :]) @ np.swapaxes(vectors, -1, -2)

    def __call__(self, levels: np.ndarray, time: float) -> Coefficients:
        """Of the companions, (seed, level), at a time."""
        drift, ito, noise, root = (
            _between(self.times, of, time) for of in (self._drift, self._ito, self._noise, self._root)
        )
        together = noise * (levels[..., :, None] + levels[..., None, :])
        return Coefficients(drift * levels, ito, together, 2 * np.sqrt(levels)[..., None] * root)


def accompanied(cell: xr.Dataset) -> tuple[Companions, np.ndarray]:
    """The coefficients of a cell's students, and paths of their companions at the students' records: (step, seed, level)."""
    process = Companions(cell)
    longest = float(learning_rate(cell)) / 2
    random = np.random.default_rng(0)
    return process, integrate(process.levels[0], process, float(cell.temperature), process.times, longest, random)


def _between(times: np.ndarray, values: np.ndarray, time: float) -> np.ndarray:
    after = int(np.clip(np.searchsorted(times, time, side="right"), 1, len(times) - 1))
    part = (time - times[after - 1]) / (times[after] - times[after - 1])
    return values[after - 1] + np.clip(part, 0, 1) * (values[after] - values[after - 1])


# The matrix that learns noise alone.


def stability(run: xr.Dataset) -> xr.DataArray:
    """s = T [q + (B - 1) lambda] of `tasks.Noise`, lambda = 1 and q the number of inputs: (temperature,)."""
    return run.temperature * (_INPUTS + settings(run)["sgd"]["batch_size"] - 1)


def variance(run: xr.Dataset) -> xr.DataArray:
    """Mean square of an entry of W, from the levels: (step, ..., seed)."""
    return sound(run, run.eigenvalues).sum("level", skipna=False) / (_INPUTS * _OUTPUTS)


def expected_variance(run: xr.Dataset) -> xr.DataArray:
    """The same of batches drawn with replacement, exactly, at every step: (temperature, step)."""
    rate, batch = learning_rate(run), settings(run)["sgd"]["batch_size"]
    factor = 1 - 2 * rate + rate**2 * (_INPUTS / batch + 1 - 1 / batch)
    final = stationary_variance(run.temperature, 1.0, 1.0, stability(run))
    start = float(run.sigma_w) ** 2 / _INPUTS
    return final + (start - final) * factor**run.step


def standard_levels(count: int) -> np.ndarray:
    """Mean eigenvalues of W W^T of Gaussian matrices with entries of variance 1: (level,)."""
    w = np.random.default_rng(0).standard_normal((count, _OUTPUTS, _INPUTS))
    return np.linalg.eigvalsh(w @ w.transpose(0, 2, 1)).mean(0)
