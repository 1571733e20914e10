"""What `native.cc` is compiled for, a `Network` and a loss, and the gradient over all samples that comes from it."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from phasejax import names
from phasejax.kernels import build
from phasejax.network import ACTIVATIONS, Network
from phasejax.state import Weights
from phasejax.tasks import LOSSES, cross_entropy, mse

_LOSSES: dict[Callable, str] = {mse: "HalfSquares", cross_entropy: "CrossEntropy"}

# Samples that the gradient over all of them takes together.
_TOGETHER = 4


def unknown(network: Any, loss: Callable) -> str | None:
    """What of a network and a loss is the user's own Python, and no kernel therefore; None if nothing is."""
    if not isinstance(network, Network):
        return f"the network, {names.name_of(type(network))}, is Python of your own"
    for layer in range(1, len(network.widths) - 1):
        if network.activation_of(layer) not in ACTIVATIONS:
            return f"the activation {_called(network.activation_of(layer))} is Python of your own"
    return None if loss in _LOSSES else f"the loss {_called(loss, LOSSES)} is Python of your own"


def _called(function: Any, built_in: Any = None) -> str:
    return names.name_of(inspect.unwrap(function) if callable(function) else function, built_in)


def labelled(loss: Callable) -> bool:
    """Whether targets are labels of classes."""
    return loss is cross_entropy


def sizes(network: Network, loss: Callable, layers: Sequence[int], **more: Any) -> dict[str, Any]:
    """The macros of `native.cc`.

    Args:
        network: one that a kernel knows, as the loss.
        loss: of each sample.
        layers: numbers of its layers, from the one on that the data are given on.
        more: the others.
    """

    def listed(numbers: Any) -> str:
        return ",".join(map(str, numbers))

    return {
        "WIDTHS": listed(network.widths[layers[0] - 1 :]),
        "TRAINED": listed(int(layer in network.trainable) for layer in layers),
        "ACTIVATIONS": listed(network.activation_of(layer).capitalize() for layer in layers[:-1]),
        "LOSS": _LOSSES[loss],
        **more,
    }


def mean_gradient(
    network: Network, loss: Callable, trained: Weights, frozen: Weights, x: Array, y: Array, otherwise: Callable
) -> Weights:
    """Gradient of the mean loss over all the samples with respect to the trained layers.

    Args:
        network: one that a kernel knows, as the loss.
        loss: of each sample.
        trained: weights by layer.
        frozen: those of the other layers that x enters.
        x: (D, f).
        y: (D, n_L) or (D,), targets.
        otherwise: what gives the same of the trained weights where there is no kernel.
    """
    layers = sorted(map(int, {**frozen, **trained}))
    order = [str(layer) for layer in layers if str(layer) in trained]
    if not labelled(loss):
        y = jnp.broadcast_to(y.astype(x.dtype), (len(y), network.widths[-1]))
    shapes = [jax.ShapeDtypeStruct(trained[name].shape, x.dtype) for name in order]

    def by_kernel(target: str, trained: Weights, frozen: Weights, x: Array, y: Array) -> Weights:
        weights = {**frozen, **trained}
        call = jax.ffi.ffi_call(target, shapes, vmap_method="expand_dims")
        return dict(zip(order, call(x, y, *(weights[str(layer)] for layer in layers)), strict=True))

    macros = sizes(network, loss, layers, RULE="Total", DECAY=0, SUMMED=0, BATCH=_TOGETHER, MEAN_GRADIENT=1)
    by_library = lambda trained, *_: otherwise(trained)  # noqa: E731
    on_cpu = build.with_target(by_kernel, by_library, "native.cc", "mean_gradient", x.dtype.name, **macros)
    return jax.lax.platform_dependent(trained, frozen, x, y, cpu=on_cpu, default=by_library)
