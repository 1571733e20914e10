"""Levels of W W^T that stand off a random bulk; a run in, arrays out.

The largest level of an n x m Gaussian W, entries of variance s^2 / m, lies at s^2 (mu + tau TW_1) / m with the centre and
scale of Johnstone, Ann. Statist. 29 (2001) 295, and the distribution TW_1 of Tracy and Widom. Its limit is the edge x_+ of
Marchenko and Pastur (Eq 4.2). s is that of the start, or what the median level of the bulk says it is by now (Gavish and
Donoho, IEEE Trans. Inf. Theory 60 (2014) 5040): a bulk that noise has blown up is still a bulk. Levels above its edge are no
part of it: with nine of 32 among them the median is the bulk's 70 % point, and too many outliers would hide some.
"""

import functools

import numpy as np
import xarray as xr
from scipy.integrate import cumulative_trapezoid

from phasejax.analysis.run import settings
from phasejax.analysis.spectrum import marchenko_pastur, marchenko_pastur_edges

TRACY_WIDOM_95 = 0.9793
"""The 95 % point of TW_1 (Johnstone, Table 1)."""
RANDOM = {1: "bulk", 2: "start"}
"""By layer, what its levels stand off: of the readout, with a node a class, learning leaves no bulk."""


def edge(nodes: int, inputs: int) -> float:
    """What the largest level of a random W exceeds once in twenty, at s = 1."""
    rows, columns = np.sqrt(max(nodes, inputs) - 1), np.sqrt(min(nodes, inputs))
    centre, scale = (rows + columns) ** 2, (rows + columns) * (1 / rows + 1 / columns) ** (1 / 3)
    return (centre + TRACY_WIDOM_95 * scale) / inputs


@functools.cache
def median(nodes: int, inputs: int) -> float:
    """Median of the Marchenko-Pastur density at s = 1; n_l <= n_(l-1)."""
    ratio = nodes / inputs
    low, high = marchenko_pastur_edges(1.0, ratio)
    x = low + (high - low) * np.sin(np.linspace(0, np.pi / 2, 2001)) ** 2  # dense where the density rises from 0
    below = cumulative_trapezoid(marchenko_pastur(x, 1.0, ratio), x, initial=0)
    return float(np.interp(0.5, below, x))


def shape(run: xr.Dataset, layer: int) -> tuple[int, int]:
    """Nodes and inputs of a layer."""
    widths = settings(run)["network"]["widths"]
    return widths[layer], widths[layer - 1]


def scale_of(run: xr.Dataset, layer: int, of: str) -> xr.DataArray:
    """s^2 of the bulk there is, from the median level, (step, ..., seed), or of the start, (sigma_w)."""
    if of == "start":
        return run.sigma_w**2
    levels, at = run[f"eigenvalues_{layer}"], f"level_{layer}"
    bulk, middle, beyond = levels, median(*shape(run, layer)), edge(*shape(run, layer))
    while True:
        scale = bulk.median(at) / middle
        inside = levels.where(levels <= beyond * scale)
        if int(inside.count()) == int(bulk.count()):
            return scale
        bulk = inside


def outliers(run: xr.Dataset, layer: int, of: str = "") -> xr.DataArray:
    """How many levels lie above the edge of the bulk there is (`bulk`) or there was (`start`): (step, ..., seed)."""
    scale = scale_of(run, layer, of or RANDOM[layer])
    levels = run[f"eigenvalues_{layer}"]
    above = levels > edge(*shape(run, layer)) * scale
    return above.sum(f"level_{layer}").where(levels.notnull().all(f"level_{layer}")).rename("outliers")
