"""An engine of one's own, in plain NumPy on the host: it trains the paper's students as `autodiff` does.

python -m experiments.extensions.engine
"""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import phasejax as pj


def loop(w, loss_sum, phi, y, readout, rates, first, steps):
    """W <- W - rate / B sum_b e_b [w3 o (1 - f_b^2)] phi_b^T, students (seed, cell), written out."""
    w, loss_sum = np.array(w), np.array(loss_sum)
    for k in range(int(first), int(first) + int(steps)):
        x, target = phi[:, k], y[:, k, None, :, 0]
        f = np.tanh(np.einsum("scij,sbj->scbi", w, x))
        error = np.einsum("scbi,si->scb", f, readout[:, 0]) - target
        loss_sum += 0.5 * (error**2).mean(-1)
        delta = error[..., None] * readout[:, 0][:, None, None] * (1 - f * f)
        w -= (rates / x.shape[1])[:, None, None] * np.einsum("scbi,sbj->scij", delta, x)
    return w.astype(np.float32), loss_sum.astype(np.float32)


class Numpy:
    """The paper's network, by a loop on the host."""

    name = "numpy"

    def why_not(self, experiment, devices):
        """What it knows is what `fused` knows, in float32."""
        return pj.engines.BUILT_IN["fused"].why_not(experiment, devices)

    def advance(self, experiment, devices):
        """The function of one shard."""
        (trained,), readout = experiment.network.trained, experiment.network.readout

        def advance(state, tasks, batches, cells, clock):
            arguments = (state.weights[trained], state.loss_sum, batches.features, batches.targets, tasks.frozen[readout],
                         cells.numbers["learning_rate"], clock.first, clock.steps)  # fmt: skip
            shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments[:2]]
            w, loss_sum = jax.pure_callback(loop, shapes, *arguments)
            return state._replace(weights={trained: w}, loss_sum=loss_sum)

        return advance


COLD = replace(pj.Experiment(), grid=pj.Grid(temperature=[2.0**k for k in range(-5, -1)], sigma_w=[0.125, 1, 8], seeds=2),
               schedule=pj.Schedule(200), observe=("test_loss", "train_loss", "weights"))  # fmt: skip


def main(experiment: pj.Experiment = COLD, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train with both, say how far they are apart, and draw the loss of ours."""
    ours, reference = (pj.simulate(experiment, engine=engine) for engine in (Numpy(), "autodiff"))
    apart = float(np.abs(ours.weights - reference.weights).max() / np.abs(reference.weights).max())
    print(f"largest difference of weights: {apart:.1e} of the largest weight")
    return pj.figures.save(pj.plane(ours, "train_loss", scale="log"), Path(folder) / "engine")


if __name__ == "__main__":
    main()
