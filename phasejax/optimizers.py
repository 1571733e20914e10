"""How one student is updated (Eq 2.28): optax's optimizers, made anew in every step from the numbers of the student's cell.

An optimizer is any function whose keywords are numbers and that returns an optax chain, `optax.adamw` for instance. What the
grid gives under these names is traced, one value a student; a number that is 0 in every cell is given as Python's own 0.0,
so that the function may leave its term out.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from phasejax import names
from phasejax.checks import one_of, part, set_fields, whole

if TYPE_CHECKING:
    import optax

Order = Literal["cyclic", "shuffled", "iid"]


def sgd(learning_rate: Any, momentum: Any = 0.0, weight_decay: Any = 0.0) -> "optax.GradientTransformation":
    """W <- W - epsilon (gradient + decay W), with heavy-ball momentum mu: a step is the gradient plus mu times the last."""
    import optax

    def absent(number: Any) -> bool:
        return isinstance(number, float) and number == 0

    plain = optax.sgd(learning_rate, momentum=None if absent(momentum) else momentum)
    return plain if absent(weight_decay) else optax.chain(optax.add_decayed_weights(weight_decay), plain)


def adam(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> "optax.GradientTransformation":
    """Adam with optax's defaults."""
    import optax

    return optax.adam(learning_rate, b1, b2, eps)


BUILT_IN: dict[str, Callable] = {"sgd": sgd, "adam": adam}
"""Optimizers that have a name."""


@part("sgd")
class Sgd:
    """How a student is updated (Eq 2.28)."""

    optimizer: str | Callable = "sgd"
    """sgd (momentum and weight decay are numbers of the grid), adam, or a function of numbers that gives an optax chain."""
    batch_size: int = 4
    """Samples per update B."""
    order: Order = "cyclic"
    """Order of the batches: the same every epoch (cyclic), permuted anew in each (shuffled), or with replacement (iid)."""

    def __post_init__(self) -> None:
        if callable(self.optimizer):
            known = names.name_of(self.optimizer, BUILT_IN)
            set_fields(self, optimizer=known if known in BUILT_IN else self.optimizer)
        elif not names.is_reference(self.optimizer):
            one_of("sgd.optimizer", self.optimizer, tuple(BUILT_IN))
        one_of("sgd.order", self.order, get_args(Order))
        set_fields(self, batch_size=whole("sgd.batch_size", self.batch_size, 1))

    @property
    def factory(self) -> Callable | None:
        """The function behind the optimizer; None if it is a name that nothing given defines."""
        return self.optimizer if callable(self.optimizer) else BUILT_IN.get(self.optimizer)


def numbers_of(factory: Callable) -> tuple[list[str], list[str]]:
    """Names of all the keywords of an optimizer, and of those without a default."""
    keywords = {
        name: keyword
        for name, keyword in inspect.signature(factory).parameters.items()
        if keyword.kind in (keyword.POSITIONAL_OR_KEYWORD, keyword.KEYWORD_ONLY)
    }
    return list(keywords), [name for name, keyword in keywords.items() if keyword.default is keyword.empty]


class Optimizer(NamedTuple):
    """An optimizer of one student, once the numbers of its cell are known."""

    factory: Callable
    read: tuple[str, ...]
    """The numbers it is given, traced."""
    zero: tuple[str, ...]
    """The numbers it is given as Python's 0.0."""

    def of(self, numbers: Mapping[str, Any]) -> "optax.GradientTransformation":
        """The optax chain for these numbers."""
        return self.factory(**{name: numbers[name] for name in self.read}, **dict.fromkeys(self.zero, 0.0))
