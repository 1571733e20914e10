"""What is measured."""

import jax.numpy as jnp

import phasejax as pj


def _participation_ratio(student, task):
    """(sum x)^2 / sum x^2 of the eigenvalues x of the last trained W W^T: 1 if one rules, n if all are equal."""
    x = [*student.eigenvalues.values()][-1]
    return jnp.sum(x) ** 2 / jnp.sum(x**2)


effective_rank = pj.Observable("effective_rank", _participation_ratio, "effective rank of W")
