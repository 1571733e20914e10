"""Where are the phases of a network of one's own, with a residual connection?

python -m experiments.extensions.residual
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

import phasejax as pj


@dataclass(frozen=True)
class Residual:
    """Two tanh layers, the second around an identity."""

    width: int = 16
    inputs: int = 3

    def init(self, key):
        """Unit weights, by name."""
        shapes = {"into": (self.width, self.inputs), "inner": (self.width, self.width), "out": (1, self.width)}
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {name: jax.random.normal(keys[name], shape, "float32") / shape[1] ** 0.5 for name, shape in shapes.items()}

    def apply(self, weights, x):
        """Outputs and the last hidden features."""
        h = jnp.tanh(x @ weights["into"].T)
        h = h + jnp.tanh(h @ weights["inner"].T)
        return h @ weights["out"].T, h


OURS = pj.Experiment(
    network=Residual(),
    grid=pj.Grid(temperature=[2.0**k for k in range(-7, 3)], sigma_w=[2.0**k for k in range(-3, 4)], seeds=5),
    schedule=pj.Schedule(steps=3000),
    observe=("test_loss", "feature_overlap", "eigenvalues", "diverged_step"),
)


def main(experiment: pj.Experiment = OURS, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train, and draw the loss over the paper's plane."""
    run = pj.simulate(experiment)
    return pj.figures.save(pj.plane(run, "test_loss", scale="log"), Path(folder) / "residual")


if __name__ == "__main__":
    main()
