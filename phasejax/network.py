"""A feed-forward network without biases (Eqs 2.2-2.5), and what a network of one's own has to be.

A network is a frozen dataclass with two pure functions,

    init(key) -> {name: array}                      weights at sigma_W = 1
    apply(weights, x) -> (outputs, features)        (samples, n_L), and the last hidden layer's (samples, n)

whose fields are numbers, texts and functions. Trained arrays of two and more dimensions are scaled by sigma_W, and
matrices have spectra. One that is to learn from a teacher also has `inputs`, the number of its inputs. All its arrays are
trained unless it has `trained`, their names.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from phasejax import names
from phasejax.checks import number, one_of, part, refuse, sequence, set_fields, whole

if TYPE_CHECKING:
    from jax import Array

ACTIVATIONS = ("tanh", "relu", "gelu", "erf", "sigmoid", "sin", "identity")
"""Activations that have a name; `gelu` is the exact one, z times the normal distribution function of z."""


@part("network")
class Network:
    """A feed-forward network without biases (Eqs 2.2-2.4), the same for teacher and student.

    Its arrays are W^(l) of shape (n_l, n_(l-1)), named "1" ... "L".

    Raises:
        ExperimentError: a width below 1, a layer that does not exist, an unknown activation.
    """

    widths: tuple[int, ...] = (3, 32, 16, 1)
    """Nodes per layer n_0 ... n_L, input and output included."""
    activation: str | Callable | tuple[str | Callable, ...] = "tanh"
    """Activation of hidden nodes: tanh, relu, gelu, erf, sigmoid, sin, identity, a function, or a list of one a layer."""
    trainable: tuple[int, ...] = ()
    """Layers l = 1 ... L whose weights W^(l) are trained, all if empty; the others are the teacher's, if there is one."""
    sigma_w_scale: tuple[float, ...] = ()
    """A trained layer starts at this factor times the grid's sigma_W, one factor a trained layer; empty: all 1."""

    def __post_init__(self) -> None:
        widths = tuple(whole("network.widths", n, 1) for n in sequence("network.widths", self.widths))
        if len(widths) < 2:
            raise refuse("network.widths", list(widths), "give at least an input and an output width")
        layers = len(widths) - 1
        given = sequence("network.trainable", self.trainable) or tuple(range(1, layers + 1))
        for layer in given:
            if isinstance(layer, bool) or not hasattr(layer, "__index__") or not 1 <= int(layer) <= layers:
                raise refuse("network.trainable", layer, f"this network has layers 1 to {layers}")
        if len(set(given)) < len(given):
            raise refuse("network.trainable", list(given), f"name each of the layers 1 to {layers} once")
        scale = tuple(number("network.sigma_w_scale", s, "give positive finite numbers", 0)
                      for s in sequence("network.sigma_w_scale", self.sigma_w_scale))  # fmt: skip
        if scale and len(scale) != len(given):
            raise refuse("network.sigma_w_scale", list(scale), "give one positive finite number a trained layer, or none")
        if scale:  # a scale stays with its layer
            scale = tuple(s for _, s in sorted(zip(given, scale, strict=True)))
        activation = self.activation
        if isinstance(activation, list | tuple):
            activation = tuple(activation)
            if len(activation) != layers - 1:
                raise refuse(
                    "network.activation", list(activation), f"give one, or one for each of {layers - 1} hidden layers"
                )
        for name in activation if isinstance(activation, tuple) else (activation,):
            if not callable(name) and not names.is_reference(name):
                one_of("network.activation", name, ACTIVATIONS)
        _set = {"widths": widths, "trainable": tuple(sorted(map(int, given))), "sigma_w_scale": scale}
        set_fields(self, activation=activation, **_set)

    @property
    def inputs(self) -> int:
        """Number of inputs n_0."""
        return self.widths[0]

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the trained layers, ascending."""
        return tuple(map(str, self.trainable))

    @property
    def scales(self) -> dict[str, float]:
        """The factor by which each trained layer's sigma_W is the grid's."""
        return dict(zip(self.trained, self.sigma_w_scale or (1.0,) * len(self.trainable), strict=True))

    @property
    def readout(self) -> str:
        """Name of the last layer, which is linear (Eq 2.3)."""
        return str(len(self.widths) - 1)

    @property
    def soft_committee(self) -> bool:
        """Whether it trains one layer of tanh nodes, the last before a single frozen output, as the paper's does."""
        depth = len(self.widths) - 2
        tanh = self.activation == "tanh" or self.activation == ("tanh",) * depth
        return tanh and self.trainable == (depth,) and self.widths[-1] == 1

    def init(self, key: "Array", dtype: Any = "float32") -> dict[str, "Array"]:
        """Weights of unit scale, W^(l)_ij ~ N(0, 1/n_(l-1)) (Eqs 2.11, 3.1), drawn in float32 and then widened."""
        import jax
        import jax.numpy as jnp

        sizes = [n_in * n_out for n_in, n_out in pairwise(self.widths)]
        xi = jax.random.normal(key, (sum(sizes),), jnp.float32).astype(dtype)
        ends = list(accumulate(sizes))
        return {
            str(layer): xi[end - size : end].reshape(n_out, n_in) / jnp.sqrt(jnp.asarray(n_in, dtype))
            for layer, (size, end, (n_in, n_out)) in enumerate(zip(sizes, ends, pairwise(self.widths), strict=True), 1)
        }

    def activation_of(self, layer: int) -> Any:
        """The activation behind a hidden layer l = 1 ... L - 1, by its name if it has one."""
        return self.activation[layer - 1] if isinstance(self.activation, tuple) else self.activation

    def phi(self, layer: int) -> Callable[["Array"], "Array"]:
        """The activation behind a hidden layer l = 1 ... L - 1."""
        chosen = self.activation_of(layer)
        return activation(chosen) if isinstance(chosen, str) else chosen

    def apply(self, weights: Mapping[str, "Array"], x: "Array") -> tuple["Array", "Array"]:
        """Outputs (samples, n_L) and the last hidden layer's features (samples, n_(L-1)) (Eqs 2.2, 2.3, 2.5).

        Args:
            weights: by layer, from the one that x enters to the readout.
            x: (samples, n), the inputs, or the features behind the layers left out.
        """
        features = self.behind(weights, x)
        return features @ weights[self.readout].T, features

    def behind(self, weights: Mapping[str, "Array"], x: "Array", until: int | None = None) -> "Array":
        """Features phi(W ... phi(W x)) behind those of the weights that are hidden layers below `until`."""
        last = len(self.widths) - 1 if until is None else until
        for layer in sorted(layer for layer in map(int, weights) if layer < last):
            x = self.phi(layer)(x @ weights[str(layer)].T)
        return x


def activation(name: str) -> Callable[["Array"], "Array"]:
    """The function behind the name of an activation."""
    # Imported here because names must be checkable, and `--help` shown, without waiting for jax.
    import jax
    import jax.numpy as jnp

    built_in: dict[str, Callable] = {
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "erf": jax.scipy.special.erf,
        "sigmoid": jax.nn.sigmoid,
        "sin": jnp.sin,
        "identity": lambda z: z,
    }
    return built_in[name]


def initial(network: Any, key: "Array", dtype: Any) -> dict[str, "Array"]:
    """Weights at sigma_W = 1 of a network, the package's or one's own, in a dtype."""
    if isinstance(network, Network):
        return network.init(key, dtype)
    import jax.numpy as jnp

    return {name: jnp.asarray(array, dtype) for name, array in network.init(key).items()}
