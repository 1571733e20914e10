"""How much memory there is, of the machine, the control groups the process is in, or its devices, and its words."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
