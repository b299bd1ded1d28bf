"""One self-contained page: what was forgotten, which method came nearest to retraining, and the evidence."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from expunge.core.registry import Measure
from expunge.evaluation.predictions import Predictions
from expunge.report import histograms, losses, scenarios, tables, tradeoff, words
from expunge.report.drawing import MOST_RELATIVE
from expunge.report.results import BASELINE, PLAIN, REFERENCE, Losses, Results, Row, history, load, predictions
from expunge.report.tables import Line, Summary
from expunge.store.directory import write_text


@dataclass(frozen=True)
class Panel:
    """One small chart: the method, scenario and seed that it shows, and the picture as a data URI."""

    title: str
    scenario: str
    """Its name; empty where there is only one."""
    seed: int
    image: str


@dataclass(frozen=True)
class Shown:
    """A cell as the page shows it: its text, the gap below it, and how near (0) or far (4) that is."""

    text: str
    gap: str = ""
    far: int | None = None


@dataclass(frozen=True)
class Table:
    """A table as the page shows it: metrics, and under the title of each scenario the methods with their cells."""

    measures: tuple[Measure, ...]
    parts: tuple[tuple[str, tuple[tuple[Line, tuple[Shown, ...]], ...]], ...]
    """The title is empty where there is only one scenario."""


BOUNDS = (1.0, 2.0, 5.0, 10.0)
"""Gaps in percentage points at which the colour of a cell changes."""


def write(folder: Path, out: Path) -> Path:
    """Write the report of a folder of runs to ``out``, with ``results.csv``, ``.md`` and ``.tex`` beside it.

    Nothing is written before everything is made, and each file appears whole or not at all.

    Raises:
        RequestError: The folder holds no evaluations, or a file in it is missing or garbled.
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
    """The page as HTML text, from the lowest finished seed of each method where one must stand for all."""
    shown = [row for line in summary.lines if (row := results.first(line.label, line.scenario)) is not None]
    outputs = {_key(row): predictions(results, row) for row in shown}
    steps = {_key(row): history(results, row) for row in shown}
    main = _table(summary, summary.headline)
    return _template().render(
        summary=summary,
        legend=tables.legend(summary, "below it"),
        reference=REFERENCE,
        baseline=BASELINE,
        sentences=words.headline(results, summary, _sizes(outputs)),
        main=main,
        full=_table(summary, summary.measures),
        bounds=BOUNDS,
        nearness=f"{summary.judge.title[0].upper()}{summary.judge.title[1:]}",
        beyond=_beyond(summary),
        judged=any(cell.far is not None for _, rows in main.parts for _, cells in rows for cell in cells),
        glossary=words.glossary(summary),
        **_charts(summary, outputs, steps),
        failures=[row for row in results.rows if row.status == "failed"],
        plain=PLAIN,
        common=words.common_configuration(results),
        methods=words.method_configurations(results, dict.fromkeys(line.label for line in summary.lines)),
        provenance=words.provenance(results),
    )


def _beyond(summary: Summary) -> float | None:
    """The value at the upper edge of the charts, where something lies beyond it."""
    if summary.judge.name != tables.RELATIVE:
        return None
    found = [line.cells[summary.judge.name].mean for line in summary.lines if summary.judge.name in line.cells]
    return MOST_RELATIVE if max(found, default=0.0) > MOST_RELATIVE else None


Key = tuple[str, str, int]
"""What a small chart shows: scenario, label and seed."""


def _key(row: Row) -> Key:
    return row.scenario, row.label, row.seed


def _template() -> Template:
    loader = PackageLoader("expunge.report")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters["breakable"] = _breakable
    found.filters["spoken"] = tables.spoken
    return found.get_template("report.html")


def _breakable(label: str) -> Markup:
    """A label, escaped, that may go on in the next line after a sign between its words."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_:,.=])", label))


def _sizes(outputs: Mapping[Key, Mapping[str, Predictions]]) -> words.Sizes | None:
    """How many examples were to be forgotten, of how many that were learned."""
    forgotten = [len(splits["forget"]) for splits in outputs.values()]
    learned = [len(splits["forget"]) + len(splits["retain"]) for splits in outputs.values()]
    return words.Sizes(min(forgotten), max(forgotten), max(learned)) if outputs else None


def _charts(
    summary: Summary, outputs: Mapping[Key, Mapping[str, Predictions]], steps: Mapping[Key, Losses]
) -> dict[str, object]:
    """Every chart of the page, by the name that the template has for it."""
    shown = ("forget", "retain", "test")
    scores = {key: {name: by[name].log_odds() for name in shown} for key, by in outputs.items()}
    wide, narrow = _over_scenarios(summary) if summary.several else _tradeoff(summary)
    return {
        "wide": _image(wide) if wide else None,
        "narrow": _image(narrow) if narrow else None,
        "tracks": [track.series for track in scenarios.tracks(summary)] if summary.several else [],
        "across": scenarios.axis(summary),
        "histograms": _panels(histograms.membership(scores), summary),
        "splits": histograms.SPLITS,
        "losses": _panels(losses.losses(steps), summary),
        "roles": losses.role_series([role for found in steps.values() for role in found.by_role]),
    }


def _tradeoff(summary: Summary) -> tuple[str | None, str | None]:
    """The chart of one scenario for wide screens and for narrow ones."""
    return tradeoff.tradeoff(summary, 1020, 400), tradeoff.tradeoff(summary, 290, 280 + 10 * len(summary.lines))


def _over_scenarios(summary: Summary) -> tuple[str | None, str | None]:
    """The chart of several scenarios for wide screens and, with its names in a key, for narrow ones."""
    wide = scenarios.over_scenarios(summary, 840, max(400, 16 * len(scenarios.tracks(summary))))
    return wide, scenarios.over_scenarios(summary, 290, 300, labelled=False)


def _panels(charts: Mapping[Key, str], summary: Summary) -> list[list[Panel]]:
    """The small charts of each scenario."""
    found: dict[str, list[Panel]] = {}
    for (scenario, label, seed), chart in charts.items():
        name = tables.spoken(scenario) if summary.several else ""
        found.setdefault(scenario, []).append(Panel(label, name, seed, _image(chart)))
    return list(found.values())


def _image(svg: str) -> str:
    """A picture as a data URI: it runs no script, and its element ids meet no others."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _table(summary: Summary, measures: tuple[Measure, ...]) -> Table:
    parts = tuple(
        (
            part.title if summary.several else "",
            tuple((line, tuple(_shown(line, measure) for measure in measures)) for line in part.table.lines),
        )
        for part in summary.parts
    )
    return Table(measures, parts)


def _shown(line: Line, measure: Measure) -> Shown:
    cell = line.cells.get(measure.name)
    text = tables.spread(cell, measure)
    if cell is None or line.label == REFERENCE:
        return Shown(text)
    if measure.name == tables.GAP:
        return Shown(text, far=distance(cell.mean))
    if cell.gap is None:
        return Shown(text)
    return Shown(text, tables.text(cell.gap, measure), distance(cell.gap) if measure.unit == "%" else None)


def distance(gap: float) -> int:
    """How far from retraining a gap in points is: 0 for under 1 point to 4 for 10 or more."""
    return sum(gap >= bound for bound in BOUNDS)
