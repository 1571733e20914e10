"""Is the advice right in a loop of one's own, in plain optax? At the recommended learning rate, at half and at double.

python -m experiments.extensions.own_loop
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import phasejax as pj

OURS = pj.Experiment(
    network=pj.Network((64, 24, 10)), task=pj.Digits(), sgd=pj.Sgd(batch_size=16),
    grid=pj.Grid(learning_rate=0.1, sigma_w=[0.25, 0.5, 1, 2, 4], seeds=5),
    schedule=pj.Schedule(10_000),
)  # fmt: skip


def train(rate, stds, steps, key, batch=16):
    """Test loss of a network that knows nothing of phasejax, trained with plain SGD."""
    x, y = load_digits(return_X_y=True)
    x, y = jnp.asarray((x - x.mean()) / x.std(), "float32"), jnp.asarray(y)
    (x, test_x), (y, test_y) = (jnp.split(a[jax.random.permutation(jax.random.key(0), len(x))], [1440]) for a in (x, y))
    keys = jax.random.split(key, 3)
    weights = {"1": stds["1"] * jax.random.normal(keys[0], (64, 24)), "2": stds["2"] * jax.random.normal(keys[1], (24, 10))}
    optimizer = optax.sgd(rate)

    def loss(weights, x, y):
        outputs = jnp.tanh(x @ weights["1"]) @ weights["2"]
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

    def step(carry, chosen):
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights, x[chosen], y[chosen]), state)
        return (optax.apply_updates(weights, updates), state), None

    order = jax.random.randint(keys[2], (steps, batch), 0, len(x))
    (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), order)
    return loss(weights, test_x, test_y)


def main(experiment: pj.Experiment = OURS, folder: str | Path = "figures/extensions") -> list[Path]:
    """Ask for advice, train at it, and draw the losses."""
    advice = pj.advise(experiment, budget=max(0.01, 10 / experiment.schedule.steps))
    print(advice)
    rates, keys = [advice.learning_rate * 2.0**k for k in (-1, 0, 1)], jax.random.split(jax.random.key(1), 5)
    trained = jax.jit(jax.vmap(train, (None, None, None, 0)), static_argnums=2)
    losses = [trained(rate, advice.initial_stds, experiment.schedule.steps, keys) for rate in rates]
    figure, ax = plt.subplots(figsize=(3.4, 2.6), layout="constrained")
    ax.plot(["half", "recommended", "double"], losses, "o", color="C0")
    ax.set(yscale="log", ylabel="test loss", xlabel=f"learning rate (recommended: {advice.learning_rate:.3g})")
    return pj.figures.save(figure, Path(folder) / "own_loop")


if __name__ == "__main__":
    main()
