"""What the charts share: colours, series, lines and the SVG text.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; each series also has
a dash pattern or a fill of its own, for grey prints.
"""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#00805E", "#CC79A7", "#56B4E9"
INK, GREY = "#1F2933", "#5F6B76"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True)
class Series:
    """How one line of a small chart is drawn."""

    name: str
    colour: str
    dash: tuple[int, ...] = ()
    filled: bool = False

    @property
    def dash_text(self) -> str:
        """The dash pattern as SVG writes it."""
        return " ".join(map(str, self.dash))


def curve(rows: Sequence[Mapping[str, object]], series: Series) -> alt.Chart:
    """A line through these rows in the look of a series."""
    dash = list(series.dash) or [1, 0]
    return alt.Chart(inline(rows)).mark_line(color=series.colour, strokeWidth=1.8, strokeDash=dash, clip=True)


def inline(rows: Sequence[Mapping[str, object]]) -> alt.InlineData:
    """Rows as the data of a chart."""
    return alt.InlineData(values=list(rows))


def svg(chart: alt.LayerChart) -> str:
    """The SVG of a chart, in the house style."""
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
