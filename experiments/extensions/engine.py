"""An engine of one's own, its gradient by hand: it agrees with `autodiff` to rounding, until chaos in the heat parts them.

python -m experiments.extensions.engine
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.style
from matplotlib.figure import Figure

import phasejax as pj


def train(state, tasks, batches, cells, clock):
    """Train on: s is a seed, c a cell, b a sample, n and m are nodes; what comes below the trained layer is done already."""
    ((name, _),), ((_, last),) = state.weights.items(), tasks.frozen.items()

    def step(k, state):
        w = state.weights[name]
        h, y = batches.features[:, clock.first + k], batches.targets[:, clock.first + k]
        phi = jnp.tanh(jnp.einsum("sbm,scnm->scbn", h, w))
        error = jnp.einsum("scbn,son->scbo", phi, last) - y[:, None]
        dw = jnp.einsum("c,scbo,son,scbn,sbm->scnm", cells.numbers["learning_rate"], error, last, 1 - phi**2, h / h.shape[1])
        loss = state.loss_sum + (error**2).sum((-1, -2)) / (2 * h.shape[1])
        lost = jnp.where((state.diverged_step < 0) & ~jnp.isfinite(loss), clock.step + k, state.diverged_step)
        return state._replace(weights={name: w - dw}, loss_sum=loss, diverged_step=lost)

    return jax.lax.fori_loop(0, clock.steps, step, state)


class ByHand:
    """Applies to the middle layer of the paper's network and plain SGD."""

    name = "by hand"
    why_not = staticmethod(lambda one, devices: None if one.plain and one.network == PAPERS else "it is another network's")
    advance = staticmethod(lambda one, devices: train)


PAPERS = pj.Network((3, 32, 16, 1), trainable=(2,))
GRID = pj.Grid(temperature=[2**-5, 1, 64], sigma_w=[0.125, 1, 256], seeds=4)
OURS = pj.Experiment(grid=GRID, schedule=pj.Schedule(3000), observe=("test_loss", "diverged_step"))


def main(experiment: pj.Experiment = OURS, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train with both, and draw the largest difference of the losses against the step."""
    ours, reference = (pj.simulate(experiment, engine=one).test_loss for one in (ByHand(), "autodiff"))
    apart = abs(ours / reference - 1).max("seed")[1:]
    with matplotlib.style.context(pj.figures.STYLE_SHEET):
        ax = (figure := Figure(figsize=(3.4, 2.5))).subplots()
        for colour, (t, cells) in zip(("C0", "C2", "C1"), apart.groupby("temperature"), strict=False):
            ax.loglog(cells.step, cells[:, 0], color=colour)[0].set_label(f"$T = {t:g}$")
        ax.set(xlabel="step", ylabel="relative difference of losses")
        ax.legend(title="a line a $\\sigma_W$")
    return pj.figures.save(figure, Path(folder) / "engine")


if __name__ == "__main__":
    main()
