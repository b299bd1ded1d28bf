"""One self-contained page: what was forgotten, which method is nearest to retraining, and the evidence."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from expunge.core.registry import Measure
from expunge.report import histograms, losses, scenarios, tables, tradeoff, words
from expunge.report.drawing import MOST_RELATIVE
from expunge.report.results import BASELINE, PLAIN, REFERENCE, Results, Row, history, load, predictions
from expunge.report.tables import Line, Summary
from expunge.store.directory import write_text


@dataclass(frozen=True)
class Shown:
    """A cell of a table: its text, the gap below it, and its colour from near (0) to far (4)."""

    text: str
    gap: str = ""
    far: int | None = None


BOUNDS = (1.0, 2.0, 5.0, 10.0)
"""Gaps in percentage points at which the colour of a cell changes."""


def write(folder: Path, out: Path) -> Path:
    """Write the report of a folder of runs to ``out``, with ``results.csv``, ``.md`` and ``.tex`` beside it.

    Nothing is written before everything is made, and each file appears whole or not at all.

    Raises:
        RequestError: The folder holds no evaluations, or a file in it is missing or damaged.
        OSError: A file cannot be written: the disk is full, or the folder read-only.
    """
    results = load(folder)
    summary = tables.summarise(results)
    files = {
        out.with_name("results.csv"): tables.csv(summary),
        out.with_name("results.md"): tables.markdown(summary),
        out.with_name("results.tex"): tables.latex(summary),
        out: page(results, summary),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        write_text(path, content)
    return out


def page(results: Results, summary: Summary) -> str:
    """The page as HTML text; its small charts show the lowest finished seed of each method."""
    shown = [row for line in summary.lines if (row := results.first(line.label, line.scenario)) is not None]
    outputs = [predictions(results, row) for row in shown]
    scores = [{series.name: splits[series.name].log_odds() for series in histograms.SPLITS} for splits in outputs]
    steps = [(row, found) for row in shown if (found := history(results, row))]
    ranking = summary.ranking
    known = [line.cells[ranking.name].mean for line in summary.lines if ranking.name in line.cells]
    draw = scenarios.over_scenarios if summary.several else tradeoff.tradeoff
    wide, narrow = draw(summary), draw(summary, narrow=True)

    environment = Environment(
        loader=PackageLoader("expunge.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"breakable": _breakable, "displayed": tables.displayed}
    return environment.get_template("report.html").render(
        summary=summary,
        legend=tables.legend(summary, "below it"),
        reference=REFERENCE,
        baseline=BASELINE,
        plain=PLAIN,
        sentences=words.headline(
            results, summary, [(len(found["forget"]), len(found["forget"]) + len(found["retain"])) for found in outputs]
        ),
        cell=cell,
        bounds=BOUNDS,
        coloured=any(cell(line, each).far is not None for line in summary.lines for each in summary.headline),
        failures=[row for row in results.rows if row.status == "failed"],
        distance=f"{ranking.title[0].upper()}{ranking.title[1:]}",
        beyond=MOST_RELATIVE if ranking.name == tables.RELATIVE and max(known, default=0.0) > MOST_RELATIVE else None,
        across=scenarios.axis(summary),
        wide=_image(wide) if wide else None,
        narrow=_image(narrow) if narrow else None,
        histograms=_by_scenario(shown, histograms.membership(scores)),
        losses=_by_scenario([row for row, _ in steps], losses.losses([found for _, found in steps])),
        common=words.common_configuration(results),
        methods=words.method_configurations(results, dict.fromkeys(line.label for line in summary.lines)),
        provenance=words.provenance(results),
        glossary=words.glossary(summary),
    )


def _breakable(label: str) -> Markup:
    """A label, escaped, in which a line may break after punctuation."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_:,.=])", label))


def _by_scenario(rows: Sequence[Row], charts: Sequence[str]) -> list[list[tuple[Row, str]]]:
    """The rows with their charts as images, those of each scenario together."""
    found: dict[str, list[tuple[Row, str]]] = {}
    for row, chart in zip(rows, charts, strict=True):
        found.setdefault(row.scenario, []).append((row, _image(chart)))
    return list(found.values())


def _image(svg: str) -> str:
    """A picture as a data URI, in which no script runs and no element shares an id with the page."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def cell(line: Line, measure: Measure) -> Shown:
    """A metric of a method with its gap; coloured are gaps in points and the average gap."""
    found = line.cells.get(measure.name)
    text = tables.spread(found, measure)
    if found is None or line.label == REFERENCE:
        return Shown(text)
    if measure.name == tables.GAP:
        return Shown(text, far=distance(found.mean))
    if found.gap is None:
        return Shown(text)
    return Shown(text, tables.text(found.gap, measure), distance(found.gap) if measure.unit == "%" else None)


def distance(gap: float) -> int:
    """The colour of a gap in points: 0 for under 1 point to 4 for 10 or more."""
    return sum(gap >= bound for bound in BOUNDS)
