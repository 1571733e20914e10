"""Training states: what they are, and how one lies in a file of its own."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Checkpoint(NamedTuple):
    """The training state after `step` updates."""

    step: int
    marked_step: int
    leaves: list[np.ndarray]
    """The State's arrays in tree order, leading axis seed."""
    speed: float = 0.0
    """Steps per second of the process that wrote it; 0 where it is not known."""


def digest(leaves: Iterable[np.ndarray]) -> str:
    """SHA-256 of arrays, their types and shapes."""
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(f"{leaf.dtype.str} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
