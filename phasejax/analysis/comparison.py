"""A run beside a reference: what differs in which phase, in units of its error."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.special import stdtr

from phasejax.analysis.boundaries import converged
from phasejax.analysis.phases import PHASES, other_than_the_paper
from phasejax.analysis.run import NotRecordedError, RunError, require, until
from phasejax.analysis.spectrum import level_spacing
from phasejax.analysis.statistics import log10, sound

FLOOR = 1e-12
"""What is smaller counts as this in a logarithm."""
ROUNDING = 1e-4
"""Part of every error: students that are the same differ by how a reference is kept."""


def _log10(name: str) -> Callable[[xr.Dataset], xr.DataArray]:
    return lambda run: log10(run[name].clip(min=FLOOR))


OBSERVABLES: dict[str, tuple[tuple[str, ...], Callable[[xr.Dataset], xr.DataArray]]] = {
    "log10 test loss": (("test_loss",), _log10("test_loss")),
    "log10 training loss": (("train_loss",), _log10("train_loss")),
    "log10 gradient": (("gradient_norm",), _log10("gradient_norm")),
    "log10 level spacing S": (("level_spacing",), lambda run: log10(level_spacing(run).clip(min=FLOOR))),
    "memory G(t,0)": (("G_t0",), lambda run: run.G_t0),
    "alignment": (("alignment",), lambda run: run.alignment),
    "overlap Q": (("feature_overlap",), lambda run: run.feature_overlap),
    "overlap R": (("teacher_overlap",), lambda run: run.teacher_overlap),
    "share converged": (("converged",), lambda run: converged(run, "drift").astype(float)),
}
"""By what they are called: the variables that a run needs for them, and what they are of every student."""


def compare(run: xr.Dataset, reference: xr.Dataset) -> xr.Dataset:
    """The difference between a run and a reference in each phase, at the records and cells that both have.

    Each seed is averaged over the cells of a phase first. Seeds that have the same teacher in both are compared one by one,
    if there are two or more, and the others left out, for what is common to both then cancels; else all seeds of both are
    taken as independent.

    Args:
        run: a run of the paper's system: its network, data and batch size, trained by plain SGD.
        reference: such a run, or a reduction of one, as `phasejax.reference` gives it.

    Returns:
        What is over (observable, phase, step) is `run`, `reference`, their `difference`, its standard `error` with its
        degrees of `freedom` (spreads are pooled where seeds are independent), the `deviation`, difference / error, and its
        two-sided `p_value` by Student's t; and the number of `cells` (phase,). The attributes say how many `seeds` and
        `reference_seeds` there were, how many of the run were `left_out`, and whether they were `paired`.

    Raises:
        RunError: the run is of another system, has one seed, or no record or no cell of a phase in common with the
            reference.
    """
    require(run, "sigma_w")
    if other := other_than_the_paper(run):
        raise RunError(f"The run cannot be compared with the reference. {other}")
    run, reference = until(run, None), until(reference, None)
    for name, dataset in (("run", run), ("reference", reference)):
        if np.unique(dataset["teacher" if "teacher" in dataset.coords else "seed"]).size < 2:
            raise RunError(f"The {name} has a single seed, or replicas of one, and the difference no error.")
    steps = np.intersect1d(run.step, reference.step)
    if not steps.any():
        raise RunError("The run and the reference have no record after step 0 in common: the reference's are those of a run "
                       f"of {int(reference.step[-1]):,} steps, 8 a decade.")  # fmt: skip
    run, reference = run.sel(step=steps), reference.sel(step=steps)
    for axis, along in (("temperature", "temperature"), ("sigma_w", "inverse_sigma_w")):
        close = np.isclose(run[along].values[:, None], reference[along].values, rtol=1e-6)
        ours, theirs = np.nonzero(close)
        run, reference = run.isel({axis: ours}), reference.isel({axis: theirs})
    cells = {name: int(of(run).sum()) for name, of in PHASES.items()}
    if not any(cells.values()):
        raise RunError("The run and the reference have no cell of a phase in common: the reference's temperatures are 2^-5, "
                       "2^-4 ... 2^6, and its sigma_w 2^-3, 2^-2 ... 2^8.")  # fmt: skip
    pairs, seeds = _same_students(run, reference), run.sizes["seed"]
    if len(pairs) > 1:
        run, reference = run.sel(seed=pairs), reference.sel(seed=pairs)
    found, phases = {}, [phase for phase, count in cells.items() if count]
    for name, (needs, _) in OBSERVABLES.items():
        try:
            require(run, *needs)
        except NotRecordedError:
            continue
        parts = [
            _difference(in_phase(run, name, phase), in_phase(reference, name, phase), len(pairs) > 1) for phase in phases
        ]
        found[name] = xr.concat(parts, xr.Variable("phase", phases))
    if not found:
        raise RunError("The run has recorded none of what the reference is compared by.")
    result = xr.concat(list(found.values()), xr.Variable("observable", list(found)))
    result["deviation"] = result.difference / result.error
    result["p_value"] = 2 * xr.apply_ufunc(stdtr, result.freedom, -np.abs(result.deviation))
    result["cells"] = ("phase", [cells[phase] for phase in result.phase.values])
    counts = {"seeds": run.sizes["seed"], "left_out": seeds - run.sizes["seed"], "reference_seeds": reference.sizes["seed"]}
    return result.assign_attrs(paired=len(pairs) > 1, **counts)


def in_phase(run: xr.Dataset, observable: str, phase: str) -> xr.DataArray:
    """Mean of an observable over the cells of a phase, of every seed, or teacher where seeds are replicas: (step, seed)."""
    values = sound(run, OBSERVABLES[observable][1](run)).where(PHASES[phase](run)).mean(["temperature", "sigma_w"])
    return values.groupby("teacher").mean().rename(teacher="seed") if "teacher" in values.coords else values


def _same_students(run: xr.Dataset, reference: xr.Dataset) -> list[int]:
    """Labels of seeds that have the same teacher in both; none if the run's seeds are replicas, which share one."""
    if "teacher" in run.coords or "target_eigenvalues" not in run:
        return []
    labels = np.intersect1d(run.seed, reference.seed)
    ours, theirs = (of.target_eigenvalues.sel(seed=labels).transpose("seed", ...) for of in (run, reference))
    return labels[np.isclose(ours, theirs, rtol=1e-3).all(1)].tolist()


def _difference(ours: xr.DataArray, theirs: xr.DataArray, paired: bool) -> xr.Dataset:
    """Of means over a phase, (step, seed): (step,)."""
    parts = [ours - theirs] if paired else [ours, theirs]
    freedom = sum((part.count("seed") - 1 for part in parts[1:]), start=parts[0].count("seed") - 1)
    # About each mean, and pooled: few seeds tell little of their own spread.
    squares = [((part - part.mean("seed")) ** 2).sum("seed") for part in parts]
    inverse = [1 / part.count("seed") for part in parts]
    square = sum(squares[1:], start=squares[0]) / freedom * sum(inverse[1:], start=inverse[0])
    found = {"run": ours.mean("seed"), "reference": theirs.mean("seed")}
    found |= {"difference": found["run"] - found["reference"], "error": (square + ROUNDING**2) ** 0.5, "freedom": freedom}
    return xr.Dataset({name: values.reset_coords(drop=True) for name, values in found.items()})
