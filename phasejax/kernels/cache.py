"""The user's cache folder: what is compiled on first use, kernels and JAX's programs, is found there from then on."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import stat
import tempfile
import warnings

import jax

_MOST_KEPT = 2**28
"""Bytes of programs; an experiment has a few megabytes of them."""


def folder() -> pathlib.Path | None:
    """The user's cache folder, for nobody else to read or write; None where it is a link or another's, or takes nothing."""
    with contextlib.suppress(OSError, RuntimeError):
        found = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "phasejax"
        return _private(found)
    return None


def _private(found: pathlib.Path) -> pathlib.Path | None:
    """The folder, made if it is not there, if it is this user's; what others left there before is told by its owner."""
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    itself = found.lstat()
    if not stat.S_ISDIR(itself.st_mode) or itself.st_uid != os.geteuid():
        return None
    found.chmod(0o700)
    with tempfile.TemporaryFile(dir=found):
        return found


def keep_programs() -> None:
    """Let JAX keep the programs that it compiles from now on; to be called before it compiles anything.

    They lie in a folder of this user alone, for JAX runs what it finds there, and of this CPU and jaxlib, for it looks at
    neither closely enough. What cannot be used is compiled again. A folder that the user has named to JAX stays.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    with contextlib.suppress(OSError):
        if (found := folder()) and (programs := _private(found / f"programs-{_machine()}")):
            _tidy(programs)
            jax.config.update("jax_compilation_cache_dir", str(programs))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def _machine() -> str:
    """What compiled code depends on: what the CPU can do, and the compiler."""
    able = [platform.machine(), platform.processor(), importlib.metadata.version("jaxlib")]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        able += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(able).encode()).hexdigest()[:16]


def _tidy(programs: pathlib.Path) -> None:
    """Remove what somebody else has put there or a power cut has emptied, and the oldest where there is too much."""
    kept = 0
    for entry in sorted(programs.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True):
        found = entry.lstat()
        kept += found.st_size
        if kept > _MOST_KEPT or not found.st_size or found.st_uid != os.geteuid():
            entry.unlink()
