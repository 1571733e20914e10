"""The paper's statements judged on a run: one rule (`judging`), the statements (`paper`), and how verdicts are written."""

import xarray as xr

from phasejax.analysis.run import require, until
from phasejax.claims.judging import (
    ABSENT,
    AGREES,
    DIFFERS,
    LONGER,
    PAPER_STEPS,
    RULE,
    VERDICTS,
    Claim,
    Measure,
    Measured,
    Verdict,
    judge,
)
from phasejax.claims.paper import CLAIMS
from phasejax.claims.writing import write

__all__ = [
    "ABSENT",
    "AGREES",
    "CLAIMS",
    "DIFFERS",
    "LONGER",
    "PAPER_STEPS",
    "RULE",
    "VERDICTS",
    "Claim",
    "Measure",
    "Measured",
    "Verdict",
    "check",
    "judge",
    "write",
]


def check(dataset: xr.Dataset, step: int | None = None) -> list[Verdict]:
    """Judge every claim.

    Args:
        dataset: a run, or the records so far of one.
        step: record to judge at; the last if None.

    Raises:
        ExperimentError: the step was not recorded.
        RunError: the file lacks a variable that its experiment records.
    """
    require(dataset, "sigma_w")
    dataset = until(dataset, step)
    return [judge(claim, dataset, int(dataset.step[-1])) for claim in CLAIMS]
