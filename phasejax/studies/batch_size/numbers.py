"""The temperatures of each teacher that the study is about, by batch size, in octaves."""

import xarray as xr

from phasejax.analysis.run import NotRecordedError, members, settings
from phasejax.analysis.stability import lost, stability_edge, transition
from phasejax.analysis.statistics import log2
from phasejax.studies.stability.numbers import LEARNT

WAYS = ("drawn", "heated")
"""From where students come: from a draw, or from their teacher."""


def by_batch_size(tree: xr.DataTree) -> dict[str, dict[int, xr.Dataset]]:
    """The runs from each start, by batch size, ascending.

    Raises:
        NotRecordedError: some are not there from the one start and from the other.
    """
    found: dict[str, dict[int, xr.Dataset]] = {way: {} for way in WAYS}
    for name, run in members(tree).items():
        found[name.partition(",")[0]][settings(run)["sgd"]["batch_size"]] = run
    if set(found["drawn"]) != set(found["heated"]):
        raise NotRecordedError("The study has not all batch sizes from both starts yet.")
    return {way: dict(sorted(runs.items())) for way, runs in found.items()}


def edges(tree: xr.DataTree) -> xr.Dataset:
    """Temperatures of each teacher at the end, in octaves: (batch, seed).

    `T_0`; `lost`, where a start at the teacher is lost; `T_c drawn` and `T_c heated`, where the loss is a hundredth of that
    of no output.
    """
    runs = by_batch_size(tree)
    found = []
    for batch, drawn in runs["drawn"].items():
        heated = runs["heated"][batch]
        at_start = LEARNT * drawn.test_loss.sel(step=0, drop=True).isel(temperature=0, drop=True)
        of = {
            "T_0": stability_edge(heated),
            "lost": lost(heated).isel(step=-1, drop=True),
            "T_c drawn": transition(drawn, at_start).isel(step=-1, drop=True),
            "T_c heated": transition(heated, at_start).isel(step=-1, drop=True),
        }
        own = {name: log2(edge.drop_vars("learning_rate", errors="ignore")) for name, edge in of.items()}
        found.append(xr.Dataset(own).assign_coords(batch=batch))
    joined = xr.concat(found, "batch", join="inner", coords="minimal", compat="override")
    assert isinstance(joined, xr.Dataset)
    return joined
