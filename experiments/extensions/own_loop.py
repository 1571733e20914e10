"""Is the advice right in a loop of one's own, in plain optax? At the recommended learning rate, at half and at double.

python -m experiments.extensions.own_loop
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import phasejax as pj

X = np.random.default_rng(0).standard_normal((4512, 3)).astype("float32")
Y = np.sin(2 * X[:, :1]) * np.cos(X[:, 1:2]) + 0.5 * X[:, 2:]
OURS = pj.Experiment(
    task=pj.Arrays(X[:4000], Y[:4000], X[4000:], Y[4000:]), network=pj.Network((3, 32, 1)), sgd=pj.Sgd(batch_size=8),
    grid=pj.Grid(learning_rate=0.1, sigma_w=[0.25, 0.5, 1, 2, 4], seeds=5), schedule=pj.Schedule(30_000),
)  # fmt: skip


def train(rate, stds, steps, key, batch=8):
    """Test loss of a network that knows nothing of phasejax, trained with plain SGD; at most that of a constant."""
    x, y, test_x, test_y = map(jnp.asarray, (X[:4000], Y[:4000], X[4000:], Y[4000:]))
    keys = jax.random.split(key, 3)
    weights = {"1": stds["1"] * jax.random.normal(keys[0], (3, 32)), "2": stds["2"] * jax.random.normal(keys[1], (32, 1))}
    optimizer = optax.sgd(rate)

    def loss(weights, x, y):
        return 0.5 * ((jnp.tanh(x @ weights["1"]) @ weights["2"] - y) ** 2).mean()

    def step(carry, chosen):
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights, x[chosen], y[chosen]), state)
        return (optax.apply_updates(weights, updates), state), None

    order = jax.random.randint(keys[2], (steps, batch), 0, len(x))
    (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), order)
    return jnp.nan_to_num(jnp.minimum(loss(weights, test_x, test_y), test_y.var() / 2), nan=Y.var() / 2)


def main(experiment: pj.Experiment = OURS, folder: str | Path = "figures/extensions") -> list[Path]:
    """Ask for advice, train at it, and draw the losses."""
    advice = pj.advise(experiment, budget=max(0.01, 10 / experiment.schedule.steps))
    print(advice)
    rates, keys = [advice.learning_rate * 2.0**k for k in (-1, 0, 1)], jax.random.split(jax.random.key(1), 5)
    trained = jax.jit(jax.vmap(train, (None, None, None, 0)), static_argnums=2)
    losses = [trained(rate, advice.initial_stds, experiment.schedule.steps, keys) for rate in rates]
    print("median test losses at half, once and double the learning rate:", *(f"{np.median(of):.4f}" for of in losses))
    figure, ax = plt.subplots(figsize=(3.4, 2.6), layout="constrained")
    ax.plot(["half", "recommended", "double"], losses, "o", color="C0")
    ax.set(yscale="log", ylabel="test loss", xlabel=f"learning rate (recommended: {advice.learning_rate:.3g})")
    return pj.figures.save(figure, Path(folder) / "own_loop")


if __name__ == "__main__":
    main()
