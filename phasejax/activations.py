"""Activation functions, known by name so that a file of settings stays data and never becomes code."""

from collections.abc import Callable

BUILT_IN = ("tanh", "relu", "gelu", "erf", "identity")
_registered: dict[str, Callable] = {}


def activation_names() -> tuple[str, ...]:
    """Every name an experiment may use: the built-in ones and those registered in this process."""
    return BUILT_IN + tuple(_registered)


def register_activation(name: str, function: Callable) -> None:
    """Make `function` usable as `Network(activation=name)`.

    Args:
        name: a new name, a Python identifier.
        function: maps an array of pre-activations to an array of the same shape; it is traced and differentiated by JAX.

    Raises:
        ValueError: the name is taken by another function, or is no identifier.
    """
    if not name.isidentifier():
        raise ValueError(f"activation name {name!r}: it must be a Python identifier")
    if name in BUILT_IN or _registered.get(name, function) is not function:
        raise ValueError(f"activation name {name!r} is taken: choose a name other than {', '.join(activation_names())}")
    _registered[name] = function


def activation(name: str) -> Callable:
    """The function behind a name; `gelu` is the exact one, z times the normal distribution function of z."""
    # Imported here because names must be checkable, and `--help` shown, without waiting for jax.
    import jax
    import jax.numpy as jnp

    built_in = {
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "erf": jax.scipy.special.erf,
        "identity": lambda z: z,
    }
    return _registered[name] if name in _registered else built_in[name]
