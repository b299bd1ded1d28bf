"""The comparison as one table: mean and spread over seeds, and the gap to the retrained model.

The gap of a method in a metric is the mean over seeds of ``|value - value of retraining with the same seed|``:
at zero, the metric does not distinguish the method from retraining. Methods are compared within a scenario: on the
same original models, for example, or on the same pruned ones.
"""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import polars as pl

from expunge.core import registry
from expunge.core.registry import Measure
from expunge.metrics.average_gap import PARTS, gap_of_means
from expunge.report.results import BASELINE, PLAIN, REFERENCE, Results, Row, sees_validation

GAP = "average_gap"
"""The metric by which methods are ranked."""
RELATIVE = "weight_distance.relative_to_nothing"
"""The metric by which they are ranked after recorded trainings."""
DISTANCE = "weight_distance.to_reference"
TIME = "run_time.total"
SPARSITY = "sparsity"
TOW = "tow"
OF_MEANS = Measure(
    "gap between the means over seeds",
    "lower",
    name="gap_of_means",
    short="Gap of means",
    unit="points",
    range=(0, 100),
    retrained=0,
    meaning="Gaps in UA, RA, TA and MIA between the means over seeds of the method and of retraining, averaged; beside "
    "it, the mean of the four population standard deviations over seeds. So DualOptim's code defines its average gap. "
    "Gaps of single seeds to either side cancel in it, and in the average gap they do not.",
    column=61,
    decimals=2,
)
"""The average gap of other code, which only a whole table has."""
SEEN = "\N{DAGGER}"
"""The sign at the name of a method that sees validation images."""
UNCHANGED = "\N{ALMOST EQUAL TO}"
"""The sign at the name of a method that hardly changed the forget set."""


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
    validation: bool = False
    """Whether some of its runs have seen validation images."""
    unchanged: bool = False
    """Whether some of its runs hardly changed the outputs on the forget set."""

    @property
    def shown(self) -> str:
        """The label with its signs."""
        signs = {SEEN: self.validation, UNCHANGED: self.unchanged}
        return " ".join([self.label, *(sign for sign, shown in signs.items() if shown)])

    @property
    def note(self) -> str:
        """Which of its runs failed or are pending; empty if none."""
        pending = self.total - self.finished - self.failed
        parts = [f"{self.failed} of {self.total} failed: {'; '.join(self.failures)}"] if self.failed else []
        return "; ".join([*parts, f"{pending} of {self.total} pending"] if pending else parts)


@dataclass(frozen=True)
class Summary:
    """The table: methods in order (retraining, the original, then by distance from retraining), and metrics in order.

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
    def ranking(self) -> Measure:
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
        name = displayed(self.scenario)
        return f"{name} ({self.sparsity:.1f}% sparse)" if self.sparsity else name

    @property
    def sparsity(self) -> float | None:
        """The mean sparsity, in percent, of its original models; of all its models without them."""
        found = {line.label: line.cells[SPARSITY].mean for line in self.table.lines if SPARSITY in line.cells}
        return found.get(BASELINE, fmean(found.values())) if found else None


def displayed(scenario: str) -> str:
    """The displayed name of a scenario: never empty, and with a blank after each comma."""
    return re.sub(r",\s*", ", ", scenario or PLAIN)


def summarise(results: Results) -> Summary:
    """Mean, sample standard deviation and gap of every metric of every method.

    Methods are ranked by the average gap; where trainings were recorded, so that retraining uses the same
    batches and the distance of weights is meaningful, by that distance, which is then in the main table.
    """
    cells = _cells(results.rows)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        groups.setdefault((row.scenario, row.label), []).append(row)
    lines: list[Line] = []
    for (scenario, label), rows in groups.items():
        failed = [row for row in rows if row.status == "failed"]
        reasons = tuple(dict.fromkeys(" ".join((row.reason or "").split()) for row in failed))
        finished = sum(row.status == "finished" for row in rows)
        found, seen = cells.get((scenario, label), {}), any(map(sees_validation, rows))
        same = any(row.unchanged for row in rows)
        lines.append(Line(label, finished, len(rows), reasons, len(failed), found, scenario, seen, same))
    names = {name for found in cells.values() for name in found}
    unranked = Summary(results.name, tuple(lines), _measures(names, results.recorded))
    ranking = unranked.ranking.name

    def rank(line: Line) -> tuple[int, int, float, str]:
        first = {REFERENCE: 0, BASELINE: 1}.get(line.label, 2)
        distance = line.cells[ranking].mean if ranking in line.cells else math.inf
        return results.scenarios.index(line.scenario), first, distance, line.label

    return replace(unranked, lines=tuple(sorted(lines, key=rank)))


def _cells(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Cell]]:
    """The cells of each scenario and label, by metric.

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
    names = {"scenario": pl.String, "label": pl.String, "seed": pl.Int64, "metric": pl.String, "value": pl.Float64}
    values = pl.DataFrame(found, schema=names, orient="row")
    same = ["scenario", "seed", "metric"]
    retrained = values.filter(pl.col("label") == REFERENCE).group_by(same).agg(reference=pl.col("value").mean())
    statistics = (
        values.join(retrained, on=same, how="left")
        .group_by("scenario", "label", "metric", maintain_order=True)
        .agg(
            n=pl.len(),
            mean=pl.col("value").mean(),
            std=pl.col("value").std(ddof=1),
            gap=(pl.col("value") - pl.col("reference")).abs().mean(),
        )
    )
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    for scenario, label, name, n, mean, std, gap in statistics.rows():
        cell = Cell(n, mean, std, gap if measure(name).compared else None)
        cells.setdefault((scenario, label), {})[name] = cell
    for (scenario, label), values in _finished(rows).items():
        reference = _finished(rows).get((scenario, REFERENCE))
        if reference and len(values) > 1:
            wanted = [fmean(column) for column in zip(*reference, strict=True)]
            cells[scenario, label][OF_MEANS.name] = Cell(len(values), *gap_of_means(values, wanted), None)
    return cells


def _finished(rows: Sequence[Row]) -> dict[tuple[str, str], list[list[float]]]:
    """The parts of the average gap of the finished seeds that have all of them, by scenario and label."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for row in rows:
        values = [value for part in PARTS if (value := row.metrics.get(part)) is not None]
        if row.status == "finished" and len(values) == len(PARTS):
            found.setdefault((row.scenario, row.label), []).append(values)
    return found


def _measures(names: set[str], recorded: bool) -> tuple[Measure, ...]:
    """How to show these metrics: those of the main table in its order, then others, then those not described."""
    hidden = {TOW} if recorded else {DISTANCE, RELATIVE}  # to weights of another initialisation: the same for all
    described = [found for name, found in _described().items() if name in names]
    described.sort(key=lambda found: math.inf if found.column is None else found.column)
    known = [replace(found, column=None) if found.name in hidden else found for found in described]
    return (*known, *map(measure, sorted(names - {found.name for found in known})))


def measure(name: str) -> Measure:
    """How to show the metric of that name, by the decorator of its plug-in; by its name where none describes it."""
    return _described().get(name) or Measure(name.replace("_", " ").replace(".", ": "), name=name)


def _described() -> dict[str, Measure]:
    return registry.measures() | {OF_MEANS.name: OF_MEANS}


MISSING = "\N{EN DASH}"
"""The text of a missing value."""


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
    """Whether a value is written without an exponent."""
    fine = abs(value) >= 1e-3 or measure.unit == "s" or measure.decimals is not None
    return value == 0 or (abs(value) < 1e6 and fine)


def _decimals(value: float, measure: Measure) -> int:
    """Those of the metric; else as many as give three significant digits, at most four (three for seconds)."""
    if measure.decimals is not None:
        return measure.decimals
    size = math.floor(math.log10(abs(value))) if value else 0
    return min(3 if measure.unit == "s" else 4, max(0, 2 - size))


def _cell(value: object) -> object:
    """A value of a CSV file: text that a spreadsheet would take as a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def csv(summary: Summary) -> str:
    """One line per method with unrounded numbers: ``<metric>.mean``, ``.std`` and ``.gap`` for every metric.

    With several scenarios, the first column names them.
    """
    records: list[dict[str, object]] = []
    for line in summary.lines:
        record: dict[str, object] = {"scenario": line.scenario or PLAIN} if summary.several else {}
        record |= {"method": line.label, "finished": line.finished, "failed": line.failed}
        record |= {"total": line.total, "note": line.note, "sees_validation": line.validation}
        record |= {"hardly_changed": line.unchanged}
        for measure in summary.measures:
            cell = line.cells.get(measure.name)
            record[f"{measure.name}.mean"] = cell.mean if cell else None
            record[f"{measure.name}.std"] = cell.std if cell else None
            if measure.compared:
                record[f"{measure.name}.gap"] = cell.gap if cell else None
        records.append({key: _cell(value) for key, value in record.items()})
    return pl.DataFrame(records, infer_schema_length=None).write_csv()


def _heads(summary: Summary) -> list[str]:
    return ["Method", *(measure.head for measure in summary.headline), *(["Note"] if summary.noted else [])]


def _texts(line: Line, summary: Summary) -> list[str]:
    """A line of the main table: label, mean, spread and gap of each metric, and a note where some line has one."""
    texts = [line.shown]
    for measure in summary.headline:
        cell = line.cells.get(measure.name)
        gap = cell.gap if cell and line.label != REFERENCE else None
        texts.append(spread(cell, measure) + ("" if gap is None else f" ({text(gap, measure)})"))
    return [*texts, line.note] if summary.noted else texts


def legend(summary: Summary, where: str = "in parentheses") -> str:
    """What the numbers of the table are; ``where`` says where the gap is shown."""
    seeds = f"mean ± sample standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else "one seed"
    compared = any(cell.gap is not None for line in summary.lines for cell in line.cells.values())
    same = " of the same scenario" if summary.several else ""
    gaps = f"{where} the mean absolute gap to the retrained model{same}" if compared else ""
    means = f"{OF_MEANS.short}: gap ± mean population standard deviation of four metrics"
    means = means if any(OF_MEANS.name in line.cells for line in summary.lines) else ""
    return "; ".join(filter(None, (seeds, gaps, means, footnote(summary))))


def footnote(summary: Summary) -> str:
    """What the signs at the names of methods say; empty where there are none."""
    signs = {
        f"{SEEN} sees validation images: what is measured or searched on these flatters it": "validation",
        f"{UNCHANGED} hardly changed the forget set: `expunge evaluate` says how to make it stronger": "unchanged",
    }
    return "; ".join(text for text, name in signs.items() if any(getattr(line, name) for line in summary.lines))


def markdown(summary: Summary) -> str:
    """The main table in Markdown; with several scenarios, the first column names them."""
    heads = _heads(summary)
    rows = [["Scenario", *heads], ["---", "---", *["---:"] * len(summary.headline), "---"][: len(heads) + 1]]
    for part in summary.parts:
        rows += [
            [_markdown_escaped(each) for each in (part.title, *_texts(line, summary))] for line in part.table.lines
        ]
    shown = rows if summary.several else [row[1:] for row in rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in shown)
    return f"{table}\n\n{_markdown_escaped(summary.name)}: {legend(summary)}.\n"


def _markdown_escaped(value: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|~$" else sign for sign in " ".join(value.split()))


def latex(summary: Summary) -> str:
    """The main table in LaTeX; it needs the package booktabs. With several scenarios, each has a row with its name."""
    heads = _heads(summary)
    columns = "l" + "r" * len(summary.headline) + "l" * (len(heads) - 1 - len(summary.headline))
    body: list[str] = []
    for part in summary.parts:
        if summary.several:
            name = rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{_latex_escaped(part.title)}}}}} \\"
            body += [r"\midrule", name] if body else [name]
        body += [_latex_row(_texts(line, summary)) for line in part.table.lines]
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% {' '.join(summary.name.split())}: {legend(summary).replace('±', '+-').replace(SEEN, _LATEX[SEEN])}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule", _latex_row(heads), r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_escaped, cells)) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", SEEN: r"\dag{}", MISSING: "--", "[": "{[}", "]": "{]}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def _latex_escaped(value: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(value.split()))


def terminal(summary: Summary) -> tuple[str, list[str], list[list[str]]]:
    """A title, column heads and rows of text, narrow enough for 80 columns where nothing failed.

    With several scenarios, each begins with rows that hold its name only. With attacks, it may be wider.
    """
    left_out = {TOW, OF_MEANS.name, *(LEFT_OUT if summary.ranking.name == RELATIVE else ())}
    shown = [measure for measure in summary.headline if measure.name not in left_out]
    heads = ["method", *(f"{m.short} {m.unit if m.unit != 'points' else ''}".strip() for m in shown)]
    heads += ["note"] if summary.noted else []
    indent = "  " if summary.several else ""
    width = max([20, *(len(indent) + len(line.shown) for line in summary.lines)])
    rows: list[list[str]] = []
    for part in summary.parts:
        if summary.several:
            titles = [*([""] if rows else []), *textwrap.wrap(part.title, width)]
            rows += [[title, *[""] * (len(heads) - 1)] for title in titles]
        for line in part.table.lines:
            cells = [_narrow(line.cells.get(measure.name), measure) for measure in shown]
            rows.append([f"{indent}{line.shown}", *cells, *([line.note] if summary.noted else [])])
    seeds = f"mean ± standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else "one seed"
    return f"{summary.name}: {'; '.join(filter(None, (seeds, footnote(summary))))}", heads, rows


LEFT_OUT = ("remaining_accuracy", "test_accuracy", "membership_svc.confidence")
"""The metrics for which a terminal has no room where methods are ranked by the distance of their weights."""


def _narrow(cell: Cell | None, measure: Measure) -> str:
    """Mean and spread without blanks and with one decimal of gaps; the mean alone of times, attacks and distances."""
    if cell is not None and measure.name in (TIME, DISTANCE, "attack_success_rate"):
        return text(cell.mean, measure)
    shown = replace(measure, decimals=1) if measure.unit == "points" else measure
    return spread(cell, shown).replace(" ", "")
