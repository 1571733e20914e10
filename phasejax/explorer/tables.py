"""What a page of a run shows, as tables of numbers: a Dataset in; out come statistics over the seeds, lines and words.

Names of a file, which may be anybody's, are in words only. Columns and expressions know numbers: observable 3, axis 0.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from phasejax.analysis import boundaries, spectrum
from phasejax.analysis.plane import axes_of
from phasejax.analysis.run import RunError, activation, layer, until, why_not_recorded
from phasejax.analysis.statistics import nearest, quantiles, sound
from phasejax.claims.writing import symbols
from phasejax.figures.boundary import has_boundary
from phasejax.figures.density import before_training
from phasejax.figures.eigenvalue_flow import PHASES
from phasejax.figures.style import axis_of, power_of_two

LEVELS = 16
"""Of a layer with more levels than this as many are shown, evenly spaced, the smallest and the largest among them."""

WORDS = {
    "test_loss": "test loss ℒ",
    "train_loss": "training loss ℒ",
    "test_accuracy": "test accuracy",
    "gradient_norm": "gradient ‖∇ℒ‖",
    "G_t0": "memory G(t, 0)",
    "memory": "memory C(t)",
    "G_00": "G(0, 0)",
    "G_tt": "G(t, t)",
    "alignment": "alignment h·φ/‖h‖‖φ‖",
    "feature_overlap": "overlap Q of features, teacher's",
    "teacher_overlap": "overlap R of weights, teacher's",
    "level_spacing": "level spacing S",
    "rate": "rate λ̄ of S per epoch",
    "trace_ratio": "tr X, in units of the teacher's",
    "converged": "share converged (Eq 4.15)",
    "lost": "share of students lost",
    "restoring": "restoring drift of S",
    "K_S": "drift K_S",
    "V_S": "repulsion V_S",
    "D_S": "diffusion D_S",
}
"""The observables that come first in the list, in its order; others are called what the file calls them."""

_SHORT = {"temperature": "T", "learning_rate": "ε", "sigma_w": "1/σ_W", "momentum": "μ"}
_LONG = {"temperature": "T = ε/|ℬ|", "learning_rate": "learning rate ε", "sigma_w": "1/σ_W", "momentum": "momentum μ"}


class Axis(NamedTuple):
    """An axis of the grid as it is drawn: positions are values, or their decimal logarithms."""

    label: str
    short: str
    """For the words of a cell."""
    ticks: list[str]
    at: list[float]
    edges: list[float]
    stride: int
    """How far cells lie apart that are neighbours on it."""


class Observable(NamedTuple):
    """One number of every student at every record."""

    name: str
    label: str
    logarithmic: bool
    """Positive, and over more than a factor of thirty."""


class Flow(NamedTuple):
    """The eigenvalues of one trained layer."""

    label: str
    levels: list[int]
    teacher: list[float]
    """Its teachers' mean eigenvalues, empty where there is no teacher."""


class Line(NamedTuple):
    """A boundary on the plane of temperature and sigma_W."""

    kind: str
    record: int | None
    """None is at all records."""
    place: dict[int, int]
    """Where it lies on further axes of the grid: index by axis."""
    x: list[float]
    y: list[float]


class Tables(NamedTuple):
    """All that is on a page. Cells count in C order of the axes, records from 0."""

    students: str
    """CSV, a row for a cell at a record: statistics of observable k, m mean, e its error, l, c, h the quantiles at 16, 50
    and 84 %, n how many students count; xi_j, pi_j, qi_j median and quantiles of level j in layer i."""
    columns: list[str]
    axes: list[Axis]
    plane: tuple[int, int] | None
    """The two axes (vertical, horizontal) that lie in the paper's plane, where boundaries do."""
    observables: list[Observable]
    flows: list[Flow]
    lines: list[Line]
    cells: list[str]
    """What a cell is called, and how many of its students are lost, in one or two lines."""
    records: list[str]
    steps: list[int]
    seeds: int
    first: int
    """The cell that is looked at first: the paper's ordered one, or else in the middle."""


def tables(run: xr.Dataset, spread: bool = True) -> Tables:
    """The tables of a run.

    Args:
        run: a run.
        spread: with quantiles and eigenvalues, which are most of the numbers; a plane needs neither.

    Raises:
        RunError: it is no run, holds no students, or nothing that every student has at every record.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of students that are about to be lost
        return _tables(until(run, None), spread)


def _tables(run: xr.Dataset, spread: bool) -> Tables:
    names = axes_of(run)
    axes = _axes(run, names)
    shown = [(name, label, _in_cells(run, values, names)) for name, label, values in _observables(run, names)]
    if not shown:
        raise RunError("The run has nothing to show: it records no number that every student has at every record.")
    columns: dict[str, np.ndarray] = {}
    cells, records = math.prod(run.sizes[name] for name in names), run.sizes["step"]
    columns["cell"], columns["record"] = (of.ravel() for of in np.indices((cells, records)))
    observables = []
    for k, (name, label, values) in enumerate(shown):
        mean = _statistics(columns, str(k), values)
        if spread:
            _quantiles(columns, (f"l{k}", f"c{k}", f"h{k}"), values)
        positive = mean[np.isfinite(mean)]
        wide = positive.size > 0 and positive.min() > 0 and positive.max() > 30 * positive.min()
        observables.append(Observable(name, label, bool(wide)))
    flows = []
    for own in _layers(run) if spread else []:
        flows.append(_flow(run, own, len(flows), columns, names))
    lost = (run.diverged_step.isel(step=-1) >= 0).sum("seed").transpose(*names).values.ravel()
    steps = [int(step) for step in run.step.values]
    return Tables(
        _csv(columns), list(columns), axes,
        (names.index("temperature"), names.index("sigma_w")) if {"temperature", "sigma_w"} <= {*names} else None,
        observables, flows, list(_lines(run, names, axes)), _cells(axes, lost, run.sizes["seed"]),
        [_record(step, float(epoch)) for step, epoch in zip(steps, run.epoch.values, strict=True)],
        steps, run.sizes["seed"], _first(run, names),
    )  # fmt: skip


def _axes(run: xr.Dataset, names: list[str]) -> list[Axis]:
    found = []
    for k, name in enumerate(names):
        drawn = axis_of(run, name)
        log = drawn.scale == "log"
        position = np.log10 if log else np.asarray
        heavy = name == "temperature" and "momentum" in run.coords and bool((run.momentum != 0).any())
        found.append(Axis(
            _LONG.get(name, symbols(drawn.label)) + "(1 − μ)" * heavy, _SHORT.get(name, symbols(name.replace("_", " "))),
            [_number(value) for value in drawn.values], position(drawn.values).tolist(), position(drawn.edges).tolist(),
            math.prod(run.sizes[inner] for inner in names[k + 1 :]),
        ))  # fmt: skip
    return found


def _number(value: float) -> str:
    """2⁻⁵ as the paper writes it, 6.25·10⁻⁴ or 0.1 as it is."""
    if value > 0 and "^" in (power := power_of_two(value)):
        return symbols(power.replace("{", "").replace("}", ""))
    if value and not 0.01 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.5e}".split("e")
        return symbols(f"{float(mantissa):g}e{int(exponent)}")
    return f"{value:g}"


def _observables(run: xr.Dataset, names: list[str]) -> list[tuple[str, str, xr.DataArray]]:
    """Name, label and values (step, ..., seed), NaN for students that do not count; the best known come first."""
    own = layer(run)
    needs = {
        spectrum.memory: ("G_t0", "G_00", "G_tt"),
        spectrum.level_spacing: ("eigenvalues",) if own.nodes > 1 else None,
        spectrum.rate: ("eigenvalues",) if own.nodes > 1 and 0 in run.step else None,
        spectrum.trace_ratio: ("eigenvalues", "target_eigenvalues"),
    }
    found: dict[str, xr.DataArray] = {}
    for name, values in run.data_vars.items():
        here = values.sel(reading="drift", drop=True) if "reading" in values.dims else values
        if {*map(str, here.dims)} == {"step", *names, "seed"} and name != "diverged_step" and here.dtype.kind in "fiub":
            found[str(name)] = sound(run, here)
    for function, wanted in needs.items():
        if wanted is not None and all(name in run or name + own.suffix in run for name in wanted):
            found[function.__name__] = sound(run, function(run))
    lost = (run.diverged_step >= 0).astype(float)
    if bool((lost > 0).any()):
        found["lost"] = lost
    if _bounded(run):
        found["converged"] = boundaries.converged(run).astype(float)
    order = list(WORDS)
    ranked = sorted(found, key=lambda name: next((k for k, known in enumerate(order) if _is(name, known)), len(order)))
    return [(name, _label(name, found[name]), found[name]) for name in ranked]


def _bounded(run: xr.Dataset) -> bool:
    """Whether the criterion of convergence can be looked at; what was selected of a run need not have it."""
    return all(name + layer(run).suffix in run for name in ("restoring", "V_S")) and has_boundary(run)


def _is(name: str, known: str) -> bool:
    """Whether a variable is a known one, of some layer."""
    return name == known or name.removeprefix(f"{known}_").isdigit()


def _label(name: str, values: xr.DataArray) -> str:
    known = next((known for known in WORDS if _is(name, known)), None)
    if known is None:
        return symbols(str(values.attrs.get("long_name", "")) or name)
    return WORDS[known] + (f", layer {name.removeprefix(known)[1:]}" if name != known else "")


def _in_cells(run: xr.Dataset, values: xr.DataArray, names: list[str]) -> np.ndarray:
    """(cell * record, seed)."""
    return values.transpose(*names, "step", "seed").values.reshape(-1, run.sizes["seed"])


def _statistics(columns: dict[str, np.ndarray], key: str, values: np.ndarray) -> np.ndarray:
    """Add the columns of an observable; returns the mean over the seeds."""
    count = np.isfinite(values).sum(-1)
    some, several = np.maximum(count, 1), np.maximum(count - 1, 1)
    mean = np.where(count > 0, np.nansum(values, -1) / some, np.nan)
    variance = np.nansum((values - mean[:, None]) ** 2, -1) / several
    columns["m" + key], columns["e" + key] = mean, np.where(count > 1, np.sqrt(variance / some), np.nan)
    columns["n" + key] = count
    return mean


def _quantiles(columns: dict[str, np.ndarray], keys: tuple[str, str, str], values: np.ndarray) -> None:
    for key, quantile in zip(keys, quantiles(values, (0.16, 0.5, 0.84)), strict=True):
        columns[key] = quantile


def _layers(run: xr.Dataset) -> list[str]:
    """What the variables of trained layers that have spectra end in, the last layer first."""
    found = [str(name).removeprefix("eigenvalues") for name in run.data_vars if str(name).startswith("eigenvalues")]
    last = layer(run).suffix
    return sorted((own for own in found if f"level{own}" in run.dims), key=lambda own: (own != last, own))


def _flow(run: xr.Dataset, own: str, k: int, columns: dict[str, np.ndarray], names: list[str]) -> Flow:
    """Add the columns of a layer's levels."""
    count = run.sizes[f"level{own}"]
    chosen = np.unique(np.linspace(0, count - 1, min(count, LEVELS)).round().astype(int)).tolist()
    every = run[f"eigenvalues{own}"].transpose("level" + own, "step", ..., "seed")
    for j in chosen:
        values = _in_cells(run, sound(run, every.isel({f"level{own}": j}, drop=True)), names)
        _quantiles(columns, (f"p{k}_{j}", f"x{k}_{j}", f"q{k}_{j}"), values)
    teacher: list[float] = []
    if f"target_eigenvalues{own}" in run:
        mean = run[f"target_eigenvalues{own}"].mean("seed").values
        teacher = [float(mean[j]) for j in chosen if np.isfinite(mean[j])]
    return Flow(f"layer {symbols(own.lstrip('_'))}" if own else "", chosen, teacher)


def _lines(run: xr.Dataset, names: list[str], axes: list[Axis]) -> Iterator[Line]:
    """Where 68, 95 and 99.7 % of the students have converged, at every record; and the jamming lines of Fig 9."""
    if not {"temperature", "sigma_w"} <= {*names}:
        return
    further = [name for name in names if name not in ("temperature", "sigma_w")]
    if _bounded(run):
        share = boundaries.fraction(run).fraction.transpose("step", *further, "temperature", "sigma_w")
        for record, *place in itertools.product(*(range(share.sizes[dim]) for dim in ("step", *further))):
            here = share.isel({"step": record, **dict(zip(further, place, strict=True))})
            for level in boundaries.SIGMAS:
                for x, y in boundaries.contours(here, level):
                    where = {names.index(name): int(at) for name, at in zip(further, place, strict=True)}
                    yield Line(f"{100 * level:g} % converged", record, where, np.log10(x).tolist(), np.log10(y).tolist())
    upright, across = (axes[names.index(name)].edges for name in ("temperature", "sigma_w"))
    if not why_not_recorded(run, "feature_density") and "feature_density" in run and 0 in run.step:
        low, high = boundaries.measured_jamming_line(before_training(run))
        if np.isfinite(low):
            yield Line("side peaks vanish", None, {}, [np.log10(low * high) / 2] * 2, [upright[0], upright[-1]])
    paper = np.log10(boundaries.PAPER_JAMMING_LINE * layer(run).scale)
    if activation(run) == "tanh" and across[0] < paper < across[-1]:
        yield Line("1/σ_W = √2 (paper)", None, {}, [paper] * 2, [upright[0], upright[-1]])


def _cells(axes: list[Axis], lost: np.ndarray, seeds: int) -> list[str]:
    places = itertools.product(*([f"{axis.short} = {tick}" for tick in axis.ticks] for axis in axes))
    found = []
    for place, count in zip(places, lost.tolist(), strict=True):
        words = [*(place or ("the only cell",)), *([f"{count} of {seeds} lost"] if count else [])]
        found.append("\n".join(filter(None, (", ".join(words[:2]), ", ".join(words[2:])))))
    return found


def _record(step: int, epoch: float) -> str:
    return f"{step:,} step{'s' * (step != 1)} ({epoch:,.3g} epoch{'s' * (epoch != 1)})"


def _first(run: xr.Dataset, names: list[str]) -> int:
    place = {name: run.sizes[name] // 2 for name in names}
    temperature, inverse_sigma = PHASES["ordered"]
    if "temperature" in names and "sigma_w" in names:
        place["temperature"] = nearest(run.temperature, temperature)
        place["sigma_w"] = nearest(run.inverse_sigma_w, inverse_sigma)
    return int(np.ravel_multi_index([place[name] for name in names], [run.sizes[name] for name in names])) if names else 0


def _csv(columns: dict[str, np.ndarray]) -> str:
    """Whole numbers as they are, others to four digits, two for errors, and nothing for NaN."""
    kinds = {"e": "%.2g"}
    row = ",".join("%d" if of.dtype.kind in "iu" else kinds.get(name[0], "%.4g") for name, of in columns.items())
    lines = [row % values for values in zip(*(of.tolist() for of in columns.values()), strict=True)]
    return "\n".join([",".join(columns), *lines]).replace("nan", "")
