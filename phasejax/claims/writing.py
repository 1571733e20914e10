"""Verdicts in words: claims.md, claims.json, and the numbers and sentences that the page too is made of."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from phasejax.claims.judging import RULE, Measured, Verdict


def diverged(dataset: xr.Dataset, step: int) -> str:
    """How many students were lost by this step: they are left out of means and have not converged."""
    lost = dataset.diverged_step.sel(step=step) >= 0
    return f"{int(lost.sum()):,} of {lost.size:,} students diverged"


def number(m: Measured) -> str:
    """A value with its error, to the error's two digits."""
    if not math.isfinite(m.value):
        return "no value"
    if not m.error > 1e-9 * abs(m.value):  # the same for every student
        return f"{m.value:.4g}"
    digits = max(1 - math.floor(math.log10(m.error)), 0)
    return f"{m.value:.{digits}f} +- {m.error:.{digits}f}"


def length(verdict: Verdict) -> str:
    """The training length a verdict was reached at."""
    return f"{verdict.step:,} of {verdict.claim.steps:,} steps" if verdict.claim.steps else "initial state"


def write(verdicts: list[Verdict], dataset: xr.Dataset, folder: str | Path) -> list[Path]:
    """Write `claims.md`, for reading, and `claims.json`, with errors, trends and rules.

    Returns:
        The two files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    step = max(v.step for v in verdicts)
    rows = [("statement", "verdict", "where", "the paper", "training length", "this run")]
    rows += [(v.claim.statement, v.verdict, v.claim.where, v.claim.paper, length(v), numbers(v)) for v in verdicts]
    rows = [tuple(cell.replace("|", r"\|") for cell in row) for row in rows]
    # The last column is the long one: left ragged, the others stay readable as text.
    widths = [*(max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]), 8]
    table = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    table.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    details = [f"**{v.claim.key}**: {v.verdict}. Agrees where {v.rule}. {sentence(v.reason)}".rstrip() for v in verdicts]
    head = f"{step:,} steps, {dataset.sizes['seed']} seeds, {diverged(dataset, step)}."
    parts = ["# The paper's statements and this run", head, "\n".join(table), "## The rule", sentence(RULE), *details]
    text = "\n\n".join(parts) + "\n"
    found = {
        "run": dict(dataset.attrs),
        "step": step,
        "seeds": dataset.sizes["seed"],
        "rule": RULE,
        "claims": [_plain(v) for v in verdicts],
    }
    (folder / "claims.md").write_text(text, "utf-8")
    (folder / "claims.json").write_text(
        json.dumps(_finite(found), indent=1, default=_plain_value, allow_nan=False) + "\n", "utf-8"
    )
    return [folder / "claims.md", folder / "claims.json"]


def numbers(verdict: Verdict) -> str:
    """What the run gives, in one line; why nothing where it lacks the cells."""
    return "; ".join(f"{m.name}: {number(m)}" for m in verdict.measured) or verdict.reason


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a dictionary, without its functions."""
    claim = {name: value for name, value in vars(verdict.claim).items() if name not in ("measures", "steps")}
    own = {"verdict": verdict.verdict, "reason": verdict.reason, "rule": verdict.rule}
    lengths = {"step": verdict.step, "paper_steps": verdict.claim.steps}
    return (
        claim
        | own
        | lengths
        | {
            "measured": [
                asdict(m) | {"agrees": m.agrees, "settled": m.settled, "approaches": m.approaches} for m in verdict.measured
            ]
        }
    )


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
