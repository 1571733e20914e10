"""Does clipping gradients move the temperature boundary? An optax chain, and the clip as an axis.

python -m experiments.extensions.clipping
"""

from pathlib import Path

import optax

import phasejax as pj


def clipped(learning_rate, clip):
    """SGD with the gradient's norm cut at `clip`; both are numbers of a cell."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(learning_rate))


CLIPPED = pj.Experiment(
    sgd=pj.Sgd(optimizer=clipped),
    grid=pj.Grid(learning_rate=[2.0**k for k in range(-3, 6)], clip=[0.03, 0.1, 0.3, 1, 3], sigma_w=0.125, seeds=10),
    schedule=pj.Schedule(steps=3000),
    observe=("test_loss", "diverged_step"),
)


def main(experiment: pj.Experiment = CLIPPED, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train, and draw the loss over learning rate and clip."""
    run = pj.simulate(experiment)
    return pj.figures.save(pj.plane(run, "test_loss", scale="log"), Path(folder) / "clipping")


if __name__ == "__main__":
    main()
