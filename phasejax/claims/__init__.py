"""Statements judged on runs: one rule (`judging`), what must not pass it (`nulls`), and verdicts in words (`writing`)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import xarray as xr

from phasejax.analysis.run import each, members, until
from phasejax.claims.judging import (
    ABSENT,
    AGREES,
    DIFFERS,
    LONGER,
    PAPER_STEPS,
    RULE,
    UNDECIDED,
    VERDICTS,
    Claim,
    Measure,
    Measured,
    Verdict,
    decide,
    judge,
    measure,
)
from phasejax.claims.nulls import Null, all_as, at_start, mirrored, permuted
from phasejax.claims.writing import write
from phasejax.progress import counted

__all__ = [
    "ABSENT",
    "AGREES",
    "DIFFERS",
    "LONGER",
    "PAPER_STEPS",
    "RULE",
    "UNDECIDED",
    "VERDICTS",
    "Claim",
    "Measure",
    "Measured",
    "Null",
    "Verdict",
    "all_as",
    "at_start",
    "check",
    "judge",
    "mirrored",
    "permuted",
    "write",
]


def check(data: xr.Dataset | xr.DataTree, claims: Sequence[Claim], step: int | None = None) -> list[Verdict]:
    """Judge claims: those over runs on the run, or on each member of a study, those over studies on the study's tree.

    Args:
        data: a run, or the records so far of one, or the tree of a study.
        claims: the statements.
        step: record to judge at; the last if None, as of every member of a study.

    Raises:
        ExperimentError: the step was not recorded.
        RunError: the file lacks a variable that its experiment records.
    """
    judged = sum(len(members(data)) if claim.over == "run" else 1 for claim in claims)
    with counted("claims", judged) as shown:
        return decide(_measured(data, claims, step, shown.update))


def _measured(
    data: xr.Dataset | xr.DataTree, claims: Sequence[Claim], step: int | None, done: Callable[[], object]
) -> list[Verdict]:
    """The numbers of every claim, not decided on yet; says when it is done with one."""

    def measured(claim: Claim, data: xr.Dataset | xr.DataTree, step: int) -> Verdict:
        found = measure(claim, data, step)
        done()
        return found

    alone = [claim for claim in claims if claim.over == "run"]
    if isinstance(data, xr.Dataset):
        data = until(data, step)
        last = int(data.step[-1])
        missing = "It takes a study of several runs."
        return [measured(claim, data, last) if claim in alone else Verdict(claim, ABSENT, missing, last) for claim in claims]
    runs = members(data)
    several = len(runs) > 1
    found = [
        replace(one, member=name if several else "") for name in runs for one in _measured(runs[name], alone, step, done)
    ]
    data, longest = each(data, lambda run: until(run, step)), max(int(run.step[-1]) for run in runs.values())
    return [*(measured(claim, data, longest) for claim in claims if claim.over == "study"), *found]
