"""What the user is told where something cannot be: one sentence on standard error, and exit code 2."""

import contextlib
import errno
import os
import sys
from typing import Any, NoReturn

from phasejax.checks import ExperimentError
from phasejax.progress import say


@contextlib.contextmanager
def one_sentence() -> Any:
    """Turn a refusal into its sentence on standard error and exit code 2."""
    try:
        yield
    except BrokenPipeError as deaf:
        _hushed(deaf)
    except SystemExit:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as deaf:
            _hushed(deaf)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except ExperimentError as refusal:
        say(str(refusal))
        sys.exit(2)
    except Exception as refusal:
        # Importing these costs xarray's import time, so it is done only where something has gone wrong already.
        from phasejax.analysis.run import RunError
        from phasejax.files.durable import StoreError

        if isinstance(refusal, OSError) and not refusal.filename and refusal.errno in (errno.ENOSPC, errno.EIO):
            _hushed(refusal)
        if isinstance(refusal, OSError) and refusal.filename:
            refusal = f"{refusal.filename} cannot be used: {refusal.strerror}."
        elif not isinstance(refusal, (RunError, StoreError)):
            raise
        say(str(refusal))
        sys.exit(2)


def _hushed(deaf: OSError) -> NoReturn:
    """Leave when standard output takes no more: who read it has seen enough, or the disk it goes to is full."""
    # Nothing more may be written, not even by Python's own end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(deaf, BrokenPipeError):
        sys.exit(0)
    say(f"Standard output cannot be written to: {deaf.strerror}.")
    sys.exit(2)


def stand_in_for_closed_streams() -> None:
    """Open what the process was begun without, or the next file opened would get what libraries write to standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
