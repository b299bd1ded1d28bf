"""The comparison as one table: mean and spread over seeds, and the gap to the retrained model.

The gap of a method in a metric is the mean over seeds of ``|value - value of retraining with the same seed|``:
zero means that the method cannot be told from retraining by this metric.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl

from expunge import registry
from expunge.report.results import BASELINE, REFERENCE, Results, Row

Unit = Literal["%", "points", "s", ""]


@dataclass(frozen=True)
class Measure:
    """How a metric is shown."""

    name: str
    """The full name of the metric."""
    short: str
    """The head of its column."""
    title: str
    """What it is, in words."""
    unit: Unit = ""
    """Percent, percentage points, seconds, or none."""
    compared: bool = False
    """Whether a value is judged by its distance from the retrained model's."""
    headline: bool = False
    """Whether it stands in the main table."""
    decimals: int | None = None
    """Digits after the point; by default three digits that count."""

    @property
    def head(self) -> str:
        """The head of its column with the unit."""
        return f"{self.short} ({self.unit})" if self.unit else self.short


UA = Measure("unlearning_accuracy", "UA", "unlearning accuracy", "%", True, True, 1)
RA = Measure("remaining_accuracy", "RA", "remaining accuracy", "%", True, True, 1)
TA = Measure("test_accuracy", "TA", "test accuracy", "%", True, True, 1)
MIA = Measure("membership_svc.confidence", "MIA", "membership attack on confidence", "%", True, True, 1)
GAP = Measure("average_gap", "Avg. gap", "average gap to retraining", "points", False, True, 2)
TIME = Measure("run_time.total", "Time", "run time", "s", False, True)

KNOWN = (
    UA, RA, TA, MIA, GAP,
    Measure("tow", "ToW", "tug-of-war", headline=True, decimals=3),
    Measure("tow.tow_mia", "ToW-MIA", "tug-of-war with membership attack", decimals=3),
    TIME,
    Measure("run_time.precompute", "Precompute", "run time of the preparation", "s"),
    Measure("run_time.unlearn", "Unlearn", "run time of the unlearning", "s"),
    Measure("validation_accuracy", "VA", "validation accuracy", "%", True, False, 1),
)  # fmt: skip
"""The metrics that have a name of their own in the field, in the order of columns; others follow by name."""


@dataclass(frozen=True)
class Cell:
    """One metric of one method over its n finished seeds."""

    n: int
    mean: float
    std: float | None
    """Sample standard deviation over seeds; None for one seed."""
    gap: float | None
    """Mean absolute difference from retraining; None without a retrained model, or where it means nothing."""


@dataclass(frozen=True)
class Line:
    """One method: how many of its runs ended well, and its metrics."""

    label: str
    finished: int
    total: int
    failures: tuple[str, ...] = ()
    """The distinct reasons of its failed runs."""
    failed: int = 0
    cells: Mapping[str, Cell] = field(default_factory=dict[str, Cell])

    @property
    def note(self) -> str:
        """What kept runs of it from finishing; empty if nothing did."""
        pending = self.total - self.finished - self.failed
        parts = [f"{self.failed} of {self.total} failed: {'; '.join(self.failures)}"] if self.failed else []
        return "; ".join([*parts, f"{pending} of {self.total} pending"] if pending else parts)


@dataclass(frozen=True)
class Summary:
    """The table: methods in order (retraining, the original, then by average gap), and metrics in order."""

    name: str
    lines: tuple[Line, ...]
    measures: tuple[Measure, ...]

    @property
    def headline(self) -> tuple[Measure, ...]:
        """The metrics of the main table; all of them where none is known."""
        return tuple(measure for measure in self.measures if measure.headline) or self.measures

    def line(self, label: str) -> Line | None:
        """The line of a method."""
        return next((line for line in self.lines if line.label == label), None)

    @property
    def seeds(self) -> int:
        """The largest number of runs of any method."""
        return max((line.total for line in self.lines), default=0)


def summarise(results: Results) -> Summary:
    """Mean, sample standard deviation and gap of every metric of every method."""
    cells = _cells(results.rows)
    names = {name for found in cells.values() for name in found}
    by_label = {label: [row for row in results.rows if row.label == label] for label in results.labels}
    lines = [_line(label, rows, cells.get(label, {})) for label, rows in by_label.items()]
    return Summary(results.name, tuple(sorted(lines, key=_rank)), _measures(names))


def _rank(line: Line) -> tuple[int, float, str]:
    first = {REFERENCE: 0, BASELINE: 1}.get(line.label, 2)
    return (first, line.cells[GAP.name].mean if GAP.name in line.cells else math.inf, line.label)


def _line(label: str, rows: Sequence[Row], cells: Mapping[str, Cell]) -> Line:
    failed = [row for row in rows if row.status == "failed"]
    reasons = tuple(dict.fromkeys(" ".join((row.reason or "").split()) for row in failed))
    return Line(label, sum(row.status == "finished" for row in rows), len(rows), reasons, len(failed), cells)


def values(rows: Sequence[Row]) -> pl.DataFrame:
    """Every value of every finished row: label, seed, metric, value."""
    found = [
        (row.label, row.seed, name, value)
        for row in rows
        if row.status == "finished"
        for name, value in row.metrics.items()
        if value is not None
    ]
    schema = {"label": pl.String, "seed": pl.Int64, "metric": pl.String, "value": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row")


def statistics(long: pl.DataFrame) -> pl.DataFrame:
    """Label, metric, n, mean, std and gap from the values of :func:`values`."""
    retrained = long.filter(pl.col("label") == REFERENCE)
    reference = retrained.group_by("seed", "metric").agg(pl.col("value").mean().alias("reference"))
    beside = long.join(reference, on=["seed", "metric"], how="left")
    return (
        beside.with_columns((pl.col("value") - pl.col("reference")).abs().alias("gap"))
        .group_by("label", "metric", maintain_order=True)
        .agg(
            pl.len().alias("n"),
            pl.col("value").mean().alias("mean"),
            pl.col("value").std(ddof=1).alias("std"),
            pl.col("gap").mean(),
        )
    )


def _cells(rows: Sequence[Row]) -> dict[str, dict[str, Cell]]:
    found: dict[str, dict[str, Cell]] = {}
    for label, name, n, mean, std, gap in statistics(values(rows)).rows():
        compared = measure(name).compared
        found.setdefault(label, {})[name] = Cell(n, mean, std, gap if compared else None)
    return found


def _measures(names: set[str]) -> tuple[Measure, ...]:
    known = [measure for measure in KNOWN if measure.name in names]
    others = sorted(names - {measure.name for measure in known})
    return (*known, *map(measure, others))


def measure(name: str) -> Measure:
    """How to show the metric of that name; one of a third party by what its decorator says."""
    for known in KNOWN:
        if known.name == name:
            return known
    words = name.replace("_", " ").replace(".", ": ")
    if name.startswith("membership_svc."):
        return Measure(name, f"MIA {name.partition('.')[2]}", words, "%", compared=True, decimals=1)
    if name.startswith("run_time."):
        return Measure(name, words, words, "s")
    if name.startswith("weight_distance."):
        return Measure(name, words, words)
    return Measure(name, words, words, compared=_judged_by_reference(name.partition(".")[0]))


def _judged_by_reference(name: str) -> bool:
    plugin = registry.plugins("metrics").get(name)
    return plugin is not None and plugin.mark.better == "reference"


MISSING = "\N{EN DASH}"
"""What stands for a value that is not there."""


def text(value: float | None, measure: Measure) -> str:
    """A value of a metric as people read it."""
    if value is None:
        return MISSING
    return f"{value:.{_decimals(value, measure)}f}" if _plain(value, measure) else f"{value:.2e}"


def spread(cell: Cell | None, measure: Measure) -> str:
    """Mean and standard deviation with the same decimals, ``94.2 ± 0.3``; the mean alone for one seed."""
    if cell is None:
        return MISSING
    mean = text(cell.mean, measure)
    if cell.std is None:
        return mean
    if not _plain(cell.mean, measure):
        return f"{mean} ± {cell.std:.1e}"
    return f"{mean} ± {cell.std:.{_decimals(cell.mean, measure)}f}"


def _plain(value: float, measure: Measure) -> bool:
    """Whether a value is read well without an exponent."""
    fine = abs(value) >= 1e-3 or measure.unit == "s" or measure.decimals is not None
    return value == 0 or (abs(value) < 1e6 and fine)


def _decimals(value: float, measure: Measure) -> int:
    """Those of the metric; else so many that three digits count, but not over four, of seconds three."""
    if measure.decimals is not None:
        return measure.decimals
    size = math.floor(math.log10(abs(value))) if value else 0
    return min(3 if measure.unit == "s" else 4, max(0, 2 - size))


def _with_gap(cell: Cell | None, measure: Measure, reference: bool) -> str:
    """Mean, spread and, in parentheses, the gap to retraining."""
    shown = spread(cell, measure)
    return shown if cell is None or cell.gap is None or reference else f"{shown} ({text(cell.gap, measure)})"


def csv(summary: Summary) -> str:
    """One line per method with unrounded numbers: ``<metric>.mean``, ``.std`` and ``.gap`` for every metric."""
    frame = pl.DataFrame([_record(line, summary.measures) for line in summary.lines], infer_schema_length=None)
    return frame.write_csv()


def _record(line: Line, measures: Sequence[Measure]) -> dict[str, object]:
    record: dict[str, object] = {
        "method": line.label,
        "finished": line.finished,
        "failed": line.failed,
        "total": line.total,
        "note": line.note,
    }
    for measure in measures:
        cell = line.cells.get(measure.name)
        record[f"{measure.name}.mean"] = cell.mean if cell else None
        record[f"{measure.name}.std"] = cell.std if cell else None
        if measure.compared:
            record[f"{measure.name}.gap"] = cell.gap if cell else None
    return record


def _body(summary: Summary, escape: Callable[[str], str]) -> list[list[str]]:
    """The cells of the main table as escaped text, with a last column of notes where there are any."""
    noted = any(line.note for line in summary.lines)
    return [
        [
            escape(line.label),
            *(escape(_with_gap(line.cells.get(m.name), m, line.label == REFERENCE)) for m in summary.headline),
            *([escape(line.note)] if noted else []),
        ]
        for line in summary.lines
    ]


def _heads(summary: Summary) -> list[str]:
    notes = ["Note"] if any(line.note for line in summary.lines) else []
    return ["Method", *(measure.head for measure in summary.headline), *notes]


def legend(summary: Summary, where: str = "in parentheses") -> str:
    """What the numbers of the table are, in a phrase; ``where`` says where the gap stands."""
    seeds = f"mean ± sample standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else "one seed"
    compared = any(cell.gap is not None for line in summary.lines for cell in line.cells.values())
    return f"{seeds}; {where} the mean absolute gap to the retrained model" if compared else seeds


def markdown(summary: Summary) -> str:
    """The main table in Markdown."""
    heads = _heads(summary)
    align = ["---", *["---:"] * len(summary.headline), "---"][: len(heads)]
    rows = [heads, align, *_body(summary, _markdown_escaped)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_markdown_escaped(summary.name)}: {legend(summary)}.\n"


def _markdown_escaped(value: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|~$" else sign for sign in " ".join(value.split()))


def latex(summary: Summary) -> str:
    """The main table in LaTeX; it needs the package booktabs."""
    heads = [_latex_escaped(head) for head in _heads(summary)]
    columns = "l" + "r" * len(summary.headline) + "l" * (len(heads) - 1 - len(summary.headline))
    rows = [" & ".join(row) + r" \\" for row in [heads, *_body(summary, _latex_escaped)]]
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% {' '.join(summary.name.split())}: {legend(summary).replace('±', '+-')}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", MISSING: "--", "[": "{[}", "]": "{]}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def _latex_escaped(value: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(value.split()))


def terminal(summary: Summary) -> tuple[str, list[str], list[list[str]]]:
    """A title, column heads and rows of text, narrow enough for 80 columns where nothing failed."""
    shown = [measure for measure in summary.headline if measure.name != "tow"]
    noted = any(line.note for line in summary.lines)
    heads = ["method", *(f"{m.short} {m.unit if m.unit != 'points' else ''}".strip() for m in shown)]
    rows = [
        [line.label, *(_narrow(line.cells.get(m.name), m) for m in shown), *([line.note] if noted else [])]
        for line in summary.lines
    ]
    seeds = f"mean ± standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else "one seed"
    return f"{summary.name}: {seeds}", [*heads, "note"] if noted else heads, rows


def _narrow(cell: Cell | None, measure: Measure) -> str:
    """Mean and spread without blanks and with one decimal of gaps; of the run time, the mean."""
    if cell is not None and measure.name == TIME.name:
        return text(cell.mean, measure)
    shown = replace(measure, decimals=1) if measure.unit == "points" else measure
    return spread(cell, shown).replace(" ", "")
