"""What ships of long runs, for who wants to compare a run of their own or to see the diagram at the paper's length."""

from importlib import resources
from typing import TYPE_CHECKING

from phasejax.checks import refuse

if TYPE_CHECKING:
    import xarray as xr

REFERENCES = {"paper": "full_length.nc"}
"""The file in the folder of the study."""


def reference(name: str) -> "xr.Dataset":
    """A long run that comes with the package, reduced to what is kept of it.

    Args:
        name: "paper": the paper's grid, data and batches, 10^8 steps a student.

    Returns:
        The Dataset of a run, without feature densities, weights, the terms of the level dynamics and single eigenvalues. In
        their place: `level_spacing` (step, temperature, sigma_w, seed), Eq 4.5; `converged`, `negative_K_S` and
        `negative_V_S` (step, temperature, sigma_w, seed, reading) of bool, Eq 4.15; and `eigenvalues_mean` and
        `eigenvalues_error` (step, temperature, sigma_w, level), over the seeds.

    Raises:
        ExperimentError: there is no such reference.
    """
    if name not in REFERENCES:
        raise refuse("reference", name, f"there is one of {', '.join(REFERENCES)}")
    from phasejax.files.reading import open_run

    with resources.as_file(resources.files("phasejax.studies") / name / REFERENCES[name]) as file:
        return open_run(file)
