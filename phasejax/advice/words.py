"""Advice in sentences, in units of the package and of a training loop of one's own."""

import math
from typing import TYPE_CHECKING

import numpy as np

from phasejax.advice.reading import BEST_FALLS, BOUNDARY_FALLS, CONFIDENCE, CONTRAST, budget_needed
from phasejax.experiment import Experiment
from phasejax.network import Network, initial

if TYPE_CHECKING:
    from phasejax.advice.advising import Advice

WITHIN = 0.25
"""Decades of the best cell's final loss within which nine in ten recommended cells are (docs/advice.md)."""

DRIFT = (
    "Boundaries move while training goes on, for which the middle of an interval allows as far as it is the same in the "
    "networks these rules were made on; in those it was down by up to 0.7 octaves in columns of small sigma_w where all "
    "layers are trained, up by as much in wide networks and where one layer is trained, and little at large sigma_w."
)


def sentences(advice: "Advice") -> list[str]:
    """A sentence for each answer, the recommended cell first."""
    if not advice.reading.learned:
        return [*_nothing_learned(advice), _cost(advice)]
    return [*_recommended(advice), *_boundaries(advice), *_jamming(advice), *_guess(advice), _cost(advice)]


def initial_stds(experiment: Experiment, sigma_w: float) -> dict[str, float]:
    """Standard deviation of the initial entries of each array by name: sigma_W / sqrt(n_in) of a trained layer.

    Of a network of one's own they are those of one draw, times sigma_W where it scales them.
    """
    network = experiment.network
    if isinstance(network, Network):
        return {
            str(layer): (sigma_w * network.scales[str(layer)] if str(layer) in network.trained else 1.0) / math.sqrt(n)
            for layer, n in enumerate(network.widths[:-1], 1)
        }
    import jax

    drawn = initial(network, jax.random.key(0), "float32")
    trained = getattr(network, "trained", None) or tuple(drawn)
    return {name: float(np.std(w)) * (sigma_w if w.ndim > 1 and name in trained else 1.0) for name, w in drawn.items()}


def in_a_loop(advice: "Advice") -> list[str]:
    """The recommended setting for a training loop of one's own, as PyTorch and optax name it: a sentence each."""
    experiment, optimizer = advice.experiment, advice.experiment.sgd.optimizer
    given = {name: value for name, value in dict(advice.recommended.grid.numbers).items()
             if value and name not in ("temperature", "learning_rate", "sigma_w")}  # fmt: skip
    rate, batches = f"{advice.learning_rate:.4g}", f"with batches of {experiment.sgd.batch_size}"
    if isinstance(optimizer, str) and optimizer in ("sgd", "adam"):
        # Weight decay of optax is a link of its own, and PyTorch has Adam's two means in one argument.
        decay = given.pop("weight_decay", 0.0)
        plain = "".join(f", {name}={value:g}" for name, value in given.items())
        theirs = f", weight_decay={decay:g}" if decay else ""
        if betas := {
            name: given.pop(name, default) for name, default in (("b1", 0.9), ("b2", 0.999)) if optimizer == "adam"
        }:
            theirs += f", betas=({betas['b1']:g}, {betas['b2']:g})" if "b1" in plain or "b2" in plain else ""
        theirs = "".join(f", {name}={value:g}" for name, value in given.items()) + theirs
        ours = f"optax.{optimizer}({rate}{plain})"
        ours = f"optax.chain(optax.add_decayed_weights({decay:g}), {ours})" if decay else ours
        how = f"{ours}, or torch.optim.{'SGD' if optimizer == 'sgd' else 'Adam'}(parameters, lr={rate}{theirs}), {batches}"
    else:
        how = ", ".join([f"your optimizer at learning_rate={rate}", *(f"{n}={v:g}" for n, v in given.items()), batches])
    stds = ", ".join(f"{name}: {std:.3g}" for name, std in initial_stds(experiment, advice.sigma_w).items())
    found = [f"In a loop of your own: {how}.",
             f"Standard deviations of the initial weights, by layer (std of torch.nn.init.normal_): {stds}."]  # fmt: skip
    if experiment.task.loss == "mse" and optimizer == "sgd":
        outputs = experiment.network.widths[-1] if isinstance(experiment.network, Network) else None
        by = f" {outputs / 2:g}" if outputs else " half the number of outputs"
        found.append("The loss is half the squared error, summed over outputs; torch.nn.MSELoss has neither the half nor "
                     f"the sum, and its learning rate is this one times{by}.")  # fmt: skip
    return found


def _recommended(advice: "Advice") -> list[str]:
    best, name = advice.reading.best, _name(advice)
    axis = advice.reading.y[advice.reading.rate].values
    edges = []
    if best.rate in (axis[0], axis[-1]):
        edges.append(f"it is the {'least' if best.rate == axis[0] else 'greatest'} {name.split(' ')[0]} that was tried")
    sigmas = advice.reading.y.sigma_w.values
    if len(sigmas) > 1 and best.sigma_w in (sigmas[0], sigmas[-1]):
        edges.append(f"it is the {'least' if best.sigma_w == sigmas[0] else 'greatest'} sigma_w of the grid")
    also = f" ({'; '.join(edges)}, so a better one may lie beyond)" if edges else ""
    temperature = "" if math.isnan(advice.temperature) else f" (temperature {_number(advice.temperature)})"
    falls = []
    if best.rate not in axis:
        falls.append("The optimizer's updates do not vanish with the gradients, so that the longer the training is the "
                     "smaller is the best learning rate: the pilot's own best was "
                     f"{_number(advice.reading.found)}, and it and the boundaries are carried on to the whole training by "
                     f"powers {-BEST_FALLS:g} and {-BOUNDARY_FALLS:g} of the steps.")  # fmt: skip
    return [f"Recommended: learning rate {_number(advice.learning_rate)}{temperature} and sigma_w "
            f"{_number(advice.sigma_w)}{also}; its final loss is expected within {WITHIN:g} decades of the best cell's.",
            *falls, *in_a_loop(advice)]  # fmt: skip


def _boundaries(advice: "Advice") -> list[str]:
    found, unlearned, columns, name = [], [], advice.boundary, _name(advice)
    by = advice.per_temperature
    for k in range(columns.sizes["sigma_w"]):
        here = columns.isel(sigma_w=k)
        at, kind = f"At sigma_w {_number(float(here.sigma_w))}", str(here.kind.values)
        if kind in ("boundary", "divergence"):
            low, middle, high = (_number(float(here[end])) for end in ("low", "T_c", "high"))
            rates = f", learning rate {_number(float(here.T_c) * by)}" if by != 1 else ""
            what = "is lost above" if kind == "boundary" else "diverges, and is limited by that and not by noise, above"
            found.append(f"{at} training {what} {name} {middle} ({CONFIDENCE:.0%}: {low} to {high}){rates}.")
        elif kind == "nothing learned":
            unlearned.append(_number(float(here.sigma_w)))
        elif kind == "no plateau":
            top = _number(float(advice.reading.y[advice.reading.rate][-1]))
            found.append(f"{at} the boundary is not known: the loss still rises at {name} {top}, the highest tried.")
        else:
            found.append(f"{at} no boundary is seen in this range: hot students are {float(here.contrast):.2g} decades "
                         f"worse than the best, and {CONTRAST:g} are needed to tell.")  # fmt: skip
    if unlearned:
        found.append(f"At sigma_w {', '.join(unlearned)} nothing has been learned yet.")
    if bool(np.isfinite(columns.T_c).any()):
        found.append(DRIFT)
    return found


def _jamming(advice: "Advice") -> list[str]:
    found = advice.reading.jamming
    if advice.reading.y.sizes["sigma_w"] < 3:
        return []
    if not np.isfinite(float(found.sigma_c)):
        worse = f"{float(found.contrast):.2g} decades worse than the best, and {CONTRAST:g} are needed to tell"
        return [f"No jamming boundary is seen: at the recommended learning rate large sigma_w is {worse}."]
    low, middle, high = (_number(float(found[end])) for end in ("low", "sigma_c", "high"))
    beyond = advice.boundary.T_c.where(advice.boundary.sigma_w >= found.sigma_c)
    # Where the other boundary has come down to it, colder students of the same start may well learn.
    what = "diverge or learn nothing" if bool((beyond <= advice.reading.best.rate).any()) else "start too large to learn"
    also = f", where it meets the {_name(advice)} boundary" if what.startswith("diverge") else ""
    return [f"At the recommended learning rate students {what} above sigma_w {middle} "
            f"({CONFIDENCE:.0%}: {low} to {high}){also}."]  # fmt: skip


def _guess(advice: "Advice") -> list[str]:
    if math.isnan(advice.edge):
        return []
    return [f"SGD becomes unstable at the start, sigma_w 1, above temperature {_number(advice.edge)}: a guess of the best "
            "temperature at no cost."]  # fmt: skip


def _nothing_learned(advice: "Advice") -> list[str]:
    steps = int(advice.pilot.step[-1])
    share = steps / advice.experiment.schedule.steps
    need = share * budget_needed(advice.pilot)
    if math.isnan(need):
        would = f"the pilot does not tell how long it would take: try --budget {min(10 * share, 1):.2g}, or other sigma_w"
    else:
        would = f"--budget {need:.2g} should do" if need < 1 else "it would need about as many steps as are planned, or more"
    return [f"No advice: after {steps:,} steps nothing has been learned yet, the best cell's loss being within "
            f"{max(advice.reading.gain, 0):.2g} decades of a constant output's; {would}."]  # fmt: skip


def _cost(advice: "Advice") -> str:
    y = advice.reading.y
    return (f"Cost: {y.size} cells x {advice.pilot.sizes['seed']} seeds x {int(advice.pilot.step[-1]):,} steps, as much as "
            f"{advice.cost:.3g} trainings of one student.")  # fmt: skip


def _name(advice: "Advice") -> str:
    return "temperature" if advice.reading.rate == "temperature" else "learning rate"


def _number(value: float) -> str:
    return f"{value:.3g}"
