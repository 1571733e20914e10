"""What is said of it.

Every interval was set before the first run at the desk's length; the clocks, and from which sigma_W on nodes count as
saturated, after the first one at the quick length.
"""

import functools
from collections.abc import Callable

import numpy as np
import xarray as xr

from phasejax.analysis.run import member, require, settings
from phasejax.claims.judging import Averages, Claim, Measure, Statistic, Take
from phasejax.claims.nulls import Null, permuted
from phasejax.studies.jamming.relaxation import (
    CLOCKS,
    SATURATED,
    ageing_exponent,
    at_temperature,
    bend,
    cell,
    correlation,
    exponent,
    saturated,
    series,
)

# What is taken of the tree. Members have different records, and each measure is of one of them.


def _records(values: xr.Dataset, steps: int) -> xr.Dataset:
    """With records on an axis of their own, all judged at the end."""
    return values.rename(step="record").expand_dims(step=[steps])


@functools.cache
def falling(name: str) -> Take:
    """What falls of a member, against time."""

    def samples(tree: xr.DataTree) -> xr.Dataset:
        run = member(tree, name)
        require(run, "test_loss", "G_t0", "G_00", "G_tt", "eigenvalues", "sigma_w")
        return _records(series(run), int(run.step[-1]))

    return samples


@functools.cache
def aged(name: str) -> Take:
    """C(t, t_w) of a member, in the cell that is looked at alone."""

    def samples(tree: xr.DataTree) -> xr.Dataset:
        run = member(tree, name)
        require(run, "kept_features", "sigma_w")
        found = correlation(cell(run)).drop_vars(["temperature", "sigma_w"])
        return _records(found.to_dataset(name="C"), int(run.step[-1]))

    return samples


def precisions(tree: xr.DataTree) -> xr.Dataset:
    """Memory and loss in both precisions at the temperature that they have in common."""
    narrow, wide = (series(at_temperature(member(tree, name))) for name in ("iid", "float64"))
    both = xr.concat([narrow, wide], "precision", join="inner", coords="minimal", compat="override")
    return _records(both, int(both.step[-1]))


def _time(clock: str) -> Callable[[Averages], xr.DataArray]:
    return lambda x: saturated(CLOCKS[clock].time(x, "record"))


def z(clock: str) -> Statistic:
    """eps t* ~ sigma_W^z, mean over temperatures."""
    return lambda x: exponent(_time(clock)(x), "sigma_w").mean("temperature")


def y(clock: str) -> Statistic:
    """eps t* ~ T^-y, mean over sigma_W."""
    return lambda x: -exponent(_time(clock)(x), "temperature").mean("sigma_w")


def bent(clock: str) -> Statistic:
    """By how much z grows along sigma_W, mean over temperatures."""
    return lambda x: bend(_time(clock)(x), "sigma_w").mean("temperature")


def rounding(clock: str) -> Statistic:
    """Decades by which float64 takes longer than float32, mean over sigma_W."""

    def later(x: Averages) -> xr.DataArray:
        narrow, wide = (_time(clock)(x.isel(precision=k)) for k in (0, 1))
        return (wide - narrow).mean("sigma_w")

    return later


def mu(x: Averages) -> xr.DataArray:
    """tau ~ t_w^mu."""
    return ageing_exponent(x.C.isel(step=0, drop=True).rename(record="step")).expand_dims(step=x.step.values)


# Runs in which it is otherwise.


def _exponential(run: xr.Dataset) -> xr.Dataset:
    far = SATURATED * (1 + np.log(run.sigma_w / SATURATED))
    return run.assign_coords(sigma_w=xr.where(run.sigma_w > SATURATED, far, run.sigma_w))


exponential = Null("positive control: log sigma_W in the place of sigma_W, so that times grow exponentially", _exponential)


def _stationary(run: xr.Dataset) -> xr.Dataset:
    """An Ornstein-Uhlenbeck process that forgets in three times the run, so that records resolve its start."""
    phi, random = run.kept_features, np.random.default_rng(2)
    noise = random.normal(size=phi.shape).astype(np.float32)
    at = phi.get_axis_num("step")
    noise = np.moveaxis(noise, at, 0)
    made = [noise[0]]
    for before, now, fresh in zip(run.step.values[:-1], run.step.values[1:], noise[1:], strict=True):
        kept = np.exp(-(now - before) / (3 * run.step.values[-1]))
        made.append(kept * made[-1] + np.sqrt(1 - kept**2) * fresh)
    return run.assign(kept_features=phi.copy(data=np.moveaxis(np.array(made), 0, at)))


stationary = Null("positive control: a stationary process in the place of the features", _stationary)


def _late(run: xr.Dataset) -> xr.Dataset:
    if settings(run)["precision"] == "float32":
        return run
    before = np.maximum(np.arange(run.sizes["step"]) - 2, 0)
    return run.isel(step=before).assign_coords(step=run.step)


late = Null("positive control: what float64 was two records before", _late)


def _of(member: str, of: Callable[[str], Statistic], word: str, low: float, high: float, clocks: str) -> tuple[Measure, ...]:
    return tuple(Measure(f"{word}, {member}, {CLOCKS[clock].words}", falling(member), of(clock), low, high)
                 for clock in clocks.split())  # fmt: skip


_TOGETHER = permuted("sigma_w")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "power_law", "Relaxation times grow as a power of sigma_W, and do not diverge",
        expected="d log t*/d log sigma_W is the same at small and large sigma_W",
        measures=(*_of("iid", bent, "growth of z along sigma_W", -0.5, 0.5, "half tenth"),
                  *_of("flow", bent, "growth of z along sigma_W", -0.5, 0.5, "half")),
        null=exponential, over="study",
    ),
    Claim("lazy", "The jammed phase is lazy: weights move by a distance that does not grow", expected="z = 1",
          measures=_of("iid", z, "z", 0.8, 1.2, "half"), null=_TOGETHER, over="study"),
    Claim(
        "ballistic", "It is ballistic: the drift turns saturated nodes, whose gradient is of the order of 1/sigma_W",
        expected="z = 2, and times collapse in eps t: y = 0",
        measures=(*_of("iid", z, "z", 1.8, 2.2, "half memory"), *_of("iid", y, "y", -0.2, 0.2, "half memory")),
        null=_TOGETHER, over="study",
    ),
    Claim(
        "diffusive", "It is diffusive: noise has to move the weights by their own size",
        expected="z = 3, and times collapse in eps T t: y = 1",
        measures=(*_of("iid", z, "z", 2.8, 3.2, "half"), *_of("iid", y, "y", 0.8, 1.2, "half")),
        null=_TOGETHER, over="study",
    ),
    Claim("flow", "Gradient flow, which has no noise, is as slow", expected="z = 2",
          measures=_of("flow", z, "z", 1.8, 2.2, "half memory"), null=_TOGETHER, over="study"),
    Claim(
        "softening", "Beyond, nodes have to lose their saturation: weights shrink as d sigma^3/dt = const, noise or not",
        expected="z = 3, and times collapse in eps t: y = 0",
        measures=(*_of("iid", z, "z", 2.8, 3.2, "tenth"), *_of("iid", y, "y", -0.2, 0.2, "tenth"),
                  *_of("flow", z, "z", -np.inf, np.inf, "tenth"), *_of("iid", z, "z", -np.inf, np.inf, "norm")),
        null=_TOGETHER, over="study",
    ),
    Claim("data", "It is the finite number of samples that slows the second stage",
          expected="z = 2 with sixteen times as many",
          measures=_of("data", z, "z", 1.8, 2.2, "tenth half"), null=_TOGETHER, over="study"),
    Claim("order", "The order of the batches does not matter", expected="z = 2 and y = 0 in cyclic order",
          measures=(*_of("cyclic", z, "z", 1.8, 2.2, "half"), *_of("cyclic", y, "y", -0.2, 0.2, "half")),
          null=_TOGETHER, over="study"),
    Claim("ageing", "Features age as in a glass: C(t, t_w) is a function of t/t_w", expected="mu = 1",
          measures=(Measure("mu, iid", aged("iid"), mu, 0.8, 1.2),), null=stationary, over="study"),
    Claim("ageing_flow", "... and so they do without noise, so that ageing is no sign of a glass", expected="mu = 1",
          measures=(Measure("mu, flow", aged("flow"), mu, 0.8, 1.2),), null=stationary, over="study"),
    Claim("rounding", "Single precision does not slow it down", expected="t* of float64 is that of float32",
          measures=tuple(Measure(f"decades from float32 to float64, {CLOCKS[clock].words}", precisions, rounding(clock),
                                 -0.1, 0.1) for clock in ("half", "tenth")),
          null=late, over="study"),
)  # fmt: skip
