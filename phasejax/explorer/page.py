"""One self-contained HTML page of linked views."""

import functools
import json
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path

import xarray as xr

from phasejax.analysis.run import members, settings
from phasejax.checks import ExperimentError
from phasejax.explorer.tables import Tables, tables
from phasejax.files.durable import staged

EXPLORER = "explore.html"
"""What the page is called among a run's figures."""

_STYLE = """
:root { color-scheme: light dark; --page: light-dark(#fff, #16191d); --ink: light-dark(#1b1f24, #e4e8ec);
  --soft: light-dark(#5a626c, #a2abb6); --line: light-dark(#d0d4da, #3a4048); }
body { background: var(--page); color: var(--ink); font: 14px/1.4 system-ui, sans-serif; max-width: 88rem; margin: 0 auto;
  padding: .6rem 1rem 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.15rem; margin: 0 1rem 0 0; display: inline; } .soft { color: var(--soft); }
#controls { position: sticky; top: 0; z-index: 1; background: var(--page); display: flex; flex-wrap: wrap; gap: .3rem 1.6rem;
  padding: .5rem 0; border-bottom: 1px solid var(--line); margin-bottom: .5rem; }
#controls label { display: flex; align-items: center; gap: .5rem; }
#controls input[type=range] { width: 16rem; accent-color: light-dark(#1c6fb8, #6db3f2); }
#controls input + span { display: none; }
#controls select { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: 4px; }
#view { width: 100%; color: var(--ink); user-select: none; }
#view svg { display: block; width: 100%; height: auto; } #view.fits svg { max-height: max(34rem, 100vh - 10.75rem); }
#vg-tooltip-element.vg-tooltip { background: var(--page); color: var(--ink); border-color: var(--line); }
#vg-tooltip-element.vg-tooltip td.key { color: var(--soft); }
.mark-rect path { shape-rendering: crispEdges; }
"""
# Nothing may be fetched, and only those two scripts run whose digests the page names; Vega compiles its expressions.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-eval' {scripts}"

_HELP = (
    "Click a cell for its students, shift-click a second one; the tooltip tells the numbers. The plane shows the mean over "
    "the seeds, its error the standard error; hatched cells have lost students. Lines show the median over the seeds, bands "
    "and bars 16 to 84 %; dashed among the eigenvalues are the teachers' mean levels."
)
_HELP_STUDY = (
    "The planes show the mean over the seeds on one scale of colours, at the record of the slider, or a member's last where "
    "it has fewer; the tooltip tells the standard error and how many students count, and hatched cells have lost some."
)


@dataclass(frozen=True)
class Page:
    """A page; the last expression of a notebook's cell shows itself."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Write it to a file."""
        path = Path(path)
        with staged(path.parent) as folder:
            (folder / path.name).write_text(self.html, "utf-8")
        return path

    def _repr_html_(self) -> str:
        """In a frame of its own, which can reach nothing of the notebook."""
        return (f'<iframe sandbox="allow-scripts" srcdoc="{escape(self.html)}" '
                'style="width: 100%; height: 820px; border: 0"></iframe>')  # fmt: skip


def explore(data: xr.Dataset | xr.DataTree) -> Page:
    """A page to look around in a run: its plane at every record, and any two of its cells; of a study all planes at once.

    Args:
        data: a run, with axes whatever they are, or the tree of a study.

    Returns:
        The page, which shows itself in a notebook; `save` writes it to a file that needs no network.

    Raises:
        ExperimentError: Altair or vl-convert is not installed.
        RunError: it is no run, or there is nothing in it that every student has at every record.
    """
    try:
        from phasejax.explorer import views

        library = _library()
    except ModuleNotFoundError as missing:
        raise ExperimentError(f'The explorer needs {missing.name}: pip install "phasejax[explore]".') from None

    runs = members(data)
    found = {name: tables(run, spread=len(runs) == 1) for name, run in runs.items()}
    specification = views.of_study(found) if len(runs) > 1 else views.of_run(*found.values())
    facts = [": ".join(filter(None, (name, _facts(run, found[name])))) for name, run in runs.items()]
    # Whatever a name of the file says, it ends no script.
    spec = json.dumps(specification, separators=(",", ":")).replace("<", "\\u003c")
    options = json.dumps({"renderer": "svg", "actions": False, "logLevel": 1})
    return Page(
        _html(_name(data), str(data.attrs.get("question", "")), facts, (library, f'vegaEmbed("#view", {spec}, {options});'))
    )


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script; it takes seconds to make."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version).replace("</script", "<\\/script")


def _name(data: xr.Dataset | xr.DataTree) -> str:
    """What the file or the study's folder is called, if there is one."""
    return Path(str(data.encoding.get("source", ""))).stem if isinstance(data, xr.Dataset) else data.name or ""


def _facts(run: xr.Dataset, found: Tables) -> str:
    """What was run, in a line."""
    parts, shape = settings(run), " × ".join(str(len(axis.at)) for axis in found.axes) or "1"
    network = parts["network"]
    words = [f"network {'-'.join(map(str, network['widths']))}" if "widths" in network else f"network {network['kind']}"]
    words.append(f"optimizer {parts['sgd']['optimizer']}, batch size {parts['sgd']['batch_size']}")
    words.append(f"{shape} cell{'s' * (shape != '1')}, {found.seeds} seed{'s' * (found.seeds != 1)} each")
    words.append(f"{len(found.records)} records, the last after {found.records[-1]}")
    return "; ".join(words)


def _html(name: str, question: str, facts: list[str], scripts: tuple[str, ...]) -> str:
    digests = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    several = len(facts) > 1
    title = f"Explore {name}" if name else "Explore a run"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(scripts=digests)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><span class="soft">{escape(question or facts[0])}</span></header>
<div id="controls"></div>
<div id="view"{' class="fits"' if len(facts) <= 6 else ""}></div>
<p class="soft">{_HELP_STUDY if several else _HELP}</p>
{f"<ul class='soft'>{''.join(f'<li>{escape(fact)}</li>' for fact in facts)}</ul>" if several or question else ""}
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""
