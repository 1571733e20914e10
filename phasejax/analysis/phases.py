"""The three phases as parts of the plane, and whether a run is of the system that they were found in.

They are split by the paper's own lines: 1/sigma_W = sqrt 2, and T ~ 1 with what is next to it left out: Sec 3.2 puts the
ordered phase at T ~ 1e-1, and Fig 6 takes T = 4 for the paramagnetic one.
"""

from collections.abc import Callable

import xarray as xr

from phasejax.analysis.boundaries import PAPER_JAMMING_LINE
from phasejax.analysis.run import grid_axes, settings
from phasejax.experiment import Experiment


def ordered(x: xr.Dataset) -> xr.DataArray:
    """Cells that are cold, with small initial weights: (temperature, sigma_w) of bool."""
    return (x.temperature <= 2**-3) & (x.inverse_sigma_w > PAPER_JAMMING_LINE)


def jammed(x: xr.Dataset) -> xr.DataArray:
    """Cells that are cold, with large initial weights: (temperature, sigma_w) of bool."""
    return (x.temperature <= 2**-3) & (x.inverse_sigma_w < PAPER_JAMMING_LINE)


def paramagnetic(x: xr.Dataset) -> xr.DataArray:
    """Cells that are hot, with small initial weights: (temperature, sigma_w) of bool."""
    return (x.temperature >= 4) & (x.inverse_sigma_w > PAPER_JAMMING_LINE)


PHASES: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {
    "ordered": ordered,
    "jammed": jammed,
    "paramagnetic": paramagnetic,
}


def other_than_the_paper(dataset: xr.Dataset) -> str:
    """What a run has otherwise than one network trained by plain SGD on 4000 samples, a sentence; empty if nothing."""
    run, paper = settings(dataset), Experiment().to_tables()
    if run["sgd"]["optimizer"] != "sgd":
        return "The run has no temperature."
    numbers = {"temperature", "learning_rate", "sigma_w"}
    constant = {"momentum", "weight_decay"}
    samples, beside = paper["task"]["samples"], {"samples": 0, "test_samples": 0}
    differ = {
        # A field that a file does not have has its default.
        "network": {**paper["network"], **run["network"]} != paper["network"],
        "task": {**paper["task"], **run["task"], **beside} != {**paper["task"], **beside},
        "number of samples": run["task"].get("kind") is None and run["task"].get("samples", samples) != samples,
        "start": run.get("start", {}).get("kind", "FromDraw") != "FromDraw",
        "momentum or weight decay": any(run["grid"].get(name) for name in constant),
        "batch size": run["sgd"]["batch_size"] != paper["sgd"]["batch_size"],
        "schedule of the learning rate": bool(run.get("schedule", {}).get("rate")),
        "plane": set(grid_axes(dataset)) - numbers != set(),
    }
    others = [name for name, other in differ.items() if other]
    return f"The run has another {' and '.join(others)} than the paper." if others else ""
