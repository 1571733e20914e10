"""How far something is, shown where somebody looks on: at a terminal, or in a notebook."""

import sys
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook without ipywidgets the bar is a line of text, which is as good
    from tqdm.auto import tqdm as bar

__all__ = ["bar", "watched"]


def watched() -> bool:
    """Whether anybody looks on."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())
