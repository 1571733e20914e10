"""A question with an observable, a figure and a claim of its own: the folder `rank`, outside the package.

python -m experiments.extensions.own_study, or phasejax study experiments/extensions/rank
"""

from pathlib import Path

import phasejax as pj

RANK = pj.read_study(Path(__file__).parent / "rank")


def main(study: pj.Study = RANK.study, out: str | Path = "runs/rank", folder: str | Path = "figures/rank") -> list[Path]:
    """Train what is missing; figures, verdicts and a page."""
    return pj.report(study.run(out), folder, RANK.figures, RANK.claims, RANK.title)


if __name__ == "__main__":
    main()
