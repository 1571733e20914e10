"""What is said of it. Every interval was set before the first run at the desk's length."""

import xarray as xr

from phasejax.analysis.run import member, require
from phasejax.analysis.statistics import draw, sound
from phasejax.claims.judging import Averages, Claim, Measure, Statistic
from phasejax.claims.nulls import all_as, at_start, mirrored
from phasejax.studies.digits.levels import RANDOM, outliers

PLANE = ("temperature", "sigma_w")


def _numbers(run: xr.Dataset) -> xr.Dataset:
    require(run, "test_accuracy", "eigenvalues", "sigma_w")
    found = {"accuracy": run.test_accuracy, "train_loss": run.train_loss}
    found |= {f"outliers_{layer}": outliers(run, layer) for layer in RANDOM}
    found["beyond_1"] = outliers(run, 1, "start")
    return xr.Dataset({name: sound(run, values) for name, values in found.items()})


def samples(tree: xr.DataTree) -> xr.Dataset:
    """Numbers of both members at the end, in two halves of the seeds: one chooses the cell, the other says what is there."""
    labels, shuffled = (_numbers(member(tree, name)).isel(step=[-1]) for name in ("labels", "shuffled"))
    both = xr.concat([labels, shuffled], xr.DataArray(["labels", "shuffled"], dims="member"), coords="minimal",
                     compat="override")  # fmt: skip
    half = xr.DataArray(draw(labels) % 2, dims="seed")
    return both.where(half == xr.DataArray([0, 1], dims="half"))


def at_best(name: str, member: str = "labels") -> Statistic:
    """A mean in the cell of the highest accuracy of the member `labels`."""

    def statistic(x: Averages) -> xr.DataArray:
        accuracy = x.accuracy.sel(member="labels", drop=True).stack(cell=PLANE).drop_vars(["cell", *PLANE])
        chosen = accuracy.fillna(0.0).argmax("cell")
        found = x[name].sel(member=member, drop=True).stack(cell=PLANE).drop_vars(["cell", *PLANE])
        return found.isel(half=[1, 0]).isel(cell=chosen).mean("half", skipna=False)

    return statistic


def hottest(name: str) -> Statistic:
    """A mean over the hottest row."""

    def statistic(x: Averages) -> xr.DataArray:
        at = int(x.temperature.values.argmax())
        return x[name].sel(member="labels", drop=True).isel(temperature=at, drop=True).mean(["half", "sigma_w"])

    return statistic


def jammed(name: str) -> Statistic:
    """A mean at the largest sigma_W, at the temperature of the highest accuracy of all."""

    def statistic(x: Averages) -> xr.DataArray:
        accuracy = x.accuracy.sel(member="labels", drop=True)
        chosen = accuracy.max("sigma_w").fillna(0.0).argmax("temperature")
        found = x[name].sel(member="labels", drop=True).isel(sigma_w=int(x.sigma_w.values.argmax()), drop=True)
        return found.isel(half=[1, 0]).isel(temperature=chosen, drop=True).mean("half", skipna=False)

    return statistic


def more(first: Statistic, second: Statistic) -> Statistic:
    """The first minus the second."""
    return lambda x: first(x) - second(x)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "learns", "In its best cell the network tells digits", expected="more than nine of ten test images",
        measures=(Measure("test accuracy, best cell", samples, at_best("accuracy"), low=0.9),
                  Measure("training loss, best cell", samples, at_best("train_loss"))),
        null=all_as("shuffled"), over="study",
    ),
    Claim(
        "hot", "There is a hot phase that learns nothing", expected="accuracy at the highest T below 0.2",
        measures=(Measure("test accuracy, highest T", samples, hottest("accuracy"), high=0.2),),
        null=mirrored("temperature"), over="study",
    ),
    Claim(
        "jammed", "Large initial weights cost accuracy", expected="a tenth or more, at the largest sigma_W",
        measures=(Measure("best cell - largest sigma_W", samples, more(at_best("accuracy"), jammed("accuracy")), low=0.1),),
        null=mirrored("sigma_w"), over="study",
    ),
    Claim(
        "outliers", "What is learnt are a few levels off the bulk, no more than there are classes",
        expected="1 to 10 levels of W^(1) above the edge of a bulk with the median level",
        measures=(Measure("levels of W^(1), best cell", samples, at_best("outliers_1"), 1.0, 10.0),),
        null=at_start, over="study",
    ),
    Claim(
        "softmax", "All levels of the readout but one leave the bulk they started in",
        expected="9 of 10: what adds to all logits alike is not seen by the loss, and a direction of W^(2) never moves",
        measures=(Measure("levels of W^(2), best cell", samples, at_best("outliers_2"), 8.5, 9.5),),
        afterwards=True, null=at_start, over="study",
    ),
    Claim(
        "structure", "More of them than it takes to learn labels by heart",
        expected="at least one more than with shuffled labels",
        measures=(Measure("labels - shuffled, W^(1)", samples,
                          more(at_best("outliers_1"), at_best("outliers_1", "shuffled")), low=1.0),
                  Measure("labels - shuffled, above the edge of the start", samples,
                          more(at_best("beyond_1"), at_best("beyond_1", "shuffled")))),
        null=all_as("shuffled"), over="study",
    ),
)  # fmt: skip
