"""The shapes that everybody shares: what is trained, on what, and when. No functions.

Arrays of students have leading axes (seed, cell); a cell's place among the axes of the grid is the experiment's and the
files' affair.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

Weights = dict[str, Array]
"""Arrays by name."""


class Cells(NamedTuple):
    """What one student reads and its neighbour may have otherwise, in the experiment's precision."""

    numbers: dict[str, Array]
    """By name, (cell,): sigma_w, learning_rate and whatever else the optimizer reads that is not zero everywhere."""
    starts: Array
    """Distinct sigma_w, (start,): students of a seed and a start begin alike."""
    start: Array
    """int32 (cell,), which of them a cell has."""


class Data(NamedTuple):
    """A data set, D training and A test samples; f is the width of what enters the first layer not yet applied to them."""

    features: Array
    """(D, f): training inputs, behind frozen layers where these come first and the data are a seed's own."""
    targets: Array
    """(D, n_L), or int32 labels (D,)."""
    test_features: Array
    """(A, f)."""
    test_targets: Array
    """(A, n_L), or int32 labels (A,)."""


class Task(NamedTuple):
    """Arrays of one seed, or with a leading seed axis in all but `shared`."""

    label: Array
    """int32, the seed's label."""
    teacher: Weights
    """The teacher's weights by name; empty without one."""
    draw: Weights
    """The student's draw at sigma_W = 1, trained arrays only."""
    frozen: Weights
    """Arrays that are not trained and not already applied to the features."""
    given: Weights
    """Weights to start from, (start, ...) each, where they are another run's; else empty."""
    test_teacher_features: Any
    """(A, n_(L-1)): the teacher's own features, those of its last hidden layer; empty without one."""
    own: Any
    """`Data` of this seed; empty where all seeds share one."""
    shared: Any
    """`Data` of all seeds, without a seed axis; empty where each has its own."""

    @property
    def data(self) -> Data:
        """The data set, whoever else has it."""
        return self.own or self.shared

    @property
    def features(self) -> Array:
        """Training inputs, as in `Data`."""
        return self.data.features

    @property
    def targets(self) -> Array:
        """Training targets, as in `Data`."""
        return self.data.targets

    @property
    def test_features(self) -> Array:
        """Test inputs, as in `Data`."""
        return self.data.test_features

    @property
    def test_targets(self) -> Array:
        """Test targets, as in `Data`."""
        return self.data.test_targets


class Batches(NamedTuple):
    """A block of batches of one seed, as they are used: the samples, or where all seeds share these their indices."""

    features: Any
    """(steps, B, f)."""
    targets: Any
    """(steps, B, n_L) or (steps, B)."""
    indices: Any = ()
    """int32 (steps, B), and then the others are empty."""


class State(NamedTuple):
    """The training state of an ensemble."""

    weights: Weights
    """Trained arrays, (seed, cell, n_l, n_(l-1)) in the paper's network."""
    moments: Any
    """The optimizer's own state (optax), one a student."""
    mark: Weights
    """Weights when the averaging window was opened."""
    gradient_sum: Weights
    """Sum of batch gradients since the mark; empty where the displacement from the mark says it."""
    loss_sum: Array
    """Sum of batch losses, each before its update, since the mark."""
    diverged_step: Array
    """int32: the first update whose batch loss was not finite; -1 while there is none."""


class Clock(NamedTuple):
    """Where in the training a call is."""

    step: Array
    """int32, updates done before it."""
    first: Array
    """int32, its first batch among those of the block."""
    steps: Array
    """int32, updates to do; traced, so that any number is one program."""
    factors: Any = ()
    """Factor of the learning rate at each batch of the block, (steps,); empty where it is 1 throughout."""


Advance = Callable[[State, Task, Batches, Cells, Clock], State]
"""What an engine gives: one shard's students, trained on."""


class Student(NamedTuple):
    """What an observable sees of one student at one step. A is the number of test samples."""

    weights: Weights
    """Its trained arrays."""
    layers: Weights
    """All its arrays from what the data enter on."""
    features: Array
    """phi(t) on the test inputs, (A, n_(L-1)) (Eq 2.5)."""
    initial_features: Array
    """phi(0) on the test inputs, (A, n_(L-1))."""
    outputs: Array
    """On the test inputs, (A, n_L)."""
    train_loss: Array
    """Mean batch loss over the window, each before its update; NaN where no window was open, at step 0 for one."""
    gradient_norm: Array
    """Norm of the mean batch gradient over the window, while W moves; NaN likewise."""
    diverged_step: Array
    """int32, -1 if it never diverged."""
    eigenvalues: Weights
    """Of X = W W^T, ascending, (n_l,), one a trained matrix."""
    dynamics: dict[str, Any]
    """`LevelDynamics` on the test inputs by layer, where an observable chosen needs "level_dynamics"."""
    curvature: Any
    """`Curvature` on training samples, where an observable chosen needs "curvature"; else empty."""
    numbers: dict[str, Array]
    """The numbers of its cell: sigma_w, learning_rate, ..."""
    step: Array
    """int32, updates done."""
