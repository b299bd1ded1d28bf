"""What the charts share: colours, series, lines and the SVG text.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; each series also has
a dash pattern or a fill of its own, for grey prints.
"""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from expunge.core.registry import Measure
from expunge.report.tables import RELATIVE

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#00805E", "#CC79A7", "#56B4E9"
INK, GREY = "#1F2933", "#5F6B76"
AMBER = "#E69F00"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True)
class Series:
    """How one line of a small chart is drawn."""

    name: str
    colour: str
    dash: tuple[int, ...] = ()
    filled: bool = False
    marker: str = ""
    """The shape of its points: a key of :data:`MARKERS`, or none."""

    @property
    def dash_text(self) -> str:
        """The dash pattern as SVG writes it."""
        return " ".join(map(str, self.dash))

    @property
    def marker_path(self) -> str:
        """The outline of a point in the middle of a key, 34 by 12."""
        return MARKERS.get(self.marker, "")


MARKERS = {
    "circle": "M17 2a4 4 0 1 0 .01 0Z",
    "square": "M13.5 2.5h7v7h-7Z",
    "triangle-up": "M17 1.5L21.5 9.5H12.5Z",
    "diamond": "M17 .8L21 6L17 11.2L13 6Z",
    "triangle-down": "M17 10.5L21.5 2.5H12.5Z",
    "cross": "M15.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5Z",
}
"""Shapes of points by the name that Vega has for them, as SVG paths in a key."""


def distinct(name: str, number: int) -> Series:
    """The look of the n-th of many lines: 42 differ in colour or shape, and neighbours in everything."""
    colours, dashes = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, INK), ((), (8, 3), (2, 2), (8, 3, 2, 3))
    shape = list(MARKERS)[number % len(MARKERS)]
    return Series(name, colours[number % len(colours)], dashes[number % len(dashes)], marker=shape)


@dataclass(frozen=True)
class GapScale:
    """The upright scale of nearness to retraining: square roots from 0 at the bottom to ``most`` at the top, in pixels.

    What is beyond lies at the edge.
    """

    height: float
    most: float
    title: str = "average gap to retraining (points)"

    def y(self, gap: float) -> float:
        """The place of a gap, from the top."""
        return self.height * (1 - math.sqrt(min(max(gap, 0.0) / self.most, 1.0)))

    def gap(self, y: float) -> float:
        """The gap at a place; the nearest end outside the area."""
        return self.most * min(max(1 - y / self.height, 0.0), 1.0) ** 2

    def axis(self) -> alt.Y:
        """The axis, for the field ``g``."""
        kept: list[float] = []
        for tick in (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 50, 70, 100):
            if tick <= self.most and (not kept or self.y(kept[-1]) - self.y(tick) >= 14):
                kept.append(tick)
        axis = alt.Axis(title=self.title, values=kept, format="~r")
        return alt.Y("g:Q", axis=axis, scale=alt.Scale(type="sqrt", domain=[0, self.most], nice=False, clamp=True))


MOST_RELATIVE = 2.0
"""The largest relative distance that charts show."""


def gap_scale(judge: Measure, height: float, high: float) -> GapScale:
    """The scale of the metric by which methods are ranked, for values up to ``high``.

    Relative distances are unbounded: it shows those up to :data:`MOST_RELATIVE`.
    """
    title = f"{judge.title} ({judge.unit})" if judge.unit else judge.title
    most = min(high, MOST_RELATIVE) if judge.name == RELATIVE else high
    return GapScale(height, max(most, 0.5), title)


def curve(rows: Sequence[Mapping[str, object]], series: Series) -> alt.Chart:
    """A line through these rows in the look of a series."""
    dash = list(series.dash) or [1, 0]
    return alt.Chart(inline(rows)).mark_line(color=series.colour, strokeWidth=1.8, strokeDash=dash, clip=True)


def inline(rows: Sequence[Mapping[str, object]]) -> alt.InlineData:
    """Rows as the data of a chart."""
    return alt.InlineData(values=list(rows))


def shortened(label: str, most: int = 26) -> str:
    """A label, cut to so many signs."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def svg(chart: alt.LayerChart) -> str:
    """The SVG of a chart, in the common style."""
    styled = (
        chart.configure(font=FONT, background="white", padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK, titleColor=INK, labelFontSize=11, titleFontSize=12, titleFontWeight="normal",
            gridColor="#E6E9EC", domainColor="#9AA5B1", tickColor="#9AA5B1",
        )
    )  # fmt: skip
    buffer = io.StringIO()
    styled.save(buffer, format="svg")
    return buffer.getvalue()
