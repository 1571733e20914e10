"""What the study keeps beside the package's observables: the motion of the levels, and its noise."""

import jax.numpy as jnp

import phasejax as pj
from phasejax.observables.level_motion import PARTS, LevelMotion, level_motion
from phasejax.observables.student import on_samples
from phasejax.state import Student, Task
from phasejax.tasks import mse


def _motion(student: Student, task: Task) -> LevelMotion:
    """Of the only trained layer, the first of those there are, on the training set that batches are drawn from."""
    (name,) = student.weights
    network = pj.Network((1,) * (1 + max(map(int, student.layers))))  # of which only the activation and the depth are read
    samples = on_samples(network, mse, student.layers, task.features, task.targets)
    return level_motion(student.weights[name], samples.entering[name], samples.g[name])


motion = pj.Observable(
    "motion",
    lambda student, task: _motion(student, task).parts,
    "mean motion of the levels of W W^T per learning rate in a step, to second order: times 1, T, T, T and learning rate",
    ("part", "level"),
    equation="4.3",
    coordinates=(("part", PARTS),),
    needs=("layers",),
)

noise = pj.Observable(
    "noise",
    lambda student, task: jnp.stack(_motion(student, task)[1:]),
    "variance V_ij of the gradient of W W^T in its eigenvectors, and the covariance of its diagonal",
    ("of", "level", "other_level"),
    equation="4.3",
    coordinates=(("of", ("elements", "diagonal")),),
    needs=("layers",),
)

end_noise = pj.Observable(
    "end_noise",
    lambda student, task: _motion(student, task).covariance[jnp.array([0, -1])][:, jnp.array([0, -1])],
    "variances and covariance of the gradient's noise along the lowest and the highest level",
    ("end", "other_end"),
    equation="B.4",
    needs=("layers",),
)
