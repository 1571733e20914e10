"""C++ kernels for CPUs, compiled on first use by a compiler found on the machine, and registered with `jax.ffi`.

The libraries go to the user's cache (`cache`), each under a name that says what it was made from and for, and ends with the
SHA-256 of its bytes. One is loaded only from a folder that nobody else may write to, if it is what its name says.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.resources
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, BinaryIO, TypeVar

import jax

from phasejax.kernels import cache

T = TypeVar("T")

# No -ffast-math: the kernels rely on NaN, infinities and denormals behaving.
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]

TIME_LIMIT = 120.0
"""Seconds that a compiler has for a kernel, of which it takes a few."""

_MOST_PRINTED = 2**24
"""Bytes; macros and errors are a thousandth of it."""

_REALS = {"float32": "float", "float64": "double"}

# XLA refuses a second handler of one name, as another compiler's would be.
_registered: set[str] = set()
_registering = threading.Lock()

# Why something else stands in for a target, by its name: the source, and the reason.
_stand_ins: dict[str, tuple[str, str]] = {}

_names_only = jax.make_user_context(default_value=False)


class BuildError(RuntimeError):
    """The kernel did not compile; carries the first lines of the compiler's message."""


def _once(function: Callable[..., T]) -> Callable[..., T]:
    """The function, asked once of the same arguments: a compiler may take its time to fail."""

    @functools.cache
    def outcome(*arguments: Hashable) -> T | BuildError:
        try:
            return function(*arguments)
        except BuildError as error:
            return error

    @functools.wraps(function)
    def once(*arguments: Hashable) -> T:
        found = outcome(*arguments)
        if isinstance(found, BuildError):
            raise BuildError(*found.args)
        return found

    return once


def _compiler() -> tuple[str, ...]:
    """The command of a C++ compiler: $CXX if there is one, else the first of the usual names found on PATH."""
    named = os.environ.get("CXX", "").strip()
    try:
        commands = [shlex.split(named)] if named else [["c++"], ["g++"], ["clang++"]]
    except ValueError as error:
        raise BuildError(f"CXX is {named}, which is no command: {error}") from None
    for command in commands:
        if command and shutil.which(command[0]):
            return tuple(command)
    where = f"by CXX, which is {named}" if named else "(install one, apt install g++ for instance, or name it with CXX)"
    raise BuildError(f"no C++ compiler was found {where}")


def _run(command: list[str], source: bytes = b"") -> bytes:
    """What a compiler, given its source on standard input, prints."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        given.write(source)
        given.seek(0)
        try:
            # In a session of its own, so that what it starts can be ended with it.
            process = subprocess.Popen(command, stdin=given, stdout=printed, stderr=errors, start_new_session=True)
        except OSError as error:
            raise BuildError(f"{command[0]} could not be run: {error}") from None
        until = time.monotonic() + TIME_LIMIT
        try:
            while process.poll() is None:
                if time.monotonic() > until:
                    raise BuildError(f"{command[0]} was ended: it had not come to an end within {TIME_LIMIT:g} s")
                if max(os.fstat(file.fileno()).st_size for file in (printed, errors)) > _MOST_PRINTED:
                    raise BuildError(f"{command[0]} was ended: it would not stop printing")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
        finally:
            if process.returncode is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        printed.seek(0)
        errors.seek(0)
        if process.returncode:
            lines = errors.read(_MOST_PRINTED).decode(errors="replace").splitlines()[:20]
            reason, *_ = [*(line for line in lines if "error" in line), *lines, f"exit status {process.returncode}"]
            raise BuildError("\n".join([f"{command[0]} failed: {reason}", shlex.join(command), *lines]))
        return printed.read(_MOST_PRINTED)


@_once
def _toolchain(compiler: tuple[str, ...]) -> tuple[list[str], bytes]:
    """The compile command for this CPU, and the macros it predefines: compiler version and CPU features."""
    include = f"-isystem{jax.ffi.include_dir()}"  # whose warnings are not ours
    try:
        command = [*compiler, "-march=native", *FLAGS, include]
        return command, _run([*command, "-dM", "-E", "-x", "c++", "-"])
    except BuildError:  # clang on ARM has long known only this spelling
        command = [*compiler, "-mcpu=native", *FLAGS, include]
        return command, _run([*command, "-dM", "-E", "-x", "c++", "-"])


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="phasejax-")  # held by the cache until the process ends


def _is_sound(library: pathlib.Path) -> bool:
    """Whether a library is this user's, for others to read at most, and has the digest that ends its name."""
    with contextlib.suppress(OSError):
        _opened(library).close()
        return True
    return False


def _opened(library: pathlib.Path) -> BinaryIO:
    """A library that is sound, open: nobody but its owner can change what is read from it, whoever may rename its folder.

    Raises:
        OSError: it is not sound.
    """
    file = open(os.open(library, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115 (closed by the caller)
    found = os.fstat(file.fileno())
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if ours and hashlib.file_digest(file, "sha256").hexdigest() == library.stem.rpartition("-")[2]:
        return file
    file.close()
    raise OSError(f"{library} is not what was built")


def _digest(library: pathlib.Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def target(source: str, kernel: str, precision: str, **sizes: Any) -> str:
    """The FFI target of a kernel, built, or found in the cache, and registered.

    Args:
        source: its file in this package.
        kernel: its name there, behind `phasejax_`.
        precision: "float32" or "float64", the kernel's REAL.
        sizes: macros, fixed when it is compiled.

    Raises:
        BuildError: there is no compiler, or the kernel does not compile.
    """
    name = target_name(source, kernel, precision, **sizes)
    if _names_only.value:
        return name
    with _registering:
        if name not in _registered:
            library = _loaded(_compiler(), source, _defines(precision, sizes))
            try:
                handler = getattr(library, f"phasejax_{kernel}")
            except AttributeError:
                raise BuildError(f"{source} has no kernel phasejax_{kernel}") from None
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
            _registered.add(name)
    return name


def target_name(source: str, kernel: str, precision: str, **sizes: Any) -> str:
    """The name of a kernel's target in lowered programs: the same on every machine, whatever its compiler, if it has one."""
    defines = _defines(precision, sizes)
    made_from = "\0".join([*FLAGS, *defines, ""]).encode() + _text(source)
    return f"phasejax-{kernel}-{_stem(source, defines)}-{hashlib.sha256(made_from).hexdigest()[:12]}"


def by_name() -> contextlib.AbstractContextManager[None]:
    """A context, of one thread, in which kernels are but names, neither built nor registered.

    Programs lowered in it are the same wherever they are lowered, and cannot be run. What is traced in it JAX's caches keep
    apart from what is not.
    """
    return _names_only(True)


def with_target(
    by_kernel: Callable, otherwise: Callable, source: str, kernel: str, precision: str, **sizes: Any
) -> Callable:
    """`by_kernel` with the kernel's target as its first argument, or `otherwise` where it cannot be built (`stand_ins`)."""
    name = target_name(source, kernel, precision, **sizes)
    try:
        found = functools.partial(by_kernel, target(source, kernel, precision, **sizes))
    except BuildError as error:
        _stand_ins[name] = source, str(error).partition("\n")[0]
        return otherwise
    if name in _registered:
        _stand_ins.pop(name, None)
    return found


def stand_ins() -> tuple[str, ...]:
    """A sentence for the sources that something stands in for in this process, for each reason."""
    sources: dict[str, list[str]] = {}
    for source, reason in sorted(set(_stand_ins.values())):
        sources.setdefault(reason, []).append(source)
    return tuple(f"{' and '.join(of)} could not be built: {reason}" for reason, of in sources.items())


@_once
def _loaded(compiler: tuple[str, ...], source: str, defines: tuple[str, ...]) -> ctypes.CDLL:
    """The library of a source's kernels in this process."""
    try:
        library = _library(compiler, source, defines)
    except OSError as error:
        raise BuildError(f"its library could not be written: {error}") from None
    try:
        with _opened(library) as file:
            # Left open, for the loader knows libraries by their paths. Elsewhere than on Linux there is no such path.
            path = f"/proc/self/fd/{os.dup(file.fileno())}"
            return ctypes.CDLL(path if os.path.exists(path) else str(library))
    except OSError as error:
        raise BuildError(f"its library could not be loaded: {error}") from None


def _library(compiler: tuple[str, ...], source: str, defines: tuple[str, ...]) -> pathlib.Path:
    """The library of a source's kernels, built or found in the cache."""
    text = _text(source)
    command, macros = _toolchain(compiler)
    command = [*command, *defines]
    key = "\0".join([*command, platform.machine(), platform.processor(), importlib.metadata.version("jaxlib")]).encode()
    name = f"{_stem(source, defines)}-{hashlib.sha256(text + macros + key).hexdigest()[:32]}"
    folder = cache.folder() or pathlib.Path(_private_folder().name)
    found = next(filter(_is_sound, folder.glob(f"{name}-*.so")), None)
    return found or _build([*command, "-x", "c++", "-"], text, folder, name)


def _defines(precision: str, sizes: dict[str, Any]) -> tuple[str, ...]:
    return *(f"-D{name}={size}" for name, size in sizes.items()), f"-DREAL={_REALS[precision]}"


def _stem(source: str, defines: tuple[str, ...]) -> str:
    return "-".join([pathlib.PurePath(source).stem, *(define.partition("=")[2] for define in defines)])


def _text(source: str) -> bytes:
    """A source's text, with that of the headers beside it where it includes them."""
    text = importlib.resources.files("phasejax.kernels").joinpath(source).read_bytes()
    return re.sub(rb'(?m)^#include "([\w.]+)"$', lambda found: _text(found[1].decode()), text)


def _build(command: list[str], text: bytes, folder: pathlib.Path, name: str) -> pathlib.Path:
    """The library under its name and digest: whole or absent, whoever else is building it, and after a power cut."""
    with tempfile.TemporaryDirectory(dir=folder) as building:
        built = pathlib.Path(building) / "library.so"
        _run([*command, "-o", str(built)], text)
        if not built.exists():
            raise BuildError(f"{command[0]} succeeded, it says, and wrote no library")
        built.chmod(0o600)  # whatever the umask
        library = folder / f"{name}-{_digest(built)}.so"
        _sync(built)
        os.replace(built, library)
    _sync(folder)
    return library
