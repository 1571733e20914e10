"""How far something is, shown where somebody looks on: at a terminal, or in a notebook."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any


class _Heard:
    """Standard error as long as it takes anything: a terminal may go away in the midst of a run, and a pipe be closed."""

    def write(self, words: str) -> int:
        self._try(lambda: sys.stderr.write(words))
        return len(words)

    def flush(self) -> None:
        self._try(lambda: sys.stderr.flush())

    def _try(self, do: Callable[[], object]) -> None:
        try:
            do()
        except (ValueError, AttributeError):  # it is closed, or was never open
            pass
        except OSError:
            if sys.stderr is sys.__stderr__:
                # What it did not take is still in its buffer, and would be an error again at Python's own end.
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def say(words: str) -> None:
    """A line on standard error, if it is open."""
    heard = _Heard()
    heard.write(f"{words}\n")
    heard.flush()


def bar(**options: Any) -> Any:
    """A progress bar of tqdm's on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets the bar is a line of text, which is as good
        from tqdm.auto import tqdm

    return tqdm(file=_Heard(), **options)


def counted(what: str, total: int, show: bool | None = None) -> Any:
    """A bar of so many pieces of work, gone when they are done; None shows it where somebody looks on."""
    hidden = show is False or not watched()
    return bar(total=total, desc=what, leave=False, disable=hidden, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}")


@contextlib.contextmanager
def doing(what: str, show: bool | None = None) -> Iterator[None]:
    """Say what is done while it is, where somebody looks on: what lasts longer than a moment is to be seen at once."""
    with bar(desc=what, leave=False, disable=show is False or not watched(), bar_format="{desc} ..."):
        yield


def watched() -> bool:
    """Whether anybody looks on."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    try:
        return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())
    except ValueError:  # it has been closed
        return False
