"""One page for a run: every figure, the claims and the run's provenance in a single HTML file that needs no network."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import xarray as xr

from phasejax.claims import RULE, VERDICTS, Verdict
from phasejax.claims.writing import diverged, length, number, sentence

_CAPTIONS = {
    "fig1": "Density of the features, and tanh with its vanishing gradient: from one well to two as sigma_W grows",
    "fig2": "Mean test loss in the plane of temperature and inverse disorder, with the factor 1/2 of Eq 2.6; "
    "the published map shows twice this",
    "fig3": "Loss and gradient against temperature, one line for each sigma_W",
    "fig4": "Loss and gradient along the temperature axis at the smallest sigma_W; gradient at the start against 1/sigma_W",
    "fig5": "Memory G(t_f, 0) of the initial features, and alignment of features and field",
    "fig6": "Flow of all students' eigenvalues in the three phases; dashed, the teachers' mean eigenvalues",
    "fig7": "Time-averaged rate of the mean level spacing",
    "fig8": "Where 68, 95 and 99.7 % of the students have converged: on the slice the 68 % crossing with its bootstrap "
    "interval, and the temperatures of the grid that bracket the other two; on the maps all three lines",
    "fig9": "Summary: loss, memory, alignment and rate with both phase boundaries",
    "normalised_memory": "Memory G, small wherever the features start small, beside C = G(t,0)/sqrt(G(0,0) G(t,t))",
    "teacher_overlaps": "What of the teacher is found: overlap of the weights, overlap of the features, ratio of the traces",
    "seed_variance": "Mean over the seeds (top) and variance between them (bottom) of loss, memory and overlap",
    "criterion": "The convergence criterion in its four readings: fraction of students converged (top), the same with S(t) "
    "in place of S(0) (centre), and share of students with V_S < 0 (bottom), who may pass for free",
    "initial_spectrum": "Eigenvalues of all students at the start against the Marchenko-Pastur density",
    "against_length": "The phase diagram against training length, a panel a decade",
    "along_training": "The same record by record",
}
_KINDS = {".png": "image/png", ".gif": "image/gif"}

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d0d4da, #3a4048); --soft: light-dark(#5a626c, #a2abb6);
  --page: light-dark(#fff, #16191d); --ink: light-dark(#1b1f24, #e4e8ec); }
body { background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.soft, small, figcaption, dt { color: var(--soft); }
nav a { margin-right: 1rem; }
figure { margin: 0 0 2rem; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff; border-radius: 4px; }
figcaption { margin-top: .4rem; text-align: center; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .6rem; border-bottom: 1px solid var(--line); }
tr { break-inside: avoid; }
td b { white-space: nowrap; } td strong { font-weight: 500; } .label { display: none !important; }
td ul { margin: 0; padding-left: 1rem; } td small { display: block; }
th:first-child { width: 24%; } th:nth-child(2) { width: 17%; }
.verdict { font-weight: 600; white-space: nowrap; }
.agrees { color: light-dark(#116329, #57c878); } .differs { color: light-dark(#a40e26, #ff8a80); }
.needs { color: light-dark(#7a4b00, #e8b04a); } .not { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dd { margin: 0; min-width: 0; } pre { white-space: pre-wrap; font-size: .8rem; margin: 0; }
@media (max-width: 44rem) {
  thead { display: none; } table, tbody, tr, td { display: block; width: auto; }
  tr { padding: .6rem 0; border-bottom: 1px solid var(--line); } td { border: 0; padding: .15rem 0; }
  td strong { font-weight: 600; } .label { display: block !important; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; }
}
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } }
"""


def index_page(folder: str | Path, dataset: xr.Dataset, verdicts: list[Verdict], drawn: Sequence[Path]) -> Path:
    """Write `index.html` in a folder, with those of the files drawn embedded that a browser shows, PNG and GIF.

    Returns:
        The file.
    """
    step = max(v.step for v in verdicts)
    title = f"Phases of SGD: {step:,} steps"
    pictures = [path for path in drawn if path.suffix in _KINDS]
    subtitle = f"{dataset.sizes['seed']} seeds a cell; {diverged(dataset, step)}."
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="soft">{escape(subtitle)} The paper is <a href="https://arxiv.org/abs/2509.01349">arXiv:2509.01349</a>.</p>
<p>{_tally(verdicts)}</p>
<nav><a href="#claims">Claims</a><a href="#figures">Figures</a><a href="#run">Run</a></nav>
<h2 id="claims">The paper's statements and this run</h2>
{_claims(verdicts)}
<p class="soft">The rule. {escape(RULE)}.</p>
<h2 id="figures">Figures</h2>
{"".join(map(_figure, pictures))}
<h2 id="run">The run</h2>
<dl>{"".join(_attribute(str(name), str(value)) for name, value in dataset.attrs.items())}</dl>
</body>
</html>
"""
    path = Path(folder) / "index.html"
    path.write_text(page, "utf-8")
    return path


def _figure(picture: Path) -> str:
    name = picture.stem
    words = _CAPTIONS[name] + "."
    if name.startswith("fig"):
        words = f"Fig {name.removeprefix('fig')}. {words}"
    content, words = picture.read_bytes(), escape(words)
    data = base64.b64encode(content).decode()
    # A PNG says its width first; at half of its 300 dpi all figures have their letters at one size.
    width = f' width="{int.from_bytes(content[16:20]) // 2}"' if picture.suffix == ".png" else ""
    return (
        f'<figure><img{width} src="data:{_KINDS[picture.suffix]};base64,{data}" alt="{words}">'
        f"<figcaption>{words}</figcaption></figure>\n"
    )


def _tally(verdicts: list[Verdict]) -> str:
    found = [v.verdict for v in verdicts]
    counts = [f"{_coloured(name)} {found.count(name)}" for name in VERDICTS if name in found]
    return f"Of {len(verdicts)} statements: {', '.join(counts)}."


def _coloured(verdict: str) -> str:
    return f'<span class="verdict {verdict.split()[0]}">{escape(verdict)}</span>'


def _claims(verdicts: list[Verdict]) -> str:
    heads = "".join(f"<th>{head}</th>" for head in ("Statement", "The paper", "This run", "Verdict"))
    rows = "".join(_row(v) for v in verdicts)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>"


def _row(verdict: Verdict) -> str:
    claim = verdict.claim
    found = "".join(
        f"<li>{escape(m.name)}: <b>{escape(number(m).replace('+-', '±'))}</b> "
        f"<small>to agree: {escape(rule.interval())}</small></li>"
        for m, rule in zip(verdict.measured, claim.measures, strict=False)
    )
    reason = f"<small>{escape(sentence(verdict.reason))}</small>" if verdict.reason else ""
    return (
        f"<tr><td><strong>{escape(claim.statement)}</strong><small>{escape(claim.where)}</small></td>"
        f"<td><small class='label'>The paper</small>{escape(claim.paper)}</td>"
        f"<td><small class='label'>This run</small>{f'<ul>{found}</ul>' if found else ''}{reason}</td>"
        f"<td>{_coloured(verdict.verdict)}<small>{escape(length(verdict))}</small></td></tr>\n"
    )


def _attribute(name: str, value: str) -> str:
    value = re.sub(
        r"\[\n([^\]]*?),?\n\]", lambda found: f"[{' '.join(found[1].split())}]", value
    )  # TOML's lists on one line
    shown = f"<pre>{escape(value)}</pre>" if "\n" in value else escape(value)
    return f"<dt>{escape(name)}</dt><dd>{shown}</dd>\n"
