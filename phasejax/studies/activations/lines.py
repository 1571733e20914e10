"""The two boundaries of a plane, for any activation; a run in, arrays out."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.optimize import brentq
from scipy.special import erf

from phasejax.analysis.stability import stability_edge
from phasejax.analysis.statistics import crossings, log2, log10, nearest, sound

LEARNT, STUCK = -2.0, -1.0
"""log10 of the share of the teacher's variance that is left: below the first it is learnt, above the second it is not."""


def remaining(run: xr.Dataset) -> xr.DataArray:
    """log10 of what is left of the loss of a student that knows nothing, at most 0: (temperature, sigma_w, seed).

    That loss is that of the smallest initial weights, whose outputs are near 0. Students that diverged know nothing.
    """
    loss = sound(run, run.test_loss)
    nothing = loss.isel(step=0, sigma_w=int(run.sigma_w.values.argmin()), temperature=0, drop=True)
    return log10((loss.isel(step=-1) / nothing).fillna(1.0).clip(max=1.0))


def critical_temperature(left: xr.DataArray) -> xr.DataArray:
    """log2 of the highest T up to which it is learnt, (seed): at the smallest sigma_W; NaN where it is not on the grid."""
    weak = left.isel(sigma_w=int(left.sigma_w.values.argmin()), drop=True)
    return _highest(weak, LEARNT, "temperature")


def jamming_line(cold: xr.DataArray) -> xr.DataArray:
    """log2 of the sigma_W from which on little is learnt, of `along_disorder`; NaN where it is not on the grid."""
    return _highest(cold, STUCK, "sigma_w")


def _highest(left: xr.DataArray, level: float, along: str) -> xr.DataArray:
    # All is as far above the level as counts below it, or a jump from next to nothing would be put next to its upper cell.
    return log2(crossings(left.clip(min=2 * level), level, along, rising=True).max("crossing"))


COLD = 4.0
"""The jamming line is read off at the median T_0 over this, where learning is stable for nearly every teacher."""


def edge(run: xr.Dataset) -> xr.DataArray:
    """log2 of T_0 at each teacher's weights, (seed)."""
    return log2(stability_edge(run, at="teacher"))


def along_disorder(run: xr.Dataset, left: xr.DataArray) -> xr.DataArray:
    """What is left at the temperature at which the jamming line is read off, (sigma_w, ...)."""
    return left.isel(temperature=nearest(left.temperature, 2 ** float(edge(run).median()) / COLD), drop=True)


# Mean field of the trained layer: its pre-activations are Gaussian of variance q = sigma_W^2 E phi(z)^2, z ~ N(0, 1), and
# a perturbation is carried on with the factor chi = sigma_W^2 E phi'(sqrt(q) z)^2 (Poole et al., NeurIPS 2016).

NODES: dict[str, tuple[Callable, Callable]] = {
    "tanh": (np.tanh, lambda z: 1 / np.cosh(np.clip(z, -300, 300)) ** 2),
    "erf": (erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2))),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) + 0.0),
    "gelu": (
        lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
        lambda z: (1 + erf(z / np.sqrt(2))) / 2 + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "identity": (lambda z: z, np.ones_like),
}
"""Activations and their slopes."""

_Z = np.linspace(-8, 8, 16_001)
_WEIGHT = np.exp(-(_Z**2) / 2) / np.sqrt(2 * np.pi) * (_Z[1] - _Z[0])


def chi(activation: str, sigma_w: float) -> float:
    """The factor chi of the trained layer."""
    phi, slope = NODES[activation]
    q = sigma_w**2 * float(_WEIGHT @ phi(_Z) ** 2)
    return sigma_w**2 * float(_WEIGHT @ slope(np.sqrt(q) * _Z) ** 2)


def order_to_chaos(activation: str) -> float:
    """sigma_W at which chi = 1."""
    return brentq(lambda sigma: chi(activation, sigma) - 1, 0.1, 10)  # pyright: ignore[reportReturnType]
