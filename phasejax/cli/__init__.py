"""The command line. Neither jax nor xarray is imported before it is needed."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from phasejax.checks import ExperimentError
from phasejax.cli.looking import Compare, Explore, Figures, Merge, Status, compare, explore, figures, merge, status
from phasejax.cli.refusals import one_sentence, stand_in_for_closed_streams
from phasejax.cli.training import Advise, Run, StudyOptions, advise, run, study

__all__ = ["advise", "compare", "explore", "figures", "main", "merge", "run", "status", "study"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code.

    0 is done, 2 refused, 124 stopped at the time limit, 130 or 143 interrupted by SIGINT or SIGTERM.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "run": (run, Run),
        "advise": (advise, Advise),
        "study": (study, StudyOptions),
        "status": (status, Status),
        "merge": (merge, Merge),
        "figures": (figures, Figures),
        "compare": (compare, Compare),
        "explore": (explore, Explore),
    }
    stand_in_for_closed_streams()
    with one_sentence():
        asked = given[0] if given else ""
        if asked in commands:
            commands[asked][0](given[1:])
        if asked == "--version":
            from importlib.metadata import version

            print(f"phasejax {version('phasejax')}")
            sys.exit(0)
        if asked and asked not in ("-h", "--help"):
            raise ExperimentError(f"{asked!r} is no command: choose from {', '.join(commands)}.")
        about = [(f"phasejax {name}", (cls.__doc__ or "").splitlines()[0]) for name, (_, cls) in commands.items()]
        about.append(("phasejax --version", "Say which version this is."))
        print("Train whole ensembles of small neural networks, and see the phases that SGD falls into.\n",
              *(f"  {usage:18}  {words}" for usage, words in about),
              "\nEach command has its own --help.", sep="\n", file=sys.stdout if asked else sys.stderr)  # fmt: skip
        sys.exit(0 if asked else 2)
    sys.exit(0)
