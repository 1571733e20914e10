"""What is on a page: of a run its plane, lines through it and cells against time; of a study its planes side by side.

Everything that moves is declared: parameters (record, observable, plane, places on further axes, the cells picked), and
expressions of them. No name of a file stands in an expression; labels are values of parameters, which Vega shows as text.
"""

from typing import Any

import altair as alt

from phasejax.analysis.run import RunError
from phasejax.explorer.drawing import CONTROLS, HEIGHT, INK, LOOK, RAISED, SIDE, WIDTH, A, B, quantity, transformed
from phasejax.explorer.plane import Plane, index, middle, on
from phasejax.explorer.tables import Tables

ZERO = 0.2
"""Where step 0 stands on the logarithmic time axis."""
PANELS = (
    ({"test_loss": "test loss ℒ", "train_loss": "training loss"}, True),
    ({"gradient_norm": "gradient ‖∇ℒ‖"}, True),
    ({"G_t0": "memory G(t, 0)", "memory": "C(t)"}, False),
    ({"alignment": "alignment"}, False),
)
"""What the panels against time show, solid and dashed, and whether the scale is logarithmic."""
LOSS = ("test_loss", "train_loss")
"""What is shown along the lines through the plane, the first that there is."""
DASHES = ([1, 0], [4, 2])


def of_run(tables: Tables) -> dict[str, Any]:
    """All views of a run, linked, as Vega-Lite."""
    views = _Views(tables)
    chart = views.chart()
    data, content = views.plane.data()
    return {**_whole(chart, [*_shared([tables]), *views.plane.parameters(), *views.parameters], content), "data": data}


def of_study(members: dict[str, Tables]) -> dict[str, Any]:
    """The planes of a study's members side by side, on one scale of colours, with one slider; as Vega-Lite.

    Raises:
        RunError: no observable is common to all.
    """
    planes = [Plane(tables, number) for number, tables in enumerate(members.values())]
    maps = [plane.map(f"names[{plane.number}]") for plane in planes]
    chart = alt.concat(*maps, columns=2 if len(maps) in (2, 4) else 3, spacing=18).resolve_scale(
        color="shared", strokeDash="shared"
    )
    parameters = [alt.param("names", value=list(members)), *_shared(list(members.values()))]
    content: dict[str, str] = {}
    found = _whole(
        chart,
        [*parameters, *planes[0].parameters(), *(one for plane in planes[1:] for one in plane.parameters(planes[0]))],
        content,
    )
    for part, plane in zip(found["concat"], planes, strict=True):
        part["data"], own = plane.data()
        found["datasets"] |= own
    return found


def _whole(chart: Any, parameters: list[alt.Parameter], content: dict[str, str]) -> dict[str, Any]:
    """A chart with its parameters and data, which Altair would copy again and again if they were its own."""
    found = _inheriting(chart.configure(**LOOK).to_dict())
    own = [one.param.to_dict() for one in parameters]  # pyright: ignore
    found["params"] = own + found.get("params", [])
    found["datasets"] = found.get("datasets", {}) | content
    return found


def _inheriting(part: Any) -> Any:
    """A part of a specification without the students as its data: it has them from the whole, which knows how to read."""
    if isinstance(part, list):
        return [_inheriting(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {name: _inheriting(one) for name, one in part.items() if name != "data" or not _is_students(one)}


def _is_students(data: Any) -> bool:
    return str(data.get("name", "")).startswith("students")


def _shared(runs: list[Tables]) -> list[alt.Parameter]:
    """The parameters of all planes: what they may be coloured by, which of that it is, and the record."""
    entries = []
    for of in runs[0].observables:
        places = [{one.name: k for k, one in enumerate(run.observables)}.get(of.name) for run in runs]
        if None not in places:
            log = all(run.observables[k].logarithmic for run, k in zip(runs, places, strict=True) if k is not None)
            entries += [{"k": places, "log": True, "label": f"log₁₀ {of.label}"}] * log
            entries.append({"k": places, "log": False, "label": of.label})
    if not entries:
        raise RunError("The members of the study have no observable in common.")
    last = max(len(run.records) for run in runs) - 1
    which = alt.binding_select(
        options=list(range(len(entries))), labels=[entry["label"] for entry in entries], name="colour ", element=CONTROLS
    )
    slider = alt.binding_range(min=0, max=last, step=1, name="training length ", element=CONTROLS)
    return [alt.param("entries", value=entries), alt.param("shown", value=0, bind=which),
            alt.param("record", value=last, bind=slider)]  # fmt: skip


class _Views:
    """The views of a run, which share its plane and the cells picked."""

    def __init__(self, tables: Tables) -> None:
        self.tables, self.plane = tables, Plane(tables)
        self.pick = alt.selection_point(
            name="pick", fields=["cell"], value=[{"cell": tables.first}], on="click", clear=False, toggle="event.shiftKey"
        )
        picked = "isArray(pick.cell) && length(pick.cell)"
        self.parameters = [
            alt.param("cells", value=tables.cells),
            alt.param("times", value=[max(step, ZERO) for step in tables.steps]),
            # The last two cells that were clicked.
            alt.param("first", expr=f"{picked} ? pick.cell[max(0, length(pick.cell) - 2)] : {tables.first}"),
            alt.param("second", expr=f"{picked} > 1 ? pick.cell[length(pick.cell) - 1] : -1"),
        ]
        if not tables.axes:  # there is nothing to click on, so nothing declares what is picked
            self.parameters.insert(0, alt.param("pick", value={"cell": [0]}))

    def chart(self) -> Any:
        """All of them."""
        flows = [flow for flow in (self.flow("first", "A"), self.flow("second", "B")) if flow]
        panels = [self.panel(*panel) for panel in self.panels()]
        rows = [panels[k : k + 2] for k in range(0, len(panels), 2)]
        right = alt.vconcat(*([alt.hconcat(*flows, spacing=14).resolve_scale(y="shared", color="shared")] if flows else []),
                            *(alt.hconcat(*row, spacing=14) for row in rows), spacing=12)  # fmt: skip
        if not self.tables.axes:
            return right
        plane = self.plane.map("entries[shown].label", self.pick)
        plane = plane.resolve_scale(color="independent", strokeDash="independent")  # its legends stay beside it
        cuts = [self.cut("across", self.plane.across)]
        if len(self.tables.axes) > 1:
            cuts.append(self.cut("up", self.plane.up))
        return alt.hconcat(alt.vconcat(plane, alt.hconcat(*cuts, spacing=12), spacing=10), right, spacing=26)

    def panels(self) -> list[tuple[str, list[int], bool]]:
        """Title, observables and scale of the panels against time: the standard ones, else what else there is."""
        place = {of.name: k for k, of in enumerate(self.tables.observables)}
        found = []
        for wanted, log in PANELS:
            if there := {name: words for name, words in wanted.items() if name in place}:
                found.append(("; dashed ".join(there.values()), [place[name] for name in there], log))
        return found or [(of.label, [k], of.logarithmic) for k, of in enumerate(self.tables.observables[:4])]

    def cut(self, name: str, axis: str) -> Any:
        """The loss along one of the two lines through each cell picked, at the record shown: median, 16 to 84 %."""
        names = [of.name for of in self.tables.observables]
        k = next((names.index(name) for name in LOSS if name in names), 0)
        of = self.tables.observables[k]
        width = SIDE / 2 - 26 if len(self.tables.axes) > 1 else SIDE
        if name == "across":
            self.parameters.append(alt.param("along", value=f"{of.label} along "))
        # Cells on one line have all but its axis in common.
        on_line = [f"({cell} - floor({cell} / {axis}.stride) % {axis}.count * {axis}.stride)"
                   for cell in ("datum.cell", "first", "second")]  # fmt: skip
        which = f"{on_line[0]} == {on_line[1]} ? 'A' : second >= 0 && {on_line[0]} == {on_line[2]} ? 'B' : ''"
        line = self.plane.students(
            f"datum.record == {self.plane.record}", (which, "who"), "datum.who",
            f"isValid(datum.c{k})" + f" && datum.l{k} > 0" * of.logarithmic, index(name, axis), middle(name, axis),
        ).encode(x=on(alt.X, axis, f"{name}_at"), y=quantity(f"c{k}", of.logarithmic), color=_who())  # fmt: skip
        # Where both are on one line it is A's, but each has a ring of its own colour.
        here = transformed(line, "datum.cell == first || datum.cell == second", ("datum.cell == first ? 'A' : 'B'", "who"))
        ends = {"c": "median", "l": "16 %", "h": "84 %"}
        told = [alt.Tooltip(f"{end}{k}:Q", title=words, format=".4~g") for end, words in ends.items()]
        title = alt.Title(text=alt.ExprRef(f"along + {axis}.short"), limit=width + 40)
        return alt.layer(
            line.mark_line(strokeWidth=1.3),
            line.mark_rule(strokeWidth=1.2).encode(y=quantity(f"l{k}", of.logarithmic), y2=f"h{k}"),
            line.mark_point(filled=True, size=16, opacity=1).encode(tooltip=told),
            here.mark_point(filled=False, size=110, opacity=1, strokeWidth=1.6),
        ).properties(width=width, height=HEIGHT + 25, title=title, name=f"along_{name}")

    def flow(self, which: str, letter: str) -> Any:
        """The eigenvalues of a cell against time, median and 16 to 84 %; dashed, its teachers' levels."""
        flows = self.tables.flows
        if not flows or (which == "second" and not self.tables.axes):
            return None
        layers: list[Any] = []
        columns: list[Any] = [f"x{k}_{j}" for k, flow in enumerate(flows) for j in flow.levels]
        several = len(flows) > 1
        if several and which == "first":
            self.parameters.append(alt.param("layer", value=0, bind=alt.binding_select(
                options=list(range(len(flows))), labels=[flow.label for flow in flows], name="eigenvalues ",
                element=CONTROLS)))  # fmt: skip
        levels = transformed(
            self.plane.students(f"datum.cell == {which}").transform_fold(columns, as_=["key", "value"]),
            "datum.value > 0 && datum['p' + slice(datum.key, 1)] > 0",
            *(["toNumber(split(slice(datum.key, 1), '_')[0]) == layer"] if several else []),
            ("times[datum.record]", "time"), ("toNumber(split(datum.key, '_')[1]) + 1", "level"),
            ("datum['p' + slice(datum.key, 1)]", "low"), ("datum['q' + slice(datum.key, 1)]", "high"),
        )  # fmt: skip
        most = max(flow.levels[-1] for flow in flows)
        colour = alt.Color("level:Q", scale=alt.Scale(scheme="viridis", domain=[-0.2 * most, 1.1 * most]), legend=None)
        y = "eigenvalues of WWᵀ" if which == "first" else None
        lines = levels.encode(x=self.time(), color=colour, detail="level:Q")
        layers.append(lines.mark_area(opacity=0.18).encode(y=quantity("low", True, y), y2="high"))
        named = lines.mark_line(strokeWidth=1.2).encode(tooltip=alt.Tooltip("level:Q", title="level"))
        layers.append(named.encode(y=quantity("value", True, y)))
        taught = [{"layer": k, "target": x} for k, flow in enumerate(flows) for x in flow.teacher]
        if taught:
            rules = transformed(alt.Chart(alt.InlineData(values=taught)), *(["datum.layer == layer"] if several else []),
                                 f"{which} >= 0")  # fmt: skip
            layers.append(rules.mark_rule(strokeDash=[4, 3], strokeWidth=0.6, stroke=INK, opacity=0.8).encode(y="target:Q"))
        layers.append(self.now())
        empty = "'shift-click a second cell to compare'"
        words = (
            f"{which} < 0 ? {empty} : split('{letter}: ' + cells[{which}], '\\n')"
            if self.tables.axes
            else "split(cells[0], '\\n')"
        )
        title = alt.Title(text=alt.ExprRef(words), limit=WIDTH + 30, color=A if letter == "A" else B)
        return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT * 2 + 10, title=title, name=f"flow_{letter}")

    def panel(self, title: str, observables: list[int], log: bool) -> Any:
        """Observables of the cells picked against time, median and 16 to 84 %."""
        layers = []
        condition = "datum.cell == first || datum.cell == second"
        for k, dash in zip(observables, DASHES, strict=False):
            base = self.plane.students(
                condition, f"isValid(datum.c{k})" + (f" && datum.l{k} > 0" if log else ""),
                ("times[datum.record]", "time"), ("datum.cell == first ? 'A' : 'B'", "who"),
            ).encode(x=self.time(), color=_who())  # fmt: skip
            layers.append(base.mark_area(opacity=0.2).encode(y=quantity(f"l{k}", log), y2=f"h{k}"))
            layers.append(base.mark_line(strokeWidth=1.5, strokeDash=dash).encode(y=quantity(f"c{k}", log)))
        return alt.layer(*layers, self.now()).properties(
            width=WIDTH, height=HEIGHT, title=alt.Title(text=title, limit=WIDTH + 30), name=f"against_time_{observables[0]}"
        )

    def time(self) -> alt.X:
        """The time axis, logarithmic, with step 0 before it."""
        last = max(self.tables.steps[-1], 1)
        decades = [10**k for k in range(len(str(last))) if 10**k <= last]
        words = ["1", "10", *(f"10{str(k).translate(RAISED)}" for k in range(2, len(decades)))]
        return alt.X("time:Q", scale=alt.Scale(type="log", domain=[ZERO * 0.8, last * 1.15], nice=False), axis=alt.Axis(
            values=[ZERO, *decades], title="SGD steps", grid=False, labelOverlap=True,
            labelExpr=f"datum.value < 0.5 ? '0' : {words}[round(log(datum.value) / LN10)]"))  # fmt: skip

    def now(self) -> alt.Chart:
        """The record that the plane shows."""
        return (alt.Chart(alt.InlineData(values=[{}])).transform_calculate(time=f"times[{self.plane.record}]")
                .mark_rule(stroke=INK, strokeWidth=0.8, opacity=0.45).encode(x="time:Q"))  # fmt: skip


def _who() -> alt.Color:
    return alt.Color("who:N", scale=alt.Scale(domain=["A", "B"], range=[A, B]), legend=None)
