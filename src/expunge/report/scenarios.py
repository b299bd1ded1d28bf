"""Distance from retraining over what distinguishes scenarios: the sparsity, or a number that was varied."""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false

import json
import re
from dataclasses import dataclass

import altair as alt

from expunge.report.drawing import distance_axis, encodings, inline, method_series, methods_legend, svg
from expunge.report.results import BASELINE, REFERENCE
from expunge.report.tables import Part, Summary


@dataclass(frozen=True)
class Axis:
    """What distinguishes the scenarios: its name, and the scenarios by its value, the smallest first."""

    title: str
    places: tuple[tuple[float, Part], ...]


NUMBER = re.compile(r"(\w[\w.]*=(?:random:)?)((?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(%?)")
"""The name of a scenario in which one number was varied: ``lr=0.1``, ``forget=random:10%``."""


def axis(summary: Summary) -> Axis | None:
    """The sparsity of the models where it differs; else the one number in which the names of scenarios differ."""
    sparse = [(part.sparsity, part) for part in summary.parts if part.sparsity is not None]
    if len({value for value, _ in sparse}) > 1:
        return Axis("sparsity of the models (%)", tuple(sorted(sparse, key=lambda place: place[0])))
    found = [NUMBER.fullmatch(part.scenario) for part in summary.parts]
    varied = [(float(match[2]), part) for match, part in zip(found, summary.parts, strict=True) if match]
    names = {(match[1], match[3]) if match else ("", "") for match in found}
    if len(names) > 1 or len({value for value, _ in varied}) < 2:
        return None
    ((name, percent),) = names
    title = "examples to forget" if name.startswith("forget=") else name.rstrip("=").replace("_", " ")
    return Axis(f"{title} (%)" if percent else title, tuple(sorted(varied, key=lambda place: place[0])))


def over_scenarios(summary: Summary, *, narrow: bool = False) -> str | None:
    """Distance from retraining (square-root scale) over scenarios drawn at equal distances, a line for each method.

    None where no number distinguishes the scenarios, or no method's distance is known.
    """
    across, ranking = axis(summary), summary.ranking.name
    labels = dict.fromkeys(line.label for line in summary.lines if ranking in line.cells)
    methods = [label for label in labels if label not in (REFERENCE, BASELINE)]
    if across is None or not methods:
        return None
    shown = [*methods, BASELINE] if BASELINE in labels else methods
    rows: list[dict[str, object]] = []
    high = 0.0
    for place, (_, part) in enumerate(across.places):
        for label in shown:
            line = part.table.line(label)
            cell = line.cells.get(ranking) if line else None
            mean, std = (cell.mean, cell.std) if cell else (None, None)  # a missing distance interrupts the line
            rows.append({"series": label, "place": place, "distance": mean, "std": std})
            high = max(high, (mean or 0.0) + (std or 0.0))
    look = encodings(method_series(shown), methods_legend(narrow))
    values = json.dumps([value for value, _ in across.places])
    ticks = alt.Axis(labelExpr=f"format({values}[datum.value], '.3~r')", labelAngle=0, labelOverlap="greedy", grid=True)
    base = inline(rows).encode(
        x=alt.X("place:O", title=across.title, axis=ticks, scale=alt.Scale(paddingInner=0.8, paddingOuter=0.3)),
        xOffset=alt.XOffset("series:N", scale=alt.Scale(domain=shown)),
        y=distance_axis(summary.ranking, high * 1.1),
        color=look.colour,
    )
    known = base.transform_filter("isValid(datum.distance)")
    layers = [
        known.mark_errorbar(thickness=1.6, opacity=0.55).encode(yError="std:Q"),
        base.mark_line(strokeWidth=1.8).encode(strokeDash=look.dash),
        known.mark_point(filled=True, size=75, opacity=1).encode(shape=look.shape),
    ]
    return svg(alt.layer(*layers).properties(width=290 if narrow else 840, height=300 if narrow else 400))
