"""What made a result: versions, the checkout's commit, and the device by name. For files and for benchmarks."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def versions(packages: Sequence[str]) -> str:
    """Versions of those packages that are installed, and of Python, in one line."""
    found = []
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join([*found, f"Python {platform.python_version()}"])


_NO_ARITHMETIC = re.compile(r"--xla_(force_host_platform_device_count|dump_|hlo_profile|cpu_parallel_codegen_split_count)")


def compiled_by() -> str:
    """What turns programs into arithmetic: jax, jaxlib, and flags of XLA's unless they are known to change none of it."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not _NO_ARITHMETIC.match(flag)]
    made = f"jax {importlib.metadata.version('jax')} with jaxlib {importlib.metadata.version('jaxlib')}"
    return f"{made} and XLA_FLAGS {' '.join(sorted(flags))}" if flags else made


def device_name(devices: Sequence[Any]) -> str:
    """How many JAX devices of which kind, `2 x cpu core (AMD EPYC 7763)` for instance."""
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            kind = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return f"{len(devices)} x cpu core ({kind})"
    return f"{len(devices)} x {kind}"


def commit() -> str:
    """The commit of the checkout this package is imported from; "unknown" outside of one."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        tracked = subprocess.run(["git", "ls-files", "--error-unmatch", "__init__.py"],
                                 cwd=here, capture_output=True, timeout=10)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() if tracked.returncode == 0 else "unknown"
