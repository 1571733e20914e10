"""Levels of W W^T that stand off a random bulk; a run in, arrays out.

The largest level of an n x m Gaussian W, entries of variance s^2 / m, lies at s^2 (mu + tau TW_1) / m with the centre and
scale of Johnstone, Ann. Statist. 29 (2001) 295, and the distribution TW_1 of Tracy and Widom. Its limit is the edge x_+ of
Marchenko and Pastur (Eq 4.2). s is that of the start, or what the median level of the bulk says it is by now (Gavish and
Donoho, IEEE Trans. Inf. Theory 60 (2014) 5040): a bulk that noise has blown up is still a bulk. What stands off is no part
of it, so directions are set aside one after another, largest first, until the next lies inside (as Kritchman and Nadler,
IEEE Trans. Signal Process. 57 (2009) 3930); k of them leave an (n - k) x (m - k) Gaussian with entries of the same variance.
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


def bulk(run: xr.Dataset, layer: int, of: str = "") -> xr.Dataset:
    """Bulk of a layer's levels: its `scale` s^2, its `edge`, and the number of `outliers` above that.

    Args:
        run: with levels (step, ..., seed, level), ascending.
        layer: from 1.
        of: the bulk there is (`bulk`), whose largest level is below the edge that its own median level says it has, or there
            was (`start`). A median tells the bulk from what stands off only where it is more than half of all levels.
    """
    levels, at, (nodes, inputs) = run[f"eigenvalues_{layer}"], f"level_{layer}", shape(run, layer)
    if (of or RANDOM[layer]) == "start":
        found = xr.Dataset({"scale": run.sigma_w**2, "edge": run.sigma_w**2 * edge(nodes, inputs)})
        count = (levels > found.edge).sum(at)
    else:
        tried = []
        for k in range(nodes):
            rest, left = levels.isel({at: slice(nodes - k)}), (nodes - k, inputs - k)
            scale = rest.median(at) / (median(*left) * left[1] / inputs)
            tried.append(xr.Dataset({"scale": scale, "edge": scale * edge(*left) * left[1] / inputs, "top": rest.max(at)}))
        aside = xr.concat(tried, xr.Variable("aside", range(nodes)))
        count = (aside.top <= aside.edge).argmax("aside")
        found = xr.Dataset({name: aside[name].isel(aside=count) for name in ("scale", "edge")})
    return found.assign(outliers=count.where(levels.notnull().all(at)))


def outliers(run: xr.Dataset, layer: int, of: str = "") -> xr.DataArray:
    """How many levels lie above the edge of the bulk there is (`bulk`) or there was (`start`): (step, ..., seed)."""
    return bulk(run, layer, of).outliers
