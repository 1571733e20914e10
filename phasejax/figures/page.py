"""One page for a run: phase diagram, every figure, the claims and the run, in a single HTML file that needs no network."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import xarray as xr

from phasejax.analysis.run import members
from phasejax.claims import RULE, VERDICTS, Measure, Verdict
from phasejax.claims.writing import about, length, null, number, sentence, symbols
from phasejax.figures.style import Draw, file_name

_KINDS = {".png": "image/png", ".gif": "image/gif"}

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d0d4da, #3a4048); --soft: light-dark(#5a626c, #a2abb6);
  --page: light-dark(#fff, #16191d); --ink: light-dark(#1b1f24, #e4e8ec); }
body { background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.soft, small, figcaption, dt { color: var(--soft); }
nav { margin-bottom: 1rem; } nav a { margin-right: 1rem; }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff; border-radius: 4px; }
figcaption { margin-top: .4rem; font-size: .85rem; line-height: 1.35; }
.first img { width: 100%; }
.all { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1.5rem 1rem; }
.all summary { list-style: none; cursor: zoom-in; } .all summary::-webkit-details-marker { display: none; }
.all details:not([open]) img { width: 100%; height: 9.5rem; object-fit: contain; }
.all details[open] summary { cursor: zoom-out; } .all figure:has([open]) { grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .6rem; border-bottom: 1px solid var(--line); }
tr { break-inside: avoid; }
td b { white-space: nowrap; } td strong { font-weight: 500; } .label { display: none !important; }
td ul { margin: 0; padding-left: 1rem; } td small { display: block; }
th:first-child { width: 24%; } th:nth-child(2) { width: 17%; }
.verdict { font-weight: 600; white-space: nowrap; }
.agrees { color: light-dark(#116329, #57c878); } .differs { color: light-dark(#a40e26, #ff8a80); }
.needs { color: light-dark(#7a4b00, #e8b04a); }
.undecided { color: light-dark(#1f5a9e, #79b8ff); } .not { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dd { margin: 0; min-width: 0; } pre { white-space: pre-wrap; font-size: .8rem; margin: 0; }
@media (max-width: 44rem) {
  thead { display: none; } table, tbody, tr, td { display: block; width: auto; }
  tr { padding: .6rem 0; border-bottom: 1px solid var(--line); } td { border: 0; padding: .15rem 0; }
  td strong { font-weight: 600; } .label { display: block !important; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; }
}
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  .all { display: block; } .all details:not([open]) img { width: auto; height: auto; } }
"""
"""Style sheet of the pages."""


def index_page(
    folder: str | Path,
    data: xr.Dataset | xr.DataTree,
    verdicts: list[Verdict],
    drawn: Sequence[Path],
    figures: Sequence[Draw],
    title: str,
    step: int | None = None,
    explorer: str = "",
) -> Path:
    """Write `index.html` in a folder, with those of the files drawn embedded that a browser shows, PNG and GIF.

    Args:
        folder: where.
        data: the run, or the tree of a study.
        verdicts: on its statements.
        drawn: files of figures in the folder, or for members of a study in folders of their names within.
        figures: those which were drawn, for their captions; the page opens with the first.
        title: of the page.
        step: the record that was drawn; the last if None.
        explorer: the explorer's page in the folder, if there is one.

    Returns:
        The file.
    """
    folder = Path(folder)
    captions = {file_name(draw): _caption(draw) for draw in figures}
    pictures = {
        path: f"{escape(path.parent.name)}: {captions[path.stem]}" if path.parent != folder else captions[path.stem]
        for path in sorted(drawn, key=lambda path: list(captions).index(path.stem))
        if path.suffix in _KINDS
    }
    stems = [path.stem for path in pictures]
    # Of a figure that every member has, none opens the page.
    opening = 1 if stems and stems.count(stems[0]) == 1 else 0
    first = "".join(_full(*one) for one in [*pictures.items()][:opening])
    others = "".join(_thumbnail(*one) for one in [*pictures.items()][opening:])
    runs = members(data)
    explore = f'<a href="{escape(explorer)}">Explore</a>' if explorer else ""
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{_words(title)}</h1>
<p class="soft">{escape(about(data, step))} The paper is <a href="https://arxiv.org/abs/2509.01349">arXiv:2509.01349</a>.</p>
<p>{_tally(verdicts)}</p>
<nav><a href="#figures">Figures</a><a href="#claims">Claims</a><a href="#run">Run</a>{explore}</nav>
{first}<h2 id="figures">Figures</h2>
<div class="all">
{others}</div>
<h2 id="claims">Statements</h2>
{_claims(verdicts)}
<p class="soft">The rule. {_words(RULE)}.</p>
<h2 id="run">{"The run" if len(runs) == 1 else "The runs"}</h2>
{"".join(_run(name, run, len(runs)) for name, run in runs.items())}
</body>
</html>
"""
    path = folder / "index.html"
    path.write_text(page, "utf-8")
    return path


def _run(name: str, run: xr.Dataset, of: int) -> str:
    """What made a run; folded where there are several."""
    table = f"<dl>{''.join(_attribute(str(key), str(value)) for key, value in run.attrs.items())}</dl>"
    return table if of == 1 else f"<details><summary>{escape(name)}</summary>{table}</details>"


def _words(text: str) -> str:
    return escape(symbols(text))


def _caption(draw: Draw) -> str:
    return _words((f"Fig {draw.number}. " if draw.number else "") + sentence(draw.caption))


def _full(picture: Path, words: str) -> str:
    """A picture as wide as the page, and its caption."""
    return f'<figure class="first">{embedded(picture, words)}<figcaption>{words}</figcaption></figure>\n'


def _thumbnail(picture: Path, words: str) -> str:
    """A small picture that opens to its full size, and its caption."""
    return (f"<figure><details><summary>{embedded(picture, words)}</summary></details>"
            f"<figcaption>{words}</figcaption></figure>\n")  # fmt: skip


def embedded(picture: Path, words: str) -> str:
    """A PNG or GIF as an element of a page, with what it is in words."""
    content = picture.read_bytes()
    data = base64.b64encode(content).decode()
    # A PNG says its width first; at half of its 300 dpi all figures have their letters at one size.
    width = f' width="{int.from_bytes(content[16:20]) // 2}"' if picture.suffix == ".png" else ""
    return f'<img{width} src="data:{_KINDS[picture.suffix]};base64,{data}" alt="{words}">'


def _tally(verdicts: list[Verdict]) -> str:
    if not verdicts:
        return "No statement is judged."
    found = [v.verdict for v in verdicts]
    counts = [f"{_coloured(name)} {found.count(name)}" for name in VERDICTS if name in found]
    return f"Of {len(verdicts)} statements: {', '.join(counts)}."


def _coloured(verdict: str) -> str:
    return f'<span class="verdict {verdict.split()[0]}">{escape(verdict)}</span>'


def _claims(verdicts: list[Verdict]) -> str:
    heads = "".join(f"<th>{head}</th>" for head in ("Statement", "Expected", "Found", "Verdict"))
    rows = "".join(_row(v) for v in verdicts)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>"


def _row(verdict: Verdict) -> str:
    claim = verdict.claim
    found = "".join(
        f"<li>{_words(m.name)}: <b>{_words(number(m))}</b> <small>{_words(_needed(rule))}</small></li>"
        for m, rule in zip(verdict.measured, claim.measures, strict=False)
    )
    said = " ".join(filter(None, map(sentence, (verdict.reason, null(verdict)))))
    reason = f"<small>{_words(said)}</small>" if said else ""
    whose = f"<small>{escape(verdict.member)}</small>" if verdict.member else ""
    return (
        f"<tr><td><strong>{_words(claim.statement)}</strong>{whose}<small>{_words(claim.where)}</small></td>"
        f"<td><small class='label'>Expected</small>{_words(claim.expected)}</td>"
        f"<td><small class='label'>Found</small>{f'<ul>{found}</ul>' if found else ''}{reason}</td>"
        f"<td>{_coloured(verdict.verdict)}<small>{escape(length(verdict))}</small></td></tr>\n"
    )


def _needed(rule: Measure) -> str:
    """What a number must be."""
    return f"to agree: {rule.interval()}" if rule.judged else rule.interval()


def _attribute(name: str, value: str) -> str:
    value = re.sub(
        r"\[\n([^\]]*?),?\n\]", lambda found: f"[{' '.join(found[1].split())}]", value
    )  # TOML's lists on one line
    shown = f"<pre>{escape(value)}</pre>" if "\n" in value else escape(value)
    return f"<dt>{escape(name)}</dt><dd>{shown}</dd>\n"
