"""A small run, made once and kept, compared by label: what a change of the house must not change.

The files were made by the commit that their attribute `commit` names. On the machine and with the compiler and libraries
they were made with, weights and losses are theirs to the bit; elsewhere only cold students can be compared, to rounding.
"""

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import COLD, skip_without_compiler

import phasejax
from phasejax import Experiment, Grid, Schedule, TeacherStudent

GOLDEN = Path(__file__).parent / "golden"
SUMS = {"weights", "train_loss", "test_loss", "diverged_step", "target_eigenvalues"}
"""To the bit; the other variables may be grouped otherwise, which rounds otherwise."""
ULP = 4


def machine():
    """What builds the kernels, and what they are built for, in a line."""
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    features = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return f"{compiler}, CPU features {hashlib.sha256(features.encode()).hexdigest()[:16]}"


def run(engine):
    grid = Grid(temperature=(2**-5, 0.5, 4.0), sigma_w=(0.125, 8.0), seeds=2)
    return phasejax.simulate(Experiment(grid=grid, task=TeacherStudent(samples=400), schedule=Schedule(200)), engine=engine)


def differences(kept, found):
    """Names of variables that are not as they were, with by how much."""
    found = found.sel({axis: kept[axis] for axis in ("temperature", "sigma_w", "seed")})
    apart = {}
    for name in kept.data_vars:
        a, b = kept[name].values, found[name].transpose(*kept[name].dims).values
        if (np.isnan(a) != np.isnan(b)).any():
            apart[name] = "NaN elsewhere"
        elif (limit := 0 if name in SUMS or a.dtype.kind == "i" else ULP) < (
            ulp := np.nanmax(np.abs(a - b) / np.spacing(np.maximum(np.abs(a), 1e-30)), initial=0)
        ):
            apart[name] = f"{ulp:.0f} ulp, and {limit} are allowed"
    return apart


@pytest.mark.parametrize("engine", [pytest.param("autodiff", marks=pytest.mark.long), "native"])
def test_nothing_has_changed(engine):
    if engine == "native":
        skip_without_compiler("samples.cc", "products", N=16)
    found = run(engine)
    with xr.open_dataset(GOLDEN / f"{engine}.nc") as kept:
        assert set(kept.data_vars) == set(found.data_vars)
        same = all(kept.attrs[name] == found.attrs[name] for name in ("device", "versions"))
        if same and kept.attrs["machine"] == machine():
            assert not differences(kept, found)
        cold = {"temperature": [t for t in kept.temperature.values if t in COLD], "sigma_w": kept.sigma_w, "seed": kept.seed}
        a, b = (data.sel(cold).drop_dims("reading") for data in (kept, found))
        for name in a.data_vars:
            scale = float(np.abs(a[name]).max())
            assert float(np.abs(a[name] - b[name]).max()) <= 1e-3 * scale, name


def test_a_change_in_the_last_place_is_seen():
    with xr.open_dataset(GOLDEN / "autodiff.nc") as kept:
        assert not differences(kept, kept)
        for name, times in (("weights", 1), ("test_loss", 1), ("G_tt", ULP + 2)):
            moved = kept[name].load().copy()
            for _ in range(times):
                moved[-1] = np.nextafter(moved[-1], np.float32(np.inf))
            assert set(differences(kept, kept.assign({name: moved}))) == {name}
