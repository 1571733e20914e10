"""The temperature above which SGD cannot stay at a solution, from the curvature there, and what students do about it."""

from typing import Any, Literal

import numpy as np
import xarray as xr

from phasejax.analysis.run import RunError, grid_axes, require, settings
from phasejax.analysis.statistics import crossings, log10, sound

At = Literal["teacher", "start"]


def edge_where_s_is_2(sharpness: Any, noise_sharpness: Any, batch_size: int, momentum: Any = 0.0) -> Any:
    """T_0 = 2 / (q + (B_eff - 1) lambda), B_eff = B (1 - mu) / (1 + mu), of numbers or arrays of any kind."""
    effective = batch_size * (1 - momentum) / (1 + momentum)
    return 2 / (noise_sharpness + (effective - 1) * sharpness)


def stability_edge(dataset: xr.Dataset, at: At = "teacher") -> xr.DataArray:
    """T_0, where s = 2 at a solution or at the start, in units of the temperature.

    Args:
        dataset: a run that recorded teacher_sharpness and teacher_noise_sharpness, or sharpness and noise_sharpness.
        at: at the teacher's weights, or where students start.

    Returns:
        (seed,), or (sigma_w, seed) and whatever else of the grid the start or momentum depends on.

    Raises:
        NotRecordedError: the run has not recorded them.
        RunError: its optimizer defines no temperature.
    """
    run = settings(dataset)
    if run["sgd"]["optimizer"] != "sgd":
        raise RunError("The run has no temperature, for its optimizer is not sgd.")
    if at == "teacher":
        require(dataset, "teacher_sharpness", "teacher_noise_sharpness")
        sharpness, noise_sharpness = dataset.teacher_sharpness, dataset.teacher_noise_sharpness
    else:
        require(dataset, "sharpness", "noise_sharpness")
        # Students of cells that begin alike have one curvature.
        start = run.get("start", {})
        kept = start.get("along", ["sigma_w"])
        others = {axis: 0 for axis in grid_axes(dataset) if axis in dataset.dims and axis not in kept}
        sharpness, noise_sharpness = (dataset[name].sel(step=0, drop=True).isel(others, drop=True)
                                      for name in ("sharpness", "noise_sharpness"))  # fmt: skip
    momentum = dataset.coords.get("momentum", 0.0)
    # A student that feels nothing is never unstable.
    edge = edge_where_s_is_2(sharpness.astype(float), noise_sharpness.astype(float), run["sgd"]["batch_size"], momentum)
    return edge.rename("stability_edge").assign_attrs(
        long_name=f"temperature of the stability edge at the {at}, T_0 = 2 / (q + (B_eff - 1) lambda)", units="1"
    )


def relative(values: xr.DataArray, edge: xr.DataArray, ratios: Any) -> xr.DataArray:
    """Values at given T / T_0, each seed's by its own T_0, interpolated in log T.

    Args:
        values: (..., temperature, seed), of what is smooth in log T.
        edge: (seed,), T_0.
        ratios: values of T / T_0.

    Returns:
        `values` with `relative_temperature` in place of the temperature; NaN where that is not among the run's.
    """
    values = values.sortby("temperature")
    there = np.log(values.temperature.values)
    at = xr.DataArray(np.asarray(ratios, float), dims="relative_temperature", name="relative_temperature")
    at = at.assign_coords(relative_temperature=at.values)
    wanted = np.log(at * edge)
    within = (wanted >= there[0]) & (wanted <= there[-1])
    place = xr.apply_ufunc(lambda at: np.interp(at, there, np.arange(there.size)), wanted)
    low = np.minimum(np.floor(place).astype(int), max(there.size - 2, 0))
    seed = xr.DataArray(np.arange(values.sizes["seed"]), dims="seed")
    below, above = (values.isel(temperature=np.minimum(k, there.size - 1), seed=seed) for k in (low, low + 1))
    below, above = (part.drop_vars(["temperature", "learning_rate"], errors="ignore") for part in (below, above))
    part = place - low
    return xr.where(part > 0, below + part * (above - below), below).where(within)


def lost(dataset: xr.Dataset) -> xr.DataArray:
    """The temperature above which students that started near a solution are farther from it than then: (step, seed).

    Where the test loss is what it was at step 0, lowest in T; it needs no level to be chosen. NaN where there is none.
    """
    require(dataset, "test_loss")
    # What grew beyond all numbers is far away.
    loss = dataset.test_loss.astype(float).where(dataset.diverged_step.sel(step=dataset.step) < 0, np.inf)
    loss = loss.where(loss.notnull(), np.inf)
    grown = log10(np.minimum(loss, 1e30)) - log10(loss.sel(step=0, drop=True))
    # What overflowed is no farther above than the deepest is below, or the place would be next to the last that is stable.
    return crossings(grown.clip(max=-grown.min("temperature")), 0.0, "temperature", rising=True).min("crossing")


def diverged(dataset: xr.Dataset) -> xr.DataArray:
    """The temperature above which students diverge, lowest in T: (step, seed). NaN where there is none."""
    share = (dataset.diverged_step.sel(step=dataset.step) >= 0).astype(float)
    return crossings(share, 0.5, "temperature", rising=True).min("crossing")


def transition(dataset: xr.Dataset, level: xr.DataArray | float) -> xr.DataArray:
    """T_c, where the logarithm of the test loss rises through a level, highest in T: (step, seed). NaN where it does not.

    Args:
        dataset: a run along temperature.
        level: of the loss itself.
    """
    require(dataset, "test_loss")
    loss = log10(sound(dataset, dataset.test_loss))
    return crossings(loss - np.log10(level), 0.0, "temperature", rising=True).max("crossing")
