"""Where a name may stand for an object, and an object for its name.

In Python a part of an experiment is a function or a frozen dataclass. In a settings file it is a name: one that is built in,
or `module:attribute`, which is looked up only among the files a command was given with `--use`. Reading a file never imports
anything: a name that is not known stays a name, and only training with it is refused.
"""

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from phasejax.checks import ExperimentError, shown

_used: dict[str, ModuleType] = {}


def use(path: str | Path, instead: bool = False) -> ModuleType:
    """Run a Python file, so that `stem:attribute` names what it defines.

    Args:
        path: the file.
        instead: it takes the name of a file given before.

    Raises:
        ExperimentError: there is no such file, or its name is that of another module.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise ExperimentError(f"--use {path} is not possible: it must be a Python file that exists.")
    name = path.stem
    there = sys.modules.get(name)
    if there is not None and getattr(there, "__file__", None) and Path(str(there.__file__)).samefile(path):
        return _used.setdefault(name, there)
    if instead and name in _used:
        del sys.modules[name]
    if name in sys.modules or not name.isidentifier():
        raise ExperimentError(f"--use {path} is not possible: {name!r} is no name of a module, or that of another one.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _used[name] = module
    return module


def known(module: ModuleType) -> ModuleType:
    """Let `module:attribute` name what a module of the package defines, as `use` does for a file."""
    return _used.setdefault(module.__name__, module)


def is_reference(value: object) -> bool:
    """Whether a value is written as `module:attribute`."""
    return isinstance(value, str) and re.fullmatch(r"[^\s:]+:[^\s:]+", value) is not None and value.isprintable()


def look_up(name: str) -> Any:
    """The object behind `module:attribute`; the name itself if its module was not given.

    Raises:
        ExperimentError: the module has no such attribute.
    """
    module, _, attribute = name.partition(":")
    if module not in _used:
        return name
    found: Any = _used[module]
    for step in attribute.split("."):
        # What the file has imported is not its own to be named: a setting may say `mine:os.system`.
        found = None if step.startswith("__") else getattr(found, step, None)
        if found is None or isinstance(found, ModuleType):
            raise ExperimentError(f"{shown(name)} is not possible: {_used[module].__file__} defines no {shown(attribute)}.")
    return found


def name_of(thing: Any, built_in: Mapping[str, Any] | None = None) -> str:
    """The name of a function or class: a built-in one, or `module:attribute` with a script's module called by its file."""
    if isinstance(thing, str):
        return thing
    for name, value in (built_in or {}).items():
        if value is thing:
            return name
    module, attribute = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not attribute:
        raise ExperimentError(f"{thing!r} has no name that could be written down: give a function or a class.")
    if module == "__main__":
        script = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(script).stem if script else module
    return f"{module}:{attribute}"
