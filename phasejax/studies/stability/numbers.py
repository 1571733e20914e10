"""The temperatures of each teacher that the study is about, in octaves."""

import xarray as xr

from phasejax.analysis.run import member
from phasejax.analysis.stability import diverged, lost, relative, stability_edge, transition
from phasejax.analysis.statistics import log2, log10, sound

LEARNT = 1e-2
"""T_c is where the loss is this part of what it is without any learning, at the start of small random weights."""
WAYS = ("drawn", "heated", "cooled")
"""From where students come: from a draw, from their teacher, or from higher temperatures."""


def edges(tree: xr.DataTree) -> xr.Dataset:
    """Temperatures of each teacher, in octaves, (seed,) or (step, seed).

    `T_0` and `T_0 identity` of the network and of its control; `lost` and `lost identity`, where a start at the teacher is
    lost; `diverged identity`, where the control diverges; and `T_c drawn` and `T_c heated`.
    """
    heated, control = member(tree, "heated"), member(tree, "identity")
    at_start = member(tree, "drawn").test_loss.sel(step=0, drop=True).isel(temperature=0, drop=True)
    found = {
        "T_0": stability_edge(heated),
        "T_0 identity": stability_edge(control),
        "lost": lost(heated),
        "lost identity": lost(control),
        "diverged identity": diverged(control),
    }
    found |= {f"T_c {way}": transition(member(tree, way), LEARNT * at_start) for way in ("drawn", "heated")}
    return xr.Dataset({name: log2(edge.drop_vars("learning_rate", errors="ignore")) for name, edge in found.items()})


def ways(tree: xr.DataTree, ratios: tuple[float, ...]) -> xr.Dataset:
    """log10 of the test loss at given T / T_0, by where students come from: (step, relative_temperature, seed)."""
    found = {}
    for way in WAYS:
        run = member(tree, way)
        found[way] = relative(log10(sound(run, run.test_loss)), stability_edge(run), ratios)
    return xr.Dataset(found)
