"""The trade-off of the methods: distance from retraining against run time."""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false

import altair as alt

from expunge.report.drawing import distance_axis, encodings, inline, method_series, methods_legend, svg
from expunge.report.results import BASELINE, REFERENCE
from expunge.report.tables import TIME, Summary


def tradeoff(summary: Summary, *, narrow: bool = False) -> str | None:
    """Distance from retraining (square-root scale) against run time (seconds, log scale); both better when small.

    Distance is the metric that ranks methods, with one standard deviation up and down. A horizontal line is the
    distance of the original, a vertical one the run time of retraining. None where no method has both numbers.
    """
    ranking = summary.ranking.name
    found = {line.label: line.cells for line in summary.lines if ranking in line.cells}
    timed = {label: cells for label, cells in found.items() if TIME in cells and cells[TIME].mean > 0}
    rows = [
        {"series": label, "seconds": cells[TIME].mean, "distance": cells[ranking].mean, "std": cells[ranking].std}
        for label, cells in timed.items()
        if label != BASELINE
    ]
    if not any(row["series"] != REFERENCE for row in rows):
        return None
    shown = [label for label in found if label in (BASELINE, *timed)]
    high = max(found[label][ranking].mean + (found[label][ranking].std or 0.0) for label in shown)
    look = encodings(method_series(shown), methods_legend(narrow))
    seconds = alt.Axis(title="run time (seconds, log scale)", format="~r", labelSeparation=6)
    x = alt.X("seconds:Q", axis=seconds, scale=alt.Scale(type="log", padding=30, nice=False))
    y = distance_axis(summary.ranking, high * 1.15)
    points = inline(rows).encode(x=x, y=y, color=look.colour)
    layers = [
        inline([row for row in rows if row["series"] == REFERENCE])
        .mark_rule(strokeDash=[5, 4])
        .encode(x=x, color=look.colour),
        points.mark_errorbar(thickness=2, opacity=0.6).encode(yError="std:Q"),
        points.mark_point(filled=True, size=100, opacity=1).encode(shape=look.shape),
    ]
    if BASELINE in found:
        level = inline([{"series": BASELINE, "distance": found[BASELINE][ranking].mean}])
        layers.insert(0, level.mark_rule(strokeDash=[5, 4]).encode(y=y, color=look.colour))
    return svg(alt.layer(*layers).properties(width=290 if narrow else 840, height=280 if narrow else 400))
