"""Closed forms beside which a run is drawn: levels as a Dyson process, the law of one spacing, the variance of a weight.

NumPy in and out. The coefficients of a run's own levels are recorded (`phasejax.observables.level_motion`); here are those
of isotropic noise, and what follows from coefficients, whosever they are.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats


class Coefficients(NamedTuple):
    """Of dx_i = [K_i + T I_i + T sum_(j != i) V_ij / (x_i - x_j)] dt + sqrt(T) sum_j R_ij dB_j."""

    drift: np.ndarray
    """K_i, (..., n)."""
    ito: np.ndarray
    """I_i, (..., n)."""
    noise: np.ndarray
    """V_ij, (..., n, n), symmetric; the diagonal is not read."""
    root: np.ndarray
    """R_ij, (..., n, n): R R^T is the covariance of different levels' noise."""


def laguerre(levels: np.ndarray, columns: int, variance: float, restoring: float = 0.0) -> Coefficients:
    """Coefficients where every entry of W goes by dW = -restoring W dt + sqrt(T variance) dB, alone.

    For T variance = 1 and no restoring force this is the Laguerre process, of W in free Brownian motion:
    dx_i = 2 sqrt(x_i) dB_i + [columns + sum_(j != i) (x_i + x_j) / (x_i - x_j)] dt (Bru, J. Theor. Probab. 4 (1991) 725).

    Args:
        levels: eigenvalues of W W^T, (..., n).
        columns: of W, at least n.
        variance: of the gradient's noise, an entry of W and a sample.
        restoring: rate at which W decays.
    """
    n = levels.shape[-1]
    together = variance * (levels[..., :, None] + levels[..., None, :])
    alone = 2 * np.sqrt(variance * levels)[..., None] * np.eye(n)
    return Coefficients(-2 * restoring * levels, np.full_like(levels, variance * columns), together, alone)


def integrate(
    levels: np.ndarray,
    coefficients: Callable[[np.ndarray, float], Coefficients],
    temperature: float,
    times: Sequence[float] | np.ndarray,
    step: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Paths of the levels, by Euler and Maruyama's method, but for the repulsion.

    Two levels alone would part by d gap / dt = 2 T V / gap, which is solved exactly: the force of a near pair would else
    throw its levels as far as it is near. What crosses all the same is put into order, and what falls below 0 turned back.

    Args:
        levels: at the first time, (..., n), not negative.
        coefficients: of the levels at a time.
        temperature: T.
        times: at which levels are wanted, ascending, the first that of the start.
        step: longest step of the integration.
        random: numbers.

    Returns:
        (time, ..., n), ascending along the last axis.
    """
    x = np.sort(np.asarray(levels, float), -1)
    paths = [x]
    for start, end in itertools.pairwise(times):
        steps = max(1, int(np.ceil((end - start) / step)))
        dt = (end - start) / steps
        for k in range(steps):
            c = coefficients(x, start + k * dt)
            gaps = x[..., :, None] - x[..., None, :]
            parted = np.sign(gaps) * (np.sqrt(gaps**2 + 4 * temperature * dt * np.clip(c.noise, 0, None)) - np.abs(gaps)) / 2
            kick = c.root @ random.standard_normal((*x.shape, 1))
            x = x + (c.drift + temperature * c.ito) * dt + parted.sum(-1) + np.sqrt(temperature * dt) * kick[..., 0]
            x = np.sort(np.abs(x), -1)
        paths.append(x)
    return np.array(paths)


def spacing_law(restoring: float, V_S: float, D_S: float, temperature: float) -> Any:
    """Stationary law of one spacing under dS/dt = -restoring S + T V_S / S + sqrt(2 T D_S) eta (Eqs 4.8, 4.9).

    P(S) ~ S^rho exp(-restoring S^2 / (2 T D_S)), rho = V_S / D_S: a chi distribution, as a frozen one of SciPy's. Its mean
    is sqrt(2 T D_S / restoring) Gamma(1 + rho/2) / Gamma((1 + rho)/2); rho = 1, which is that of two levels under isotropic
    noise, gives the Wigner surmise.
    """
    return scipy.stats.chi(1 + V_S / D_S, scale=np.sqrt(temperature * D_S / restoring))


def stationary_variance(temperature: Any, noise: Any, curvature: Any, stability: Any) -> Any:
    """Variance of a weight that goes by w' = w - epsilon (batch mean of h_a w + xi_a), E h_a = curvature, Var xi_a = noise.

    T v / (lambda (2 - s)): exact, with s = T [q + (B - 1) lambda] and q = E h_a^2 / lambda for batches of B drawn with
    replacement. Where all h_a are equal the noise is additive, and s = epsilon lambda.
    """
    return temperature * noise / (curvature * (2 - stability))
