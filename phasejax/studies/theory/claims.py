"""What is said of it.

The intervals, a quarter either way for ratios of growths, were set after the first run at the quick length.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from phasejax.analysis.phases import jammed, ordered, paramagnetic
from phasejax.analysis.run import member, members
from phasejax.analysis.spectrum import GOE_RATIO, spacing_ratio
from phasejax.analysis.statistics import sound
from phasejax.analysis.theory import stationary_variance
from phasejax.claims.judging import Averages, Claim, Measure, Statistic, Take
from phasejax.claims.nulls import Null
from phasejax.studies.theory.levels import (
    KICKED,
    accompanied,
    expected_variance,
    growth,
    moves,
    ratio,
    standard_levels,
    trace,
    variance,
    width,
)

COULOMB = ("coulomb", "equally_spaced")
"""Parts of the motion: what repels, and what would if levels were equally spaced."""

# What is taken of the tree: numbers at the end of a member's run.


def _end(run: xr.Dataset, values: xr.Dataset) -> xr.Dataset:
    return values.expand_dims(step=run.step.values[-1:])


@functools.cache
def grown(name: str, of: Callable[[xr.DataArray], xr.DataArray], first: int = KICKED) -> Take:
    """Growth of the width or the trace since a step, by the parts of the motion, at sigma_W = 1."""

    def samples(tree: xr.DataTree) -> xr.Dataset:
        run = member(tree, name)
        return _end(run, growth(moves(run.sel(sigma_w=1.0)), of, first))

    return samples


def beside(tree: xr.DataTree) -> xr.Dataset:
    """Growth of width and trace of students and of their companions, and both's spread of the middle level."""
    run = moves(member(tree, "companions"))
    found = []
    for k in range(run.sizes["temperature"]):
        process, paths = accompanied(run.isel(temperature=k))
        both = xr.DataArray([process.levels, paths], dims=("who", "step", "seed", "level"))
        moved, middle = both.isel(step=-1) - both.isel(step=0), np.log(both.isel(step=-1, level=both.sizes["level"] // 2))
        found.append(xr.Dataset({"x_N - x_1": width(moved), "tr X": trace(moved), "log": middle, "square": middle**2}))
    return _end(run, xr.concat(found, run.temperature).assign_coords(seed=run.seed))


def entries(tree: xr.DataTree) -> xr.Dataset:
    """Variance of an entry of the matrix that learns noise alone, in both orders, and its outermost levels."""
    run, cyclic = member(tree, "linear_iid"), member(tree, "linear_cyclic")
    levels = sound(run, run.eigenvalues).isel(level=[0, -1]).rename(level="end")
    found = xr.Dataset({"iid": variance(run), "cyclic": variance(cyclic), "levels": levels}).isel(step=-1, drop=True)
    found = found.assign(expected=expected_variance(run).isel(step=-1, drop=True).broadcast_like(found.iid))
    return _end(run, found)


@functools.cache
def spaced(phase: Callable[[xr.Dataset], xr.DataArray], order: str) -> Take:
    """Spacing ratio in a phase's cells, their mean; of all levels and of the lower ten."""

    def samples(tree: xr.DataTree) -> xr.Dataset:
        run = member(tree, f"phases_{order}")
        parts = {"ratio": run, "lower": run.isel(level=slice(_LOWER))}
        found = {name: sound(run, spacing_ratio(of)).isel(step=-1, drop=True) for name, of in parts.items()}
        return _end(run, xr.Dataset(found).where(phase(run)).mean(("temperature", "sigma_w")))

    return samples


def spreading(tree: xr.DataTree) -> xr.Dataset:
    """What moves S in the phases: Coulomb terms and diffusion, as they are and as the paper has them."""
    run = member(tree, "phases_iid")
    last = run.isel(step=-1, drop=True)
    low, high, across = (last.end_noise.isel(end=a, other_end=b, drop=True) for a, b in ((0, 0), (1, 1), (0, 1)))
    found = {"independent": low + high, "true": low + high - 2 * across}
    return _end(run, xr.Dataset(found | {part: width(last.motion.sel(part=part, drop=True)) for part in COULOMB}))


def traces(tree: xr.DataTree) -> xr.Dataset:
    """tr X of the paper's network at the end, in both orders."""
    both = {order: member(tree, f"phases_{order}") for order in ("iid", "cyclic")}
    found = {order: trace(sound(run, run.eigenvalues)).isel(step=-1, drop=True) for order, run in both.items()}
    return _end(both["iid"], xr.Dataset(found))


# Numbers of means over students.


def predicts(reading: str, temperature: float | None = None) -> Statistic:
    """Predicted over measured growth, at a temperature or the mean over them."""

    def measured(x: Averages) -> xr.DataArray:
        found = ratio(x, reading)
        return found.mean("temperature") if temperature is None else found.sel(temperature=temperature)

    return measured


def repulsion(x: Averages) -> xr.DataArray:
    """Growth by the Coulomb term of equally spaced levels over that by their own, mean over temperatures."""
    of = {part: x.parts.sel(part=part, drop=True) for part in COULOMB}
    return (of["equally_spaced"] / of["coulomb"]).mean("temperature")


def alike(name: str) -> Statistic:
    """Growth of companions over that of students, mean over temperatures."""
    return lambda x: (x[name].isel(who=1) / x[name].isel(who=0)).mean("temperature")


def wider(x: Averages) -> xr.DataArray:
    """Standard deviation of the logarithm of a middle level, companions over students."""
    spread = np.sqrt(x.square - x.log**2)
    return (spread.isel(who=1) / spread.isel(who=0)).mean("temperature")


def entry(of: str, temperature: int, over: Callable[[Averages], Any]) -> Statistic:
    """Variance of an entry over a closed form, at one of the temperatures."""
    return lambda x: (x[of] / over(x)).isel(temperature=temperature)


def infinitely_short(x: Averages) -> xr.DataArray:
    """Variance that the Langevin equation gives, Eq 2.30."""
    return stationary_variance(x.temperature, 1.0, 1.0, 0.0)


def outermost(end: int) -> Statistic:
    """Mean lowest or highest level over that of the Wishart ensemble of the exact variance, at the lowest temperature."""

    def measured(x: Averages) -> xr.DataArray:
        expected = x.expected.isel(temperature=0) * standard_levels(20_000)[[0, -1][end]]
        return x.levels.isel(temperature=0, end=end) / expected

    return measured


def at(of: str, over: str, temperature: float, inverse_sigma: float) -> Statistic:
    """One mean over another in a cell."""

    def measured(x: Averages) -> xr.DataArray:
        cell = x.swap_dims(sigma_w="inverse_sigma_w").sel(temperature=temperature, inverse_sigma_w=inverse_sigma)
        return cell[of] / cell[over]

    return measured


# Runs in which it is otherwise.


def _parts(change: Callable[[xr.DataArray], xr.DataArray]) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda run: run.assign(motion=change(run.motion)) if "motion" in run else run


def _quiet(run: xr.Dataset) -> xr.Dataset:
    run = _parts(lambda m: m.where(~m.part.isin(["ito", "coulomb"]), 0.0))(run)
    return run.assign(noise=0 * run.noise) if "noise" in run else run


noiseless = Null("noise left out of the equation of motion", _quiet)
backwards = Null("the motion backwards", _parts(lambda m: -m))


def _exchanged(motion: xr.DataArray) -> xr.DataArray:
    other: dict[str, str] = dict(zip(COULOMB, reversed(COULOMB), strict=True))
    parts = [str(part) for part in motion.part.values]
    return motion.sel(part=[other.get(part, part) for part in parts]).assign_coords(part=parts)


exchanged = Null("the two Coulomb terms exchanged", _parts(_exchanged))


def _other_order(tree: xr.DataTree) -> xr.DataTree:
    runs = members(tree)
    pairs = {"iid": "cyclic", "cyclic": "iid"}
    swapped = {name: runs.get(f"{name.rpartition('_')[0]}_{pairs.get(name.rpartition('_')[2], '')}", run)
               for name, run in runs.items()}  # fmt: skip
    return xr.DataTree.from_dict(swapped)


other_order = Null("the runs of the two orders exchanged", _other_order, over="study")


def _independent(run: xr.Dataset) -> xr.Dataset:
    levels = np.random.default_rng(1).random(run.eigenvalues.shape)
    return run.assign(eigenvalues=run.eigenvalues.copy(data=np.sort(levels, run.eigenvalues.get_axis_num("level"))))


independent_levels = Null("independent levels", _independent)


def _together(run: xr.Dataset) -> xr.Dataset:
    if "end_noise" not in run:
        return run
    low, high = (run.end_noise.isel(end=k, other_end=k, drop=True) for k in (0, 1))
    return run.assign(end_noise=xr.where(run.end == run.other_end, run.end_noise, np.sqrt(low * high)))


together = Null("positive control: the two outermost levels driven by the same noise", _together)


def _hotter(tree: xr.DataTree) -> xr.DataTree:
    doubled = {name: run.assign(eigenvalues=2 * run.eigenvalues) if name == "phases_cyclic" else run
               for name, run in members(tree).items()}  # fmt: skip
    return xr.DataTree.from_dict(doubled)


doubled = Null("positive control: levels twice as large in cyclic order", _hotter, over="study")

_LOW, _HIGH = 0.8, 1.25
_LOWER = 10
_TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
_GROWTHS = (("x_N - x_1", width), ("tr X", trace))


def _growths(reading: str, order: str = "iid") -> tuple[Measure, ...]:
    return tuple(Measure(f"predicted / measured growth of {name}, {order}", grown(f"steps_{order}", of), predicts(reading),
                         _LOW, _HIGH) for name, of in _GROWTHS)  # fmt: skip


def _each(of: Callable[[xr.DataArray], xr.DataArray], reading: str) -> tuple[Measure, ...]:
    """The same at every temperature."""
    name = next(name for name, growing in _GROWTHS if growing is of)
    return tuple(Measure(f"of {name} at T = {t:g}", grown("steps_iid", of), predicts(reading, t)) for t in _TEMPERATURES)


def _spacing(phase: Callable[[xr.Dataset], xr.DataArray]) -> tuple[Measure, ...]:
    return (
        *(Measure(f"spacing ratio, {order}", spaced(phase, order), lambda x: x.ratio, GOE_RATIO - 0.025, GOE_RATIO + 0.025)
          for order in ("iid", "cyclic")),
        Measure(f"of the lower {_LOWER} levels", spaced(phase, "iid"), lambda x: x.lower),
    )  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "second_order", "Levels move as second-order perturbation theory with the noise's own covariance says (T >= 1/2)",
        expected="predicted / measured growth in 190 steps is 1",
        measures=(*_growths("second order"),
                  *(Measure(f"the same of {name} from step 0", grown("steps_iid", of, 0), predicts("second order"))
                    for name, of in _GROWTHS)),
        remark="from the tenth step on; before it levels that begin close together are thrown apart", afterwards=True,
        null=noiseless, over="study",
    ),
    Claim("second_order_cyclic", "... and so in cyclic order, in an epoch in which W moves far",
          expected="1", measures=_growths("second order", "cyclic"), afterwards=True, null=noiseless, over="study"),
    Claim("companions", "Levels with a student's coefficients and noise of their own do as the student's (T >= 1/2)",
          expected="growth of companions / students is 1",
          measures=(*(Measure(f"growth of {name}, companions / students", beside, alike(name), _LOW, _HIGH)
                      for name, _ in _GROWTHS),
                    Measure("spread of the ninth level, companions / students", beside, wider)),
          remark="the drift is the student's: it does not call a companion back from where it alone has gone",
          afterwards=True, null=noiseless, over="study"),
    Claim("paper_spacing", "The level spacing grows as Eq 4.8 says, with its V_S of equally spaced levels", "Eqs 4.8, B.7",
          "1", None,
          (*_growths("the paper's Eq 4.8")[:1], *_each(width, "the paper's Eq 4.8"),
           Measure("Coulomb term, equally spaced / as it is", grown("steps_iid", width), repulsion)),
          afterwards=True, null=backwards, over="study"),
    Claim("paper_trace", "Levels move as Eq 4.3 says, without an Ito term", "Eqs 4.3, B.1", "1", None,
          (*_growths("without Itô")[1:], *_each(trace, "without Itô"), *_each(width, "without Itô")),
          "finite steps included", afterwards=True, null=backwards, over="study"),
    Claim(
        "laguerre", "A matrix that learns noise alone goes by a Laguerre process with a restoring force",
        expected="levels and variances are those of the closed form",
        measures=(
            *(Measure(f"variance of an entry / T v/lambda(2 - s), {name} T", entries,
                      entry("iid", k, lambda x: x.expected), 0.9, 1.1) for k, name in ((0, "lowest"), (-1, "highest"))),
            *(Measure(f"mean {name} level / Wishart's, lowest T", entries, outermost(end), 0.8, 1.2)
              for end, name in ((0, "lowest"), (1, "highest"))),
        ),
        afterwards=True, null=other_order, over="study",
    ),
    Claim("langevin", "One step is a time dt = epsilon of a Langevin equation, at T = 0.09 (s = 1.26)", "Eq 2.30",
          "variance is T v/2 lambda", None,
          (Measure("variance of an entry / T v/2 lambda, highest T", entries, entry("iid", -1, infinitely_short),
                   0.9, 1.1),),
          afterwards=True, null=other_order, over="study"),
    Claim("cyclic_cancels", "In cyclic order the noise of an epoch sums to zero where W hardly moves in it",
          expected="variance of the same order iid / 10 at most",
          measures=(Measure("variance cyclic / iid, lowest T", entries, entry("cyclic", 0, lambda x: x.iid), high=0.1),
                    Measure("variance cyclic / iid, highest T", entries, entry("cyclic", -1, lambda x: x.iid))),
          afterwards=True, null=other_order, over="study"),
    Claim("order", "... but not in the paper's network at its temperatures: tr X grows alike in both orders",
          expected="tr X cyclic / iid is 1",
          measures=tuple(Measure(f"tr X, cyclic / iid, T = {t:g}, 1/sigma_W = 8", traces,
                                 at("cyclic", "iid", t, 8.0), _LOW, _HIGH) for t in (2**-5, 4.0, 64.0)),
          afterwards=True, null=doubled, over="study"),
    Claim("equally_spaced", "Levels count as equally spaced in the Coulomb term, at T = 4 and 1/sigma_W = 8", "Eq B.5",
          "1", None,
          (Measure("Coulomb term of S, equally spaced / as it is", spreading, at("equally_spaced", "coulomb", 4.0, 8.0),
                   _LOW, _HIGH),
           *(Measure(f"the same at T = {t:g}, 1/sigma_W = {s:g}", spreading, at("equally_spaced", "coulomb", t, s))
             for t, s in ((2**-5, 8.0), (64.0, 8.0), (2**-5, 2**-8)))),
          afterwards=True, null=exchanged, over="study"),
    Claim("independent_ends", "The noise of the outermost levels is independent", "Eq B.4", "1", None,
          (Measure("D_S, independent / as it is, T = 1/32, 1/sigma_W = 2^-8", spreading,
                   at("independent", "true", 2**-5, 2**-8), _LOW, _HIGH),
           Measure("the same at T = 4, 1/sigma_W = 8", spreading, at("independent", "true", 4.0, 8.0))),
          afterwards=True, null=together, over="study"),
    *(Claim(f"goe_{name}", f"Levels are spaced as the Gaussian orthogonal ensemble's, {name} phase", "Sec 4", "0.5307", None,
            _spacing(phase), afterwards=True, null=independent_levels, over="study")
      for name, phase in (("ordered", ordered), ("jammed", jammed), ("paramagnetic", paramagnetic))),
)  # fmt: skip
