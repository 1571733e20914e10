"""What is learned: data sets, where their teachers come from, and by which loss outputs are judged.

A task is a frozen dataclass with `samples`, the number D of its training samples, `loss`, and one of two functions,

    load() -> (x, y, test_x, test_y)                  NumPy arrays; one data set for all seeds, held once a device
    draw(keys, network, dtype) -> (data, teacher)     traced; a data set a seed: `Data` in that dtype, and the weights by
                                                      name of a teacher or {}; then `has_teacher` says which

Integer targets are labels of classes.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phasejax import names
from phasejax.checks import ExperimentError, one_of, part, refuse, set_fields, text, whole

if TYPE_CHECKING:
    from jax import Array

    from phasejax.state import Data

Loss = str | Callable
"""`mse`, `cross_entropy`, or a function (outputs (samples, n_L), targets) -> (samples,)."""


class Keys(NamedTuple):
    """Random keys of a seed's task; replicas of a seed share them."""

    teacher: "Array"
    """Of the teacher's weights."""
    inputs: "Array"
    """Of the training samples."""
    shared: "Array"
    """The same for every seed."""


def mse(outputs: "Array", targets: "Array") -> "Array":
    """Half the squared error of each sample (Eq 2.6), (samples,)."""
    return 0.5 * ((targets - outputs) ** 2).sum(axis=-1)


def cross_entropy(outputs: "Array", targets: "Array") -> "Array":
    """Minus the logarithm of the softmax probability of each sample's label, (samples,); outputs are logits."""
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


LOSSES: dict[str, Callable] = {"mse": mse, "cross_entropy": cross_entropy}
"""Losses that have a name."""


def mean_loss_of(task: Any) -> Callable:
    """The mean loss of a batch, (outputs, targets) -> ()."""
    loss = loss_of(task)
    if loss is mse:
        return lambda outputs, targets: 0.5 * ((targets - outputs) ** 2).sum(axis=-1).mean()
    return lambda outputs, targets: loss(outputs, targets).mean()


def loss_of(task: Any) -> Callable:
    """The loss of each sample of a task, as a function."""
    return LOSSES[task.loss] if isinstance(task.loss, str) else task.loss


def _loss(task: Any) -> None:
    if not callable(task.loss) and not names.is_reference(task.loss):
        one_of("task.loss", task.loss, tuple(LOSSES))


@part("task")
class TeacherStudent:
    """Gaussian inputs labelled by a teacher network, which is drawn like the student at sigma_W = 1 (Eq 3.1), or given."""

    samples: int = 4000
    """Training samples D, drawn afresh for each seed."""
    test_samples: int = 128
    """Test inputs on which observables are measured; the same inputs for every seed."""
    teacher: str = ""
    """A .npz file with the teacher's arrays by name, the teacher of every seed; drawn if empty."""
    sha256: str = ""
    """SHA-256 of that file; found out if empty."""
    loss: Loss = "mse"
    """mse, cross_entropy, or a function (outputs, targets) -> (samples,)."""

    has_teacher = True

    def __post_init__(self) -> None:
        set_fields(self, samples=whole("task.samples", self.samples, 1),
                   test_samples=whole("task.test_samples", self.test_samples, 1),
                   teacher=text("task.teacher", self.teacher), sha256=text("task.sha256", self.sha256))  # fmt: skip
        _loss(self)
        if self.teacher and not self.sha256:
            set_fields(self, sha256=digest("task.teacher", self.teacher))

    def require_files(self) -> None:
        """Raise `ExperimentError` if the teacher's file is not there, or another one than it was."""
        if self.teacher:
            same_file("task.teacher", self.teacher, self.sha256)

    def read_teacher(self) -> dict[str, Any]:
        """The arrays of the teacher that is given, by name."""
        return _read("task.teacher", self.teacher, self.sha256)

    def draw(self, keys: Keys, network: Any, dtype: Any) -> tuple["Data", dict[str, "Array"]]:
        """The seed's data, and its teacher's weights."""
        import jax
        import jax.numpy as jnp

        from phasejax.network import initial
        from phasejax.state import Data

        teacher = initial(network, keys.teacher, dtype)
        if self.teacher:
            given = self.read_teacher()
            for name, drawn in teacher.items():
                if name not in given or given[name].shape != drawn.shape:
                    found = f"there {given[name].shape}" if name in given else "not there"
                    raise refuse(
                        "task.teacher", self.teacher, f"its array {name} must be of shape {drawn.shape}, and is {found}"
                    )
            teacher = {name: jnp.asarray(given[name], dtype) for name in teacher}

        def data(key: "Array", samples: int) -> tuple["Array", "Array"]:
            x = jax.random.normal(key, (samples, network.inputs), jnp.float32).astype(dtype)
            return x, network.apply(teacher, x)[0]

        return Data(*data(keys.inputs, self.samples), *data(keys.shared, self.test_samples)), teacher


class _OneForAll:
    """What tasks have in common whose data are the same for every seed."""

    has_teacher = False
    loss: Loss


@part("task")
class Digits(_OneForAll):
    """The 1797 handwritten digits, 8 x 8 pixels, that come with scikit-learn; inputs have mean 0 and variance 1."""

    samples: int = 1440
    """Training samples D; the others, of the same permutation always, are the test set."""
    loss: Loss = "cross_entropy"
    """cross_entropy, mse (of one number a digit), or a function (outputs, targets) -> (samples,)."""

    def __post_init__(self) -> None:
        set_fields(self, samples=whole("task.samples", self.samples, 1, 1796))
        _loss(self)

    def load(self) -> tuple[Any, Any, Any, Any]:
        """(x, y, test_x, test_y), x (samples, 64) and y (samples,) int32."""
        try:
            from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise refuse("task", "Digits", "it needs scikit-learn, pip install phasejax[digits]") from None
        import numpy as np

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x, y = ((x - x.mean()) / x.std()).astype(np.float32)[order], y.astype(np.int32)[order]
        return x[: self.samples], y[: self.samples], x[self.samples :], y[self.samples :]


@part("task")
class Arrays(_OneForAll):
    """Data of one's own: `Arrays(x, y, test_x, test_y)`, or `Arrays(path="mine.npz")` with arrays of these names.

    Arrays cannot be written into a settings file, but their digest is; a path can be read again anywhere.

    Raises:
        ExperimentError: arrays are missing or do not fit together, or the file is not the one it was.
    """

    x: Any = None
    """(D, f) training inputs."""
    y: Any = None
    """(D, n_L) targets, or (D,) integer labels."""
    test_x: Any = None
    """(A, f)."""
    test_y: Any = None
    """(A, n_L) or (A,)."""
    path: str = ""
    """A .npz file with x, y, test_x and test_y."""
    sha256: str = ""
    """SHA-256 of the file, or of the arrays; found out if empty."""
    samples: int = 0
    """Training samples D; found out if 0."""
    loss: Loss = ""
    """mse, cross_entropy, or a function (outputs, targets) -> (samples,); by default what the targets ask for."""

    def __post_init__(self) -> None:
        set_fields(self, path=text("task.path", self.path), sha256=text("task.sha256", self.sha256),
                   samples=whole("task.samples", self.samples, 0))  # fmt: skip
        given = self.x is not None
        if not given and self.path and not (self.sha256 and self.samples and self.loss):
            if not self.sha256:
                set_fields(self, sha256=digest("task.path", self.path))
            x, y, _, _ = self.load()
            set_fields(self, samples=len(x), loss=self.loss or _asked_for(y))
        elif given:
            found = _checked((self.x, self.y, self.test_x, self.test_y))
            set_fields(self, **dict(zip(_NAMES, found, strict=True)), sha256=_digest_of(found), samples=len(found[0]),
                       loss=self.loss or _asked_for(found[1]))  # fmt: skip
        elif not (self.sha256 and self.samples and self.loss):
            raise refuse("task", "Arrays", "give x, y, test_x and test_y, or the path of a .npz file that has them")
        _loss(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrays) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Arrays(path={self.path!r}, sha256={self.sha256!r}, samples={self.samples}, loss={self.loss!r})"

    @property
    def _key(self) -> tuple:
        return self.sha256, self.samples, self.loss, self.path

    def load(self) -> tuple[Any, Any, Any, Any]:
        """(x, y, test_x, test_y)."""
        if self.x is not None:
            return self.x, self.y, self.test_x, self.test_y
        if not self.path:
            raise refuse("task", "Arrays", "its arrays are known by their digest only: give them again, from Python")
        arrays = _read("task.path", self.path, self.sha256, _NAMES)
        missing = [name for name in _NAMES if name not in arrays]
        if missing:
            raise refuse("task.path", self.path, f"it has no array {' and '.join(missing)}")
        return _checked(tuple(arrays[name] for name in _NAMES))


_NAMES = ("x", "y", "test_x", "test_y")


def _checked(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays of a data set, as NumPy's; labels as int32."""
    import numpy as np

    found = []
    for name, array in zip(_NAMES, arrays, strict=True):
        array = np.array(array)  # a copy: what is done to the caller's later must not matter
        target = name.endswith("y")
        if array.dtype.kind not in ("fiu" if target else "f") and not (not target and array.dtype.kind in "iu"):
            raise refuse(f"task.{name}", array.dtype.name, "numbers are needed")
        if not target:
            array = array if array.dtype.kind == "f" else array.astype(np.float32)
        elif array.dtype.kind in "iu":
            array = array.astype(np.int32)
        if array.ndim not in ((1, 2) if target and array.dtype.kind == "i" else (2,)) or not array.size:
            allowed = (
                "it must be (samples, outputs), or integer labels (samples,)" if target else "it must be (samples, inputs)"
            )
            raise refuse(f"task.{name}", array.shape, allowed)
        array.setflags(write=False)
        found.append(array)
    x, y, test_x, test_y = found
    if len(x) != len(y) or len(test_x) != len(test_y) or x.shape[1] != test_x.shape[1] or y.shape[1:] != test_y.shape[1:]:
        raise refuse("task", tuple(a.shape for a in found), "the shapes of x, y, test_x and test_y do not fit together")
    return tuple(found)


def _asked_for(targets: Any) -> str:
    return "cross_entropy" if targets.ndim == 1 else "mse"


def _digest_of(arrays: tuple[Any, ...]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(memoryview(array).cast("B") if array.flags.c_contiguous else array.tobytes())
    return found.hexdigest()


def digest(field: str, path: str | Path) -> str:
    """SHA-256 of a file that a field names."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise refuse(field, str(path), "it must be a file")  # a pipe or a device may have no end
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        if isinstance(error, ExperimentError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise refuse(field, str(path), f"the file cannot be read: {reason}") from None


def same_file(field: str, path: str | Path, sha256: str) -> None:
    """Raise if a file is not the one that an experiment was written with."""
    if digest(field, path) != sha256:
        raise refuse(field, str(path), f"the file is not the one it was, whose SHA-256 is {sha256}")


def _read(field: str, path: str, sha256: str, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arrays of a .npz file by name, all or some."""
    import numpy as np

    same_file(field, path, sha256)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if name in (names or arrays.files)}
    except Exception:  # a file that is none of NumPy's can fail in any way zip and NumPy know, in each of its arrays
        raise refuse(field, path, "it must be a .npz file of arrays of numbers, as numpy.savez writes") from None


KINDS: Mapping[str, type] = {"TeacherStudent": TeacherStudent, "Digits": Digits, "Arrays": Arrays}
"""Tasks that have a name."""
