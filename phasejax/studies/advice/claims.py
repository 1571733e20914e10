"""What is said of it. Every interval was set before the rules were made."""

from typing import Any

import numpy as np
import xarray as xr

from phasejax.advice.pilot import SEEDS
from phasejax.advice.reading import CONTRAST, LEVEL, TIED, boundary, scores
from phasejax.analysis.run import grid_axis, members, require, settings
from phasejax.analysis.statistics import log10
from phasejax.claims.judging import Averages, Claim, Measure
from phasejax.claims.nulls import Null
from phasejax.studies.advice.truth import pilot_and_truth


def plain(tree: xr.DataTree) -> xr.Dataset:
    """y of pilot and truth of every member trained by SGD, seed k of the one beside seed k of the other; judged last."""
    found: dict[str, xr.DataArray] = {}
    for name, run in members(tree).items():
        require(run, "test_loss", "constant_loss", "diverged_step", "sigma_w")
        if settings(run)["sgd"]["optimizer"] == "sgd":
            for part, cut in zip(("pilot", "truth"), pilot_and_truth(run), strict=True):
                y = scores(cut.isel(seed=slice(SEEDS))).assign_coords(seed=range(SEEDS))
                found[f"{part} {name}"] = y.rename({axis: f"{axis} {name}" for axis in ("temperature", "sigma_w")})
    last = max(int(run.step[-1]) for run in members(tree).values())
    return xr.Dataset(found).expand_dims(step=[last])


def _pairs(x: Averages) -> list[tuple[str, xr.DataArray, xr.DataArray]]:
    names = [str(name).removeprefix("pilot ") for name in x.data_vars if str(name).startswith("pilot ")]
    return [(name, _own(x[f"pilot {name}"], name), _own(x[f"truth {name}"], name)) for name in names]


def _own(y: xr.DataArray, name: str) -> xr.DataArray:
    return y.rename({f"{axis} {name}": axis for axis in ("temperature", "sigma_w")})


def error(x: Averages) -> xr.DataArray:
    """Mean of |log2 T_c of the pilot over the truth's| over columns that have a boundary in both, in octaves."""
    errors: list[xr.DataArray] = []
    for _, pilot, truth in _pairs(x):
        ours, theirs = boundary(pilot, "temperature", LEVEL), boundary(truth, "temperature")
        there = (ours.contrast > CONTRAST) & (theirs.contrast > 1)
        errors.append(np.abs(log10(ours["at"] / theirs["at"]) / np.log10(2)).where(there).drop_vars("sigma_w"))
    return xr.concat(errors, "sigma_w").mean("sigma_w")


def _cells(y: xr.DataArray) -> xr.DataArray:
    return y.stack(cell=("temperature", "sigma_w")).transpose(..., "cell").reset_index("cell", drop=True)


def regret(x: Averages, constant: bool = False) -> xr.DataArray:
    """Mean over networks of the decades by which the pilot's cell, or T = 1/8 at sigma_w = 1, is worse than the lowest."""
    found: list[xr.DataArray] = []
    for _, pilot, truth in _pairs(x):
        if constant:
            at = truth.sel(temperature=0.125, sigma_w=1.0, method="nearest", drop=True)
        else:
            ours = _cells(pilot)
            # Cells ascend in temperature: the first of those that are tied is the coldest.
            chosen = (ours <= ours.min("cell") + TIED).argmax("cell")
            at = _cells(truth).isel(cell=chosen)
        found.append(at - truth.min(["temperature", "sigma_w"]))
    return xr.concat(found, "network").mean("network")


def _permuted(run: xr.Dataset) -> xr.Dataset:
    axis = grid_axis(run)
    order = np.random.default_rng(1).permutation(run.sizes[axis])
    pilots = run.isel(seed=slice(SEEDS))
    changed = pilots.isel({axis: order}).assign_coords({axis: run[axis]})
    return xr.concat([changed[[*run.data_vars]], run.isel(seed=slice(SEEDS, None))], "seed", coords="minimal",
                     compat="override", combine_attrs="override")  # fmt: skip


permuted_pilots = Null("the pilots' cells permuted along the temperature", _permuted)


def _measure(name: str, statistic: Any, low: float = -np.inf, high: float = np.inf) -> Measure:
    return Measure(name, plain, statistic, low, high)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="boundary",
        statement="A pilot of a hundredth of the steps puts the temperature boundary right to within a factor of two",
        where="docs/advice.md",
        expected="mean error at most 0.6 octaves",
        measures=(_measure("mean error of T_c, octaves", error, high=0.6),),
        null=permuted_pilots,
        over="study",
    ),
    Claim(
        key="best_cell",
        statement="The pilot's best cell is nearly as good as the best one after the whole training, and better than one "
        "setting for all networks, T = 1/8 at sigma_W = 1",
        where="docs/advice.md",
        expected="mean regret at most 0.2 decades",
        measures=(
            _measure("mean regret, decades", regret, high=0.2),
            _measure("mean regret of T = 1/8, less that", lambda x: regret(x, constant=True) - regret(x), low=0.0),
        ),
        remark="the lowest of noisy means is low, so that this regret is an upper bound",
        null=permuted_pilots,
        over="study",
    ),
)
