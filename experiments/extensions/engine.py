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
    w, loss_sum, phi, y, readout, rates = map(np.array, (w, loss_sum, phi, y, readout, rates))
    for k in range(int(first), int(first) + int(steps)):
        x, f = phi[:, k], np.tanh(np.einsum("scij,sbj->scbi", w, phi[:, k]))
        error = np.einsum("scbi,si->scb", f, readout[:, 0]) - y[:, k, None, :, 0]
        loss_sum += 0.5 * (error**2).mean(-1)
        slope = error[..., None] * readout[:, 0, None, None] * (1 - f * f)
        w -= (rates / x.shape[1])[:, None, None] * np.einsum("scbi,sbj->scij", slope, x)
    return w.astype(np.float32), loss_sum.astype(np.float32)


class Numpy:  # noqa: D101
    name = "numpy"

    def why_not(self, experiment, devices):
        """It knows one trained layer of tanh nodes, as the paper's network has, and plain SGD."""
        return None if experiment.network.soft_committee and experiment.plain else "it knows the paper's network only"

    def advance(self, experiment, devices):
        """The function of one shard."""
        (trained,), readout = experiment.network.trained, experiment.network.readout

        def advance(state, tasks, batches, cells, clock):
            students = (state.weights[trained], state.loss_sum)
            given = (*batches[:2], tasks.frozen[readout], cells.numbers["learning_rate"], clock.first, clock.steps)
            w, loss_sum = jax.pure_callback(loop, students, *students, *given)
            return state._replace(weights={trained: w}, loss_sum=loss_sum)

        return advance


GRID = pj.Grid(temperature=[2.0**k for k in range(-5, -1)], sigma_w=[0.125, 1, 8], seeds=2)
COLD = replace(pj.Experiment(), grid=GRID, schedule=pj.Schedule(200), observe=("train_loss", "weights", "diverged_step"))


def main(experiment: pj.Experiment = COLD, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train with both, say how far they are apart, and draw the loss of ours."""
    ours, reference = (pj.simulate(experiment, engine=engine) for engine in (Numpy(), "autodiff"))
    apart = abs(ours.weights - reference.weights).max() / abs(reference.weights).max()
    print(f"largest difference of weights: {float(apart):.1e} of the largest weight")
    return pj.figures.save(pj.plane(ours, "train_loss", scale="log"), Path(folder) / "engine")


if __name__ == "__main__":
    main()
