"""Verdicts in words: claims.md, claims.json, and the numbers and sentences that the page too is made of."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from phasejax.analysis.run import members
from phasejax.claims.judging import AGREES, DIFFERS, RULE, Measured, Verdict


def diverged(dataset: xr.Dataset, step: int) -> str:
    """How many students were lost by this step: they are left out of means and have not converged."""
    lost = dataset.diverged_step.sel(step=step) >= 0
    return f"{int(lost.sum()):,} of {lost.size:,} students diverged"


def number(m: Measured) -> str:
    """A value with its error, to the error's two digits."""
    if not math.isfinite(m.value):
        return "no value"
    if not m.error > max(1e-6 * abs(m.value), 1e-12):  # the same for every student
        return f"{m.value:.4g}"
    digits = max(1 - math.floor(math.log10(m.error)), 0)
    return f"{m.value:.{digits}f} +- {m.error:.{digits}f}"


def length(verdict: Verdict) -> str:
    """The training length a verdict was reached at."""
    if verdict.claim.steps is None:
        return f"{verdict.step:,} steps"
    return f"{verdict.step:,} of {verdict.claim.steps:,} steps" if verdict.claim.steps else "initial state"


def write(
    verdicts: list[Verdict], data: xr.Dataset | xr.DataTree, folder: str | Path, step: int | None = None
) -> list[Path]:
    """Write `claims.md`, for reading, and `claims.json`, with errors, trends and rules.

    Args:
        verdicts: on a run, or on a study.
        data: the run, or the study's tree.
        folder: where.
        step: record they were judged at; the last if None.

    Returns:
        The two files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("statement", "verdict", "its null", "where", "expected", "training length", "found")]
    rows += [(_named(v), v.verdict, v.null, v.claim.where, v.claim.expected, length(v), numbers(v)) for v in verdicts]
    rows = [tuple(cell.replace("|", r"\|") for cell in row) for row in rows]
    # The last column is the long one: left ragged, the others stay readable as text.
    widths = [*(max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]), 8]
    table = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    table.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    details = [f"**{v.claim.key}**{f', {v.member}' * bool(v.member)}: {v.verdict}. Agrees where {v.rule}. "
               f"{sentence(v.reason)} {sentence(null(v))}".rstrip() for v in verdicts]  # fmt: skip
    parts = ["# Statements", about(data, step), "\n".join(table), "## The rule", sentence(RULE), *details]
    text = "\n\n".join(parts) + "\n"
    runs = members(data)
    found = {
        "runs": {name: dict(run.attrs) for name, run in runs.items()},
        "step": max(_last(run, step) for run in runs.values()),
        "seeds": max(run.sizes["seed"] for run in runs.values()),
        "rule": RULE,
        "claims": [_plain(v) for v in verdicts],
    }
    (folder / "claims.md").write_text(text, "utf-8")
    (folder / "claims.json").write_text(
        json.dumps(_finite(found), indent=1, default=_plain_value, allow_nan=False) + "\n", "utf-8"
    )
    return [folder / "claims.md", folder / "claims.json"]


def about(data: xr.Dataset | xr.DataTree, step: int | None = None) -> str:
    """How long runs are, how many seeds they have, and how many students were lost, a sentence each."""
    found, runs = [], members(data)
    for name, run in runs.items():
        last = _last(run, step)
        words = f"{last:,} steps, {run.sizes['seed']} seeds, {diverged(run, last)}."
        found.append(f"{name}: {words}" if len(runs) > 1 else words)
    return " ".join(found)


def null(verdict: Verdict) -> str:
    """What the claim's null came out as, in words."""
    if not verdict.null or not verdict.claim.null:
        return ""
    if verdict.empty:
        says = "agrees as well, so that this says nothing"
    else:
        says = {DIFFERS: "differs, as it must", AGREES: "agrees, so that agreement would say nothing"}.get(
            verdict.null, "is undecided too, so that agreement would say little"
        )
    return f"its null ({verdict.claim.null.words}) {says}"


def _last(run: xr.Dataset, step: int | None) -> int:
    return int(run.step[-1]) if step is None else step


def _named(verdict: Verdict) -> str:
    return f"{verdict.member}: {verdict.claim.statement}" if verdict.member else verdict.claim.statement


def numbers(verdict: Verdict) -> str:
    """What the run gives, in one line; why nothing where it lacks the cells."""
    return "; ".join(f"{m.name}: {number(m)}" for m in verdict.measured) or verdict.reason


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a dictionary, without its functions."""
    claim = {name: value for name, value in vars(verdict.claim).items() if name not in ("measures", "steps", "null")}
    own = {"verdict": verdict.verdict, "reason": verdict.reason, "rule": verdict.rule}
    own |= {"null": verdict.null, "member": verdict.member}
    lengths = {"step": verdict.step, "claimed_at": verdict.claim.steps}
    return (
        claim
        | own
        | lengths
        | {
            "measured": [_number(m) for m in verdict.measured],
            "null_measured": [_number(m) for m in verdict.null_measured],
        }
    )


def _number(m: Measured) -> dict[str, Any]:
    """With what follows from it."""
    return asdict(m) | {"agrees": m.agrees, "p_value": m.p_value, "approaches": m.approaches}


def _plain_value(value: Any) -> Any:
    """A value of NumPy's as Python's own, anything else in words."""
    return value.item() if isinstance(value, np.generic) else str(value)


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SIGNS = {"sigma_W": "\N{GREEK SMALL LETTER SIGMA}_W", "sqrt ": "√", "sqrt(": "√(", "<=": "≤", ">=": "≥", "+-": "±"}


def symbols(text: str) -> str:
    """A text in real symbols, for who does not read it in a terminal: σ_W for sigma_W, 2⁻⁸ for 2^-8, 1.9·10⁵ for 1.9e5."""
    for written, sign in _SIGNS.items():
        text = text.replace(written, sign)
    text = re.sub(r"\b(\d+(?:\.\d+)?)e\+?(-?)0*(\d+)\b", r"\1·10^\2\3", text)
    text = re.sub(r"(?<![\d.])1·10\^", "10^", text)
    return re.sub(r"\^(-?\d+)", lambda found: found[1].translate(_RAISED), text)


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null, for no value and no limit."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
