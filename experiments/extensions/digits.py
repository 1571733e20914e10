"""Which learning rate and initial scale suit handwritten digits? Cross-entropy, relu, all layers trained.

python -m experiments.extensions.digits
"""

from pathlib import Path

import phasejax as pj

DIGITS = pj.Experiment(
    task=pj.Digits(),
    network=pj.Network((64, 32, 10), "relu"),
    sgd=pj.Sgd(batch_size=16),
    grid=pj.Grid(learning_rate=[2.0**k for k in range(-8, 3)], sigma_w=[2.0**k for k in range(-4, 4)], seeds=3),
    schedule=pj.Schedule(steps=900),
    observe=("test_accuracy", "test_loss", "diverged_step"),
)


def main(experiment: pj.Experiment = DIGITS, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train, say which cell is best, and draw the plane of accuracies."""
    run = pj.simulate(experiment)
    accuracy = run.test_accuracy.isel(step=-1).mean("seed")
    best = accuracy.where(accuracy == accuracy.max(), drop=True)
    print(f"best: {float(accuracy.max()):.1%} of the test images, at learning rate {best.learning_rate.values[0]:g} "
          f"and sigma_W {best.sigma_w.values[0]:g}")  # fmt: skip
    return pj.figures.save(pj.plane(run, "test_accuracy"), Path(folder) / "digits")


if __name__ == "__main__":
    main()
