"""What the explorer's views share: sizes, colours, axes and how data are filtered, in Altair's words."""

from typing import Any

import altair as alt

SIDE, WIDTH, HEIGHT = 310, 222, 105
"""Of the plane, and of a panel, in pixels before the page scales all of it."""
CONTROLS = "#controls"
"""Where on the page lists and sliders stand."""
INK = "currentColor"
A, B = "#e8590c", "#1c8fe0"
"""Colours of the two cells; they are told apart by who sees no red, and seen on white and on black."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_POWERS = [str(k).translate(RAISED) for k in range(-45, 46)]
_EXPONENT = "floor(log(datum.value) / LN10 + 1e-9)"
_MANTISSA = f"(datum.value / pow(10, {_EXPONENT}) < 1.01 ? '' : format(datum.value / pow(10, {_EXPONENT}), '.2~g') + '·')"


def transformed(chart: alt.Chart, *transforms: tuple[str, str] | str) -> alt.Chart:
    """A chart of what satisfies conditions, with more columns."""
    added = [
        alt.FilterTransform(filter=one)
        if isinstance(one, str)
        else alt.CalculateTransform(calculate=one[0], **{"as": one[1]})
        for one in transforms
    ]
    chart = chart.copy(deep=False)
    chart.transform = [*(chart.transform if isinstance(chart.transform, list) else []), *added]
    return chart


def quantity(column: str, log: bool, title: str | None = None) -> alt.Y:
    """An upright axis of numbers."""
    scale = alt.Scale(type="log", nice=False, padding=4) if log else alt.Scale(zero=False, nice=False, padding=4)
    words = alt.Undefined
    if log:  # what is too dense for a label has none by then
        words = (
            f"!datum.label ? '' : datum.value >= 0.01 && datum.value < 1000 ? format(datum.value, '~g') : {_MANTISSA} + "
            f"'10' + {_POWERS}[{_EXPONENT} + {len(_POWERS) // 2}]"
        )
    axis = alt.Axis(tickCount=4, format=".2~g", labelExpr=words, title=title, grid=False, minExtent=36)
    return alt.Y(f"{column}:Q", title=title, scale=scale, axis=axis)


LOOK: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "padding": 4,
    "view": alt.ViewConfig(stroke=INK, strokeOpacity=0.35),
    "axis": alt.AxisConfig(labelColor=INK, titleColor=INK, domainColor=INK, tickColor=INK, gridColor=INK, gridOpacity=0.1,
                           domainOpacity=0.5, tickOpacity=0.5, tickSize=4, labelFontSize=10, titleFontSize=11,
                           titleFontWeight="normal"),
    "legend": alt.LegendConfig(labelColor=INK, titleColor=INK, labelFontSize=10),
    "title": alt.TitleConfig(color=INK, fontSize=12, fontWeight=600, anchor="start", frame="group", offset=6),
}  # fmt: skip
"""All in the ink of the page, which is light or dark as its reader has it."""
