"""The plane of a run, coloured by an observable, with the boundaries over it."""

import itertools
from typing import Any

import altair as alt

from phasejax.explorer.drawing import CONTROLS, INK, SIDE, A, B, transformed
from phasejax.explorer.tables import Tables


class Plane:
    """The plane of one run of those on a page; parameters and data of its own end in its number.

    Two parameters are the page's: `entries`, what it may be coloured by, of which `shown` is the one that is, with the
    columns of every run; and `record`, the slider.
    """

    def __init__(self, tables: Tables, number: int = 0) -> None:
        self.tables, self.number = tables, number
        count = len(tables.axes)
        # Two axes at a time, the first upright; a single one lies across.
        self.planes = [[up, across] for up, across in itertools.combinations(range(count), 2)] or [[-1, 0]] * min(count, 1)
        self.planes.sort(key=lambda pair: tuple(pair) != tables.plane)
        self.axes, self.plane, self.place = f"axes{number}", f"planes{number}[plane{number}]", f"place{number}_"
        self.up, self.across, self.record = f"up{number}", f"across{number}", f"record{number}"
        self.lines = f"lines{number}"
        self.height = 24 if count == 1 else SIDE

    def parameters(self, first: "Plane | None" = None) -> list[alt.Parameter]:
        """What it depends on, as Vega-Lite's parameters; lists and sliders where there is a choice.

        Where the axes are those of the `first` plane of the page, its lists and sliders are for this one too.
        """
        axes, number = self.tables.axes, self.number
        whole = [
            {"label": axis.label, "short": axis.short, "ticks": axis.ticks, "at": axis.at, "low": axis.edges[:-1],
             "high": axis.edges[1:], "ends": [axis.edges[0], axis.edges[-1]], "stride": axis.stride, "count": len(axis.at)}
            for axis in axes
        ]  # fmt: skip
        none = {"label": "", "short": "", "ticks": [""], "at": [0], "low": [-0.5], "high": [0.5], "ends": [-0.5, 0.5],
                "stride": 1, "count": 1}  # fmt: skip
        found = [
            alt.param(self.axes, value=whole),
            alt.param(f"none{number}", value=none),
            alt.param(f"planes{number}", value=self.planes),
            alt.param(f"records{number}", value=self.tables.records),
            alt.param(self.record, expr=f"min(record, {len(self.tables.records) - 1})"),
        ]
        names = [f"plane{number}", *(f"{self.place}{k}" for k in range(len(axes)))]
        if len(self.planes) < 2:
            found.append(alt.param(names[0], value=0))
        elif first and first.tables.axes == axes:
            found += [alt.param(name, expr=name.replace(str(number), str(first.number), 1)) for name in names]
        else:
            words = [f"{axes[up].short} over {axes[across].short}" for up, across in self.planes]
            which = alt.binding_select(options=list(range(len(words))), labels=words, name="plane ", element=CONTROLS)
            found.append(alt.param(names[0], value=0, bind=which))
            for name, axis in zip(names[1:], axes, strict=True):
                slider = alt.binding_range(min=0, max=len(axis.at) - 1, step=1, name=f"at {axis.short} ", element=CONTROLS)
                found.append(alt.param(name, value=self.tables.first // axis.stride % len(axis.at), bind=slider))
        up = f"{self.plane}[0] < 0 ? none{number} : {self.axes}[{self.plane}[0]]" if self.planes else f"none{number}"
        across = f"{self.axes}[{self.plane}[1]]" if self.planes else f"none{number}"
        return [*found, alt.param(self.up, expr=up), alt.param(self.across, expr=across)]

    def students(self, *transforms: tuple[str, str] | str) -> alt.Chart:
        """The students' statistics, with conditions, and pairs of an expression and the column that it makes."""
        return transformed(alt.Chart(alt.NamedData(name=f"students{self.number}")), *transforms)

    def data(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The students as data of the whole, and all that belongs to it by name."""
        numbers = {"type": "csv", "parse": dict.fromkeys(self.tables.columns, "number")}
        content = {f"students{self.number}": self.tables.students, self.lines: _points(self.tables)}
        return {"name": f"students{self.number}", "format": numbers}, content

    def here(self) -> list[str]:
        """Conditions for a cell to lie in the plane that is shown."""
        if len(self.planes) < 2:
            return []
        return [f"{self.plane}[0] == {k} || {self.plane}[1] == {k} || "
                f"floor(datum.cell / {self.axes}[{k}].stride) % {self.axes}[{k}].count == {self.place}{k}"
                for k in range(len(self.tables.axes))]  # fmt: skip

    def map(self, title: str, pick: alt.Parameter | None = None) -> Any:
        """The plane, coloured; the boundaries; the cells picked; and over all what is clicked on and tells the numbers.

        Args:
            title: an expression; the record stands below it.
            pick: the selection, of cells `first` and `second`, if cells can be picked.
        """
        observable = f"entries[shown].k[{self.number}]"
        cells = self.students(
            f"datum.record == {self.record}", *self.here(),
            *_place("up", self.up), *_place("across", self.across),
            (f"datum['m' + {observable}]", "mean"), (f"datum['n' + {observable}]", "count"),
            ("entries[shown].log ? (datum.mean > 0 ? log(datum.mean) / LN10 : null) : datum.mean", "value"),
        )  # fmt: skip
        height, middles = self.height, (middle("up", self.up), middle("across", self.across))
        x, y = self.x("across_low"), self.y("up_low")
        box: dict[str, Any] = {"x": x, "y": y, "x2": "across_high", "y2": "up_high"}
        colour = alt.Color("value:Q", scale=alt.Scale(scheme="viridis", zero=False, nice=False), legend=alt.Legend(
            title=None, gradientLength=height, gradientThickness=11, offset=8,
            labelExpr="entries[shown].log ? format(pow(10, datum.value), '.2~g') : format(datum.value, '.3~g')",
        ))  # fmt: skip
        layers: list[Any] = [
            cells.mark_rect(fill="#888", opacity=0.25).encode(**box),
            cells.transform_filter("isValid(datum.value)").mark_rect().encode(**box, color=colour),
            transformed(cells, f"datum.count < {self.tables.seeds}", *middles)
            .mark_point(shape="M-.5,0L0,-.5M-.5,.5L.5,-.5M0,.5L.5,0", stroke="#ff6b1a", strokeWidth=0.8, opacity=1,
                        size=alt.ExprRef(f"pow(min({SIDE} / {self.across}.count, {height} / {self.up}.count), 2) * 0.8"))
            .encode(x=self.x("across_at"), y=self.y("up_at")),
            *self.boundaries(), self.called(self.across, x=SIDE / 2, y=height + 32),
            *([self.called(self.up, x=-self.margin(), y=SIDE / 2, angle=270)] if len(self.tables.axes) > 1 else []),
        ]  # fmt: skip
        for which, letter, colour in (("first", "A", A), ("second", "B", B)) if pick else ():
            mine = transformed(cells, f"datum.cell == {which}", *middles)
            layers += [
                mine.mark_rect(filled=False, stroke=outline, strokeWidth=width).encode(**box)
                for outline, width in (("black", 4), (colour, 2.4))
            ] + [
                mine.mark_text(text=letter, fontWeight="bold", fontSize=12, fill="white", stroke=outline, strokeWidth=width)
                .encode(x=self.x("across_at"), y=self.y("up_at"))
                for outline, width in (("black", 2.5), ("white", 0))
            ]  # fmt: skip
        tooltip = [alt.Tooltip(f"t{k}:N", title=axis.short) for k, axis in enumerate(self.tables.axes)]
        tooltip += [alt.Tooltip("said:N", title="mean ± error"), alt.Tooltip("students:N", title="students")]
        if "c0" in self.tables.columns:
            tooltip.insert(-1, alt.Tooltip("spread:N", title="median, 16 to 84 %"))
        number = "format(datum['{}' + " + observable + "], '.4~g')"
        layers.append(
            transformed(
                cells,
                *((f"{self.axes}[{k}].ticks[floor(datum.cell / {self.axes}[{k}].stride) % {self.axes}[{k}].count]", f"t{k}")
                  for k in range(len(self.tables.axes))),
                (f"datum.count ? {number.format('m')} + (isValid(datum['e' + {observable}]) ? ' ± ' + "
                 f"format(datum['e' + {observable}], '.2~g') : '') : 'none'", "said"),
                (f"datum.count ? {number.format('c')} + ', ' + {number.format('l')} + ' to ' + {number.format('h')} "
                 ": 'none'", "spread"),
                (f"datum.count + ' of {self.tables.seeds}' + (datum.count < {self.tables.seeds} ? ', '"
                 f" + ({self.tables.seeds} - datum.count) + ' lost' : '')", "students"),
            )
            .mark_rect(fillOpacity=0, cursor="pointer" if pick else "default").encode(**box, tooltip=tooltip)
        )  # fmt: skip
        if pick:
            layers[-1] = layers[-1].properties(name="plane_cells").add_params(pick)
        words = alt.Title(text=alt.ExprRef(f"[{title}, {self.where()}]"), limit=SIDE + 60)
        return alt.layer(*layers).properties(width=SIDE, height=height, title=words, name=f"plane{self.number or ''}")

    def margin(self) -> float:
        """How far the name of an upright axis stands from it, to leave room for its ticks' labels."""
        return 12 + 6.5 * max(len(tick) for axis in self.tables.axes for tick in axis.ticks)

    def where(self) -> str:
        """The expression for the record, and for the places on further axes."""
        words = f"'after ' + records{self.number}[{self.record}]"
        if len(self.planes) > 1:
            for k in range(len(self.tables.axes)):
                words += (f" + ({self.plane}[0] == {k} || {self.plane}[1] == {k} ? '' : ', ' + {self.axes}[{k}].short + "
                          f"' = ' + {self.axes}[{k}].ticks[{self.place}{k}])")  # fmt: skip
        return words

    def x(self, column: str) -> alt.X:
        """A column on the axis that lies across."""
        return on(alt.X, self.across, column)

    def y(self, column: str) -> alt.Y:
        """A column on the upright axis, which a single axis of the grid leaves without ticks."""
        return on(alt.Y, self.up, column, ticks=len(self.tables.axes) > 1)

    def called(self, axis: str, **place: Any) -> alt.Chart:
        """The name of an axis beside it; the title of an axis of Vega-Lite's cannot follow a parameter."""
        return alt.Chart(alt.InlineData(values=[{}])).mark_text(
            text=alt.ExprRef(f"{axis}.label"), fill=INK, fontSize=11, align="center", **place
        )

    def boundaries(self) -> list[alt.Chart]:
        """The lines on the paper's plane, white with a dark edge, to be seen on any colour."""
        if not self.tables.lines or self.tables.plane is None:
            return []
        kinds = list(dict.fromkeys(line.kind for line in self.tables.lines))
        further = [k for k in range(len(self.tables.axes)) if k not in self.tables.plane]
        numbers = dict.fromkeys([name for name in _columns_of(self.tables) if name != "kind"], "number")
        data = alt.NamedData(name=self.lines, format=alt.CsvDataFormat(type="csv", parse=alt.Parse(**numbers)))
        up, across = self.tables.plane
        base = transformed(
            alt.Chart(data),
            f"datum.record < 0 || datum.record == {self.record}", f"{self.plane}[0] == {up} && {self.plane}[1] == {across}",
            *(f"!isValid(datum.at{k}) || datum.at{k} == {self.place}{k}" for k in further),
        )  # fmt: skip
        lines = base.encode(
            x=self.x("x"), y=self.y("y"), order="order:Q", detail="line:N",
        )  # fmt: skip
        dashes = {"68": [6, 2, 1, 2], "95": [5, 3], "99": [1, 0], "side": [1, 2], "1/": [2, 4]}
        looks = [next(dash for start, dash in dashes.items() if kind.startswith(start)) for kind in kinds]
        dash = alt.StrokeDash("kind:N", scale=alt.Scale(domain=kinds, range=looks), legend=alt.Legend(
            orient="bottom", title=None, columns=3, symbolSize=400, symbolStrokeColor=INK, symbolStrokeWidth=1.4,
            labelLimit=0, offset=20, direction="horizontal"))  # fmt: skip
        return [lines.mark_line(stroke="black", strokeWidth=2.6, opacity=0.75, clip=True),
                lines.mark_line(stroke="white", strokeWidth=1.3, clip=True).encode(strokeDash=dash)]  # fmt: skip


def index(column: str, axis: str) -> tuple[str, str]:
    """The column of which of the values of an axis of the plane a cell has."""
    return f"floor(datum.cell / {axis}.stride) % {axis}.count", f"{column}_index"


def middle(column: str, axis: str) -> tuple[str, str]:
    """The column of where on an axis of the plane a cell is."""
    return f"{axis}.at[datum.{column}_index]", f"{column}_at"


def _place(column: str, axis: str) -> tuple[tuple[str, str], ...]:
    """The columns of where a cell begins and ends on an axis of the plane."""
    return index(column, axis), *((f"{axis}.{end}[datum.{column}_index]", f"{column}_{end}") for end in ("low", "high"))


def on(channel: Any, axis: str, column: str, ticks: bool = True) -> Any:
    """A column on an axis of the plane, with the grid's values as its ticks."""
    return channel(
        f"{column}:Q",
        scale=alt.Scale(domain=[alt.ExprRef(f"{axis}.ends[0]"), alt.ExprRef(f"{axis}.ends[1]")], nice=False, zero=False),
        axis=alt.Axis(values=alt.ExprRef(f"{axis}.at"), title=None,
                      labelExpr=f"{axis}.ticks[indexof({axis}.at, datum.value)]",
                      labelOverlap=True, grid=False) if ticks else None,
    )  # fmt: skip


def _columns_of(tables: Tables) -> list[str]:
    """The columns of the points of lines: atk is where a line lies on axis k, nowhere or anywhere if it is empty."""
    return ["line", "kind", "order", "record", "x", "y", *(f"at{k}" for k in range(len(tables.axes)))]


def _points(tables: Tables) -> str:
    """The points of the boundaries as CSV; record -1 is every record."""
    rows = [
        {"line": number, "kind": line.kind, "order": order, "record": -1 if line.record is None else line.record,
         "x": f"{x:.4f}", "y": f"{y:.4f}", **{f"at{k}": at for k, at in line.place.items()}}
        for number, line in enumerate(tables.lines)
        for order, (x, y) in enumerate(zip(line.x, line.y, strict=True))
    ]  # fmt: skip
    columns = _columns_of(tables)
    return "\n".join([",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)])
