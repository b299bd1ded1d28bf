"""The comparison as one table: mean and spread over seeds, and the gap to the retrained model.

The gap of a method in a metric is the mean over seeds of ``|value - value of retraining with the same seed|``:
zero means that the method cannot be told from retraining by this metric. Methods are compared within a scenario:
on the same original models, say, or on the same ones pruned.
"""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import polars as pl

from expunge.core import registry
from expunge.core.registry import Measure
from expunge.report.results import BASELINE, PLAIN, REFERENCE, Results, Row

GAP = "average_gap"
"""The metric by which methods are ranked."""
RELATIVE = "weight_distance.relative_to_nothing"
"""The metric by which they are ranked after recorded trainings."""
DISTANCE = "weight_distance.to_reference"
TIME = "run_time.total"
SPARSITY = "sparsity"
TOW = "tow"


@dataclass(frozen=True)
class Cell:
    """One metric of one method over its n finished seeds."""

    n: int
    mean: float
    std: float | None
    """Sample standard deviation over seeds; None for one seed."""
    gap: float | None
    """Mean absolute difference from retraining; None without a retrained model, or where it is undefined."""


@dataclass(frozen=True)
class Line:
    """One method: how many of its runs finished, and its metrics."""

    label: str
    finished: int
    total: int
    failures: tuple[str, ...] = ()
    """The distinct reasons of its failed runs."""
    failed: int = 0
    cells: Mapping[str, Cell] = field(default_factory=dict[str, Cell])
    scenario: str = ""

    @property
    def note(self) -> str:
        """Which of its runs failed or are pending; empty if none."""
        pending = self.total - self.finished - self.failed
        parts = [f"{self.failed} of {self.total} failed: {'; '.join(self.failures)}"] if self.failed else []
        return "; ".join([*parts, f"{pending} of {self.total} pending"] if pending else parts)


@dataclass(frozen=True)
class Summary:
    """The table: methods in order (retraining, the original, then by nearness to retraining), and metrics in order.

    With several scenarios, the methods of the first come first, then those of the second, and so on.
    """

    name: str
    lines: tuple[Line, ...]
    measures: tuple[Measure, ...]

    @property
    def headline(self) -> tuple[Measure, ...]:
        """The metrics of the main table; all of them where none is known."""
        return tuple(measure for measure in self.measures if measure.headline) or self.measures

    @property
    def judge(self) -> Measure:
        """The metric by which methods are ranked."""
        return measure(RELATIVE if any(m.name == RELATIVE and m.headline for m in self.measures) else GAP)

    def line(self, label: str) -> Line | None:
        """The line of a method, in the first scenario that has it."""
        return next((line for line in self.lines if line.label == label), None)

    @property
    def parts(self) -> tuple["Part", ...]:
        """The table of each scenario, in order."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.scenario, []).append(line)
        return tuple(Part(scenario, replace(self, lines=tuple(lines))) for scenario, lines in found.items())

    @property
    def several(self) -> bool:
        """Whether there is more than one scenario, so that each must be named."""
        return len(self.parts) > 1

    @property
    def noted(self) -> bool:
        """Whether some method has a note on its runs."""
        return any(line.note for line in self.lines)

    @property
    def seeds(self) -> int:
        """The largest number of runs of any method."""
        return max((line.total for line in self.lines), default=0)


@dataclass(frozen=True)
class Part:
    """One scenario of a comparison."""

    scenario: str
    table: Summary

    @property
    def title(self) -> str:
        """The name of the scenario, with the sparsity of its models if they are sparse."""
        name = spoken(self.scenario)
        return f"{name} ({self.sparsity:.1f}% sparse)" if self.sparsity else name

    @property
    def sparsity(self) -> float | None:
        """The mean sparsity, in percent, of its original models; of all its models where those are not there."""
        found = {line.label: line.cells[SPARSITY].mean for line in self.table.lines if SPARSITY in line.cells}
        return found.get(BASELINE, fmean(found.values())) if found else None


def spoken(scenario: str) -> str:
    """The displayed name of a scenario: never empty, and with a blank after each comma."""
    return re.sub(r",\s*", ", ", scenario or PLAIN)


def summarise(results: Results) -> Summary:
    """Mean, sample standard deviation and gap of every metric of every method.

    Methods are ranked by the average gap; where trainings were recorded, so that retraining uses the same
    batches and the distance of weights is meaningful, by that distance, which then stands in the main table.
    """
    cells = _cells(results.rows)
    names = {name for found in cells.values() for name in found}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        groups.setdefault((row.scenario, row.label), []).append(row)
    lines = [_line(*key, rows, cells.get(key, {})) for key, rows in groups.items()]
    place = {scenario: number for number, scenario in enumerate(results.scenarios)}
    found = Summary(results.name, tuple(lines), _measures(names, results.recorded))
    ranked = sorted(lines, key=lambda line: (place[line.scenario], _rank(line, found.judge)))
    return replace(found, lines=tuple(ranked))


def _rank(line: Line, judge: Measure) -> tuple[int, float, str]:
    first = {REFERENCE: 0, BASELINE: 1}.get(line.label, 2)
    return (first, line.cells[judge.name].mean if judge.name in line.cells else math.inf, line.label)


def _line(scenario: str, label: str, rows: Sequence[Row], cells: Mapping[str, Cell]) -> Line:
    failed = [row for row in rows if row.status == "failed"]
    reasons = tuple(dict.fromkeys(" ".join((row.reason or "").split()) for row in failed))
    finished = sum(row.status == "finished" for row in rows)
    return Line(label, finished, len(rows), reasons, len(failed), cells, scenario)


def values(rows: Sequence[Row]) -> pl.DataFrame:
    """Every value of every finished row: scenario, label, seed, metric, value.

    Beside sparse models, those without a sparsity are dense: theirs is 0.
    """
    dense: dict[str, float | None] = {SPARSITY: 0.0} if any(SPARSITY in row.metrics for row in rows) else {}
    found = [
        (row.scenario, row.label, row.seed, name, value)
        for row in rows
        if row.status == "finished"
        for name, value in {**dense, **row.metrics}.items()
        if value is not None
    ]
    columns = {"scenario": pl.String, "label": pl.String, "seed": pl.Int64}
    schema = {**columns, "metric": pl.String, "value": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row")


def statistics(long: pl.DataFrame) -> pl.DataFrame:
    """Scenario, label, metric, n, mean, std and gap from the values of :func:`values`."""
    retrained = long.filter(pl.col("label") == REFERENCE)
    same = ["scenario", "seed", "metric"]
    reference = retrained.group_by(same).agg(pl.col("value").mean().alias("reference"))
    beside = long.join(reference, on=same, how="left")
    return (
        beside.with_columns((pl.col("value") - pl.col("reference")).abs().alias("gap"))
        .group_by("scenario", "label", "metric", maintain_order=True)
        .agg(
            pl.len().alias("n"),
            pl.col("value").mean().alias("mean"),
            pl.col("value").std(ddof=1).alias("std"),
            pl.col("gap").mean(),
        )
    )


def _cells(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Cell]]:
    """The cells of each scenario and label, by metric."""
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for scenario, label, name, n, mean, std, gap in statistics(values(rows)).rows():
        compared = measure(name).compared
        found.setdefault((scenario, label), {})[name] = Cell(n, mean, std, gap if compared else None)
    return found


def _measures(names: set[str], recorded: bool) -> tuple[Measure, ...]:
    """How to show these metrics: those of the main table in its order, then the others, those of nobody last."""
    hidden = {TOW} if recorded else {DISTANCE, RELATIVE}
    described = [found for name, found in registry.measures().items() if name in names]
    described.sort(key=lambda found: math.inf if found.column is None else found.column)
    known = [replace(found, column=None) if found.name in hidden else found for found in described]
    return (*known, *map(measure, sorted(names - {found.name for found in known})))


def measure(name: str) -> Measure:
    """How to show the metric of that name, by the decorator of its plug-in; by its name where none describes it."""
    return registry.measures().get(name) or Measure(name.replace("_", " ").replace(".", ": "), name=name)


MISSING = "\N{EN DASH}"
"""What stands for a value that is not there."""


def text(value: float | None, measure: Measure) -> str:
    """A value of a metric as tables show it."""
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
    """Those of the metric; else as many as give three significant digits, at most four (three for seconds)."""
    if measure.decimals is not None:
        return measure.decimals
    size = math.floor(math.log10(abs(value))) if value else 0
    return min(3 if measure.unit == "s" else 4, max(0, 2 - size))


def _with_gap(cell: Cell | None, measure: Measure, reference: bool) -> str:
    """Mean, spread and, in parentheses, the gap to retraining."""
    shown = spread(cell, measure)
    return shown if cell is None or cell.gap is None or reference else f"{shown} ({text(cell.gap, measure)})"


def csv(summary: Summary) -> str:
    """One line per method with unrounded numbers: ``<metric>.mean``, ``.std`` and ``.gap`` for every metric.

    With several scenarios, the first column names them.
    """
    records = [
        ({"scenario": part.scenario or PLAIN} if summary.several else {}) | _record(line, summary.measures)
        for part in summary.parts
        for line in part.table.lines
    ]
    return pl.DataFrame(records, infer_schema_length=None).write_csv()


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


def _body(summary: Summary, lines: Sequence[Line], escape: Callable[[str], str]) -> list[list[str]]:
    """The cells of these lines of the main table as escaped text, with a last column of notes where there are any."""
    return [
        [
            escape(line.label),
            *(escape(_with_gap(line.cells.get(m.name), m, line.label == REFERENCE)) for m in summary.headline),
            *([escape(line.note)] if summary.noted else []),
        ]
        for line in lines
    ]


def _heads(summary: Summary) -> list[str]:
    return ["Method", *(measure.head for measure in summary.headline), *(["Note"] if summary.noted else [])]


def legend(summary: Summary, where: str = "in parentheses") -> str:
    """What the numbers of the table are, in a phrase; ``where`` says where the gap stands."""
    seeds = f"mean ± sample standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else "one seed"
    compared = any(cell.gap is not None for line in summary.lines for cell in line.cells.values())
    same = " of the same scenario" if summary.several else ""
    return f"{seeds}; {where} the mean absolute gap to the retrained model{same}" if compared else seeds


def markdown(summary: Summary) -> str:
    """The main table in Markdown; with several scenarios, the first column names them."""
    heads = _heads(summary)
    align = ["---", *["---:"] * len(summary.headline), "---"][: len(heads)]
    rows = [["Scenario", *heads], ["---", *align]]
    for part in summary.parts:
        name = _markdown_escaped(part.title)
        rows += [[name, *row] for row in _body(summary, part.table.lines, _markdown_escaped)]
    shown = rows if summary.several else [row[1:] for row in rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in shown)
    return f"{table}\n\n{_markdown_escaped(summary.name)}: {legend(summary)}.\n"


def _markdown_escaped(value: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|~$" else sign for sign in " ".join(value.split()))


def latex(summary: Summary) -> str:
    """The main table in LaTeX; it needs the package booktabs. With several scenarios, each has a row with its name."""
    heads = [_latex_escaped(head) for head in _heads(summary)]
    columns = "l" + "r" * len(summary.headline) + "l" * (len(heads) - 1 - len(summary.headline))
    body: list[str] = []
    for part in summary.parts:
        name = rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{_latex_escaped(part.title)}}}}}"
        rule = [r"\midrule"] if body else []
        body += [*rule, rf"{name} \\"] if summary.several else []
        body += [_latex_row(row) for row in _body(summary, part.table.lines, _latex_escaped)]
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% {' '.join(summary.name.split())}: {legend(summary).replace('±', '+-')}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule", _latex_row(heads), r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", MISSING: "--", "[": "{[}", "]": "{]}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def _latex_escaped(value: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(value.split()))


def terminal(summary: Summary) -> tuple[str, list[str], list[list[str]]]:
    """A title, column heads and rows of text, narrow enough for 80 columns where nothing failed.

    With several scenarios, each begins with rows that hold its name only (with attacks, 80 columns may not do).
    """
    left_out = {TOW, *(LEFT_OUT if summary.judge.name == RELATIVE else ())}
    shown = [measure for measure in summary.headline if measure.name not in left_out]
    heads = ["method", *(f"{m.short} {m.unit if m.unit != 'points' else ''}".strip() for m in shown)]
    heads += ["note"] if summary.noted else []
    indent = INDENT if summary.several else ""
    rows: list[list[str]] = []
    for part in summary.parts:
        rows += [[words, *[""] * (len(heads) - 1)] for words in _wrapped(part, summary)]
        for line in part.table.lines:
            cells = [_narrow(line.cells.get(measure.name), measure) for measure in shown]
            rows.append([f"{indent}{line.label}", *cells, *([line.note] if summary.noted else [])])
    seeds = f"mean ± standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else "one seed"
    return f"{summary.name}: {seeds}", heads, rows


LEFT_OUT = ("remaining_accuracy", "test_accuracy", "membership_svc.confidence")
"""The metrics for which a terminal has no room where methods are ranked by the distance of their weights."""
INDENT = "  "
"""What stands before a method below the name of its scenario."""


def _wrapped(part: Part, summary: Summary) -> list[str]:
    """The title of a scenario in lines no wider than the first column, after an empty one except at the top."""
    if not summary.several:
        return []
    wide = max(20, *(len(line.label) + len(INDENT) for line in summary.lines))
    lines = textwrap.wrap(part.title, wide)
    return lines if part == summary.parts[0] else ["", *lines]


def _narrow(cell: Cell | None, measure: Measure) -> str:
    """Mean and spread without blanks and with one decimal of gaps; the mean alone of times, attacks and distances."""
    if cell is not None and measure.name in (TIME, DISTANCE, "attack_success_rate"):
        return text(cell.mean, measure)
    shown = replace(measure, decimals=1) if measure.unit == "points" else measure
    return spread(cell, shown).replace(" ", "")
