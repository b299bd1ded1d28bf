"""What the charts share: series, their legend, the scale of the distance from retraining, and the SVG text.

Most colours are those of Okabe and Ito (2008), chosen for colour-blind readers; each series also has a shape or a
dash pattern of its own, for greyscale prints.
"""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import altair as alt

from expunge.core.registry import Measure
from expunge.report.results import BASELINE, REFERENCE
from expunge.report.tables import RELATIVE

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#00805E", "#CC79A7", "#56B4E9"
AMBER, BROWN = "#E69F00", "#7A4419"
INK, GREY = "#1F2933", "#5F6B76"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', 'Liberation Sans', Arial, sans-serif"

MOST_RELATIVE = 2.0
"""The largest relative distance that charts show."""


@dataclass(frozen=True)
class Series:
    """How one series of a chart is drawn."""

    name: str
    colour: str
    dash: tuple[int, ...] = (1, 0)
    shape: str = "circle"


def method_series(labels: Sequence[str]) -> list[Series]:
    """The series of each method: 42 differ in colour or shape, neighbours in both."""
    looks = zip(
        [label for label in labels if label not in (REFERENCE, BASELINE)],
        cycle((BLUE, ORANGE, PURPLE, AMBER, SKY, INK, BROWN)),
        cycle(((1, 0), (8, 3), (2, 2), (8, 3, 2, 3))),
        cycle(("circle", "square", "triangle-up", "cross", "triangle-down", "triangle-left")),
        strict=False,
    )
    found = {label: Series(label, colour, dash, shape) for label, colour, dash, shape in looks}
    found[REFERENCE] = Series(REFERENCE, GREEN, shape="diamond")
    found[BASELINE] = Series(BASELINE, GREY, (5, 4), "stroke")
    return [found[label] for label in labels]


@dataclass(frozen=True)
class Encodings:
    """Colour, dash pattern and shape by the field ``series``."""

    colour: alt.Color
    dash: alt.StrokeDash
    shape: alt.Shape


def encodings(series: Sequence[Series], legend: alt.Legend) -> Encodings:
    """The encodings that draw each series as it says, with one legend for all three."""
    names = [each.name for each in series]
    colours = alt.Scale(domain=names, range=[each.colour for each in series])
    dashes = alt.Scale(domain=names, range=[list(each.dash) for each in series])
    shapes = alt.Scale(domain=names, range=[each.shape for each in series])
    return Encodings(
        alt.Color("series:N", scale=colours, legend=legend),
        alt.StrokeDash("series:N", scale=dashes, legend=legend),
        alt.Shape("series:N", scale=shapes, legend=legend),
    )


def methods_legend(narrow: bool) -> alt.Legend:
    """The legend of methods: to the right, or below a narrow chart."""
    orient = "bottom" if narrow else "right"
    return alt.Legend(title=None, orient=orient, columns=1, symbolSize=90, symbolOpacity=1, symbolStrokeWidth=1)


def lines_legend(names: Sequence[str]) -> alt.Legend:
    """The legend of the lines of a small chart, above it."""
    return alt.Legend(
        title=None, orient="top", values=list(names), symbolType="stroke", symbolOpacity=1, symbolSize=400
    )


def distance_axis(ranking: Measure, high: float) -> alt.Y:
    """The axis of the metric by which methods are ranked, on a square-root scale from 0 to ``high``.

    Relative distances have no limit: those beyond :data:`MOST_RELATIVE` are drawn at the upper edge.
    """
    most = max(min(high, MOST_RELATIVE) if ranking.name == RELATIVE else high, 0.5)
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 50, 70, 100)
    ticks = [0, *(step for step in steps if most / 200 <= step <= most)]
    return alt.Y(
        "distance:Q",
        title=f"{ranking.title} ({ranking.unit})" if ranking.unit else ranking.title,
        axis=alt.Axis(values=ticks, format="~r", labelOverlap="greedy"),
        scale=alt.Scale(type="sqrt", domain=[0, most], nice=False, clamp=True),
    )


def inline(rows: Sequence[Mapping[str, object]]) -> alt.Chart:
    """A chart of these rows, without marks."""
    return alt.Chart(alt.InlineData(values=list(rows)))


def svg(chart: alt.LayerChart | alt.Chart) -> str:
    """The SVG of a chart, in the common style."""
    styled = (
        chart.configure(font=FONT, background="white", padding=4)
        .configure_view(stroke=None)
        .configure_legend(labelColor=INK, labelFontSize=12, labelLimit=300)
        .configure_axis(
            labelColor=INK, titleColor=INK, labelFontSize=11, titleFontSize=12, titleFontWeight="normal",
            gridColor="#E6E9EC", domainColor="#9AA5B1", tickColor="#9AA5B1",
        )
    )  # fmt: skip
    buffer = io.StringIO()
    styled.save(buffer, format="svg")
    return buffer.getvalue()
