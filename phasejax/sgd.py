"""One student's update (Eq 2.28): optax's optimisers, made with the student's own learning rate."""

import optax
from jax import Array

from phasejax.experiment import Sgd


def optimiser(sgd: Sgd, learning_rate: Array | float) -> optax.GradientTransformation:
    """The optax optimiser of one student.

    Args:
        sgd: which optimiser, and its momentum.
        learning_rate: epsilon, of the weights' dtype; it may be traced, one value a student.
    """
    if sgd.optimiser == "adam":
        return optax.adam(learning_rate)
    return optax.sgd(learning_rate, momentum=sgd.momentum or None)
