"""Training states: what they are, what they must agree in, and how one lies in a file of its own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from phasejax.files.durable import StoreError
from phasejax.files.schema import FORMAT_VERSION, refuse_newer


class Checkpoint(NamedTuple):
    """The training state after `step` updates."""

    step: int
    marked_step: int
    leaves: dict[str, np.ndarray]
    """The State's arrays by name, `weights/0` for instance, leading axis seed."""
    speed: float = 0.0
    """Steps per second of the process that wrote it; 0 where it is not known."""
    segments: Mapping[str, str] = MappingProxyType({})
    """SHA-256 of the segments of records up to it, by their names."""


class Digest:
    """SHA-256 of named arrays, their types and shapes; they are added in the order of their names."""

    def __init__(self, leaves: Mapping[str, np.ndarray] | None = None) -> None:
        self._sha256 = hashlib.sha256()
        for name in sorted(leaves or {}):
            self.add(name, (leaves or {})[name])

    def add(self, name: str, leaf: np.ndarray) -> None:
        """Take one more array in."""
        self._sha256.update(f"{name!r} {leaf.dtype.str} {leaf.shape}".encode())
        self._sha256.update(np.ascontiguousarray(leaf).data)

    def __str__(self) -> str:
        return self._sha256.hexdigest()


def identity_of(run: str, labels: range) -> str:
    """What the files of one run, or one slab of it, agree in: the identity of the run, and which seeds they have."""
    return hashlib.sha256(f"{run} {labels.start} {labels.stop}".encode()).hexdigest()


def save(path: Path, header: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Write a state, with what its header says besides."""
    own = {name: getattr(checkpoint, name) for name in ("step", "marked_step", "speed")}
    own["segments"] = dict(checkpoint.segments)
    whole = {**header, **own, "format_version": FORMAT_VERSION, "sha256": str(Digest(checkpoint.leaves))}
    encoded = np.frombuffer(json.dumps(whole).encode(), np.uint8)
    leaves: dict[str, Any] = checkpoint.leaves
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, header=encoded, **leaves)


def read_header(path: Path) -> dict[str, Any] | None:
    """What a state says of itself; None where the file is damaged.

    Raises:
        StoreError: a later version wrote it.
    """
    found = _load(path, leaves=False)
    return found and found[0]


def load(path: Path) -> tuple[dict[str, Any], Checkpoint] | None:
    """A state and its header; None where the file is damaged.

    Raises:
        StoreError: a later version wrote it.
    """
    return _load(path, leaves=True)


def _load(path: Path, leaves: bool) -> tuple[dict[str, Any], Checkpoint] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            refuse_newer(path, header)
            found = {name: arrays[name] for name in arrays.files if leaves and name != "header"}
        # Before version 2 arrays had no names; its identity, which no code but its own has, is all that is asked for.
        if leaves and "format_version" in header and header["sha256"] != str(Digest(found)):
            return None
        own = (header["step"], header["marked_step"], found, header["speed"], header.get("segments", {}))
        return header, Checkpoint(*own)
    except StoreError:
        raise
    except Exception:  # a file cut short can fail in any way zip, NumPy and JSON know
        return None


def require(checkpoint: Checkpoint, fresh: Mapping[str, Any], seeds: int, folder: Path) -> None:
    """Raise unless a state has the arrays of a fresh one, which may have further seeds.

    Raises:
        StoreError: one is missing, not known, or of another shape or type.
    """
    expected = {name: f"{leaf.dtype} {(seeds, *leaf.shape[1:])}" for name, leaf in fresh.items()}
    found = {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in checkpoint.leaves.items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise StoreError(
                f"The state in {folder} is not one of this run, its {name} being {found.get(name, 'absent')} and not "
                f"{expected.get(name, 'absent')}: --overwrite starts anew."
            )
