"""How far something is, shown where somebody looks on: at a terminal, or in a notebook."""

import contextlib
import sys
import warnings
from typing import Any


class _Heard:
    """Standard error as long as it takes anything: a terminal may go away in the midst of a run, and a pipe be closed."""

    def write(self, words: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(words)
        return len(words)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

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


def watched() -> bool:
    """Whether anybody looks on."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    try:
        return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())
    except ValueError:  # it has been closed
        return False
