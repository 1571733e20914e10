"""How much memory there is, of the machine, the control groups the process is in, or its devices, and what programs take."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# What XLA cannot do without writing it down, and what is no argument or result of a function as it is.
_WRITTEN = {"dot_general", "sort", "random_bits", "threefry2x32", "eigh", "svd"}

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available(devices: Sequence[Any] = ()) -> float:
    """Bytes that can still be had where the devices keep their arrays; of the machine's memory without any."""
    if devices and devices[0].platform != "cpu":
        stats = [device.memory_stats() or {} for device in devices]
        return sum(found.get("bytes_limit", math.inf) - found.get("bytes_in_use", 0) for found in stats)
    return min([_of_machine(), *_of_groups()])


def size(count: float) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def written(jaxpr: Any) -> int:
    """Bytes of the largest array that a program, or one within it, has to write down in passing."""
    from jax.extend.core import jaxprs_in_params  # not above: files ask for memory too, and know nothing of jax

    largest = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _WRITTEN:
            largest = max(largest, *(var.aval.size * var.aval.dtype.itemsize for var in equation.outvars))
        for inner in jaxprs_in_params(equation.params):
            largest = max(largest, written(inner))
    return largest


def held(jaxpr: Any) -> int:
    """Bytes that a program's own arrays take when they take most, each from its making to its last use.

    Programs within it count while they run. It is more than a compiler needs that writes down fewer, and not less.
    """
    from jax.extend.core import jaxprs_in_params

    last = {var: k for k, equation in enumerate(jaxpr.eqns) for var in equation.invars if not hasattr(var, "val")}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if not hasattr(var, "val")}
    now, most = 0, 0
    own: dict[Any, int] = {}
    for k, equation in enumerate(jaxpr.eqns):
        made = {var: var.aval.size * var.aval.dtype.itemsize for var in equation.outvars}
        now += sum(made.values())
        most = max(most, now + max(map(held, jaxprs_in_params(equation.params)), default=0))
        own |= made
        for var in {*made, *(var for var in equation.invars if not hasattr(var, "val"))}:
            if last.get(var, k) == k:
                now -= own.pop(var, 0)
    return most


def _of_machine() -> float:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / "meminfo").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with contextlib.suppress(OSError, ValueError):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.inf


def _of_groups() -> Iterator[float]:
    """What is left of the limit of each control group, version 1 or 2, from the process's own up."""
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _CGROUPS / controllers
        limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        # Within a container the names may be those of the machine outside; then the group is the root.
        for folder in [root / own.lstrip("/"), *(root / own.lstrip("/")).parents]:
            if not folder.is_relative_to(root):
                break
            with contextlib.suppress(OSError, ValueError):
                most = int((folder / limit).read_text())  # "max" is no number
                cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0.0, most - int((folder / used).read_text()) + int(cached.get("inactive_file", 0)))
