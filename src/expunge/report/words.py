"""The report in words: its headline sentences, the configuration and where the numbers come from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.core.registry import Measure
from expunge.report.results import BASELINE, REFERENCE, Results, Row, flatten, unlearning_of
from expunge.report.tables import DISTANCE, RELATIVE, TIME, Line, Part, Summary, measure, spread


@dataclass(frozen=True)
class Sizes:
    """How many examples were to be forgotten, at least and at most, of how many that were learned."""

    least: int
    most: int
    learned: int


def headline(results: Results, summary: Summary, sizes: Sizes | None) -> list[str]:
    """What was forgotten, which method came nearest to retraining, and how the runs ended: a sentence each.

    With several scenarios, which method came nearest is said of each.
    """
    nearest = map(_nearest_of, summary.parts) if summary.several else _nearest(summary)
    return [_task(results, summary, sizes), *nearest, _outcome(results)]


def _task(results: Results, summary: Summary, sizes: Sizes | None) -> str:
    methods = {line.label for line in summary.lines if line.label not in (REFERENCE, BASELINE)}
    chosen = forget_words(results)
    if sizes is None or not sizes.learned:
        what = f"A forget set ({chosen})" if chosen else "A forget set"
        verb = "was"
    else:
        ends = list(dict.fromkeys((sizes.least, sizes.most)))
        count = " to ".join(f"{end:,}" for end in ends)
        share = " to ".join(f"{100 * end / sizes.learned:.3g}%" for end in ends)
        what = f"{count} of {sizes.learned:,} training examples ({share}{f'; {chosen}' if chosen else ''})"
        verb = "were" if sizes.most > 1 else "was"
    seeds = len({row.seed for row in results.rows})
    scenarios = f" in {_count(len(summary.parts), 'scenario')}" if summary.several else ""
    beside = ", compared with retraining" if all(part.table.line(REFERENCE) for part in summary.parts) else ""
    by = f"{_count(len(methods), 'method')} with {_count(seeds, 'seed')}{scenarios}"
    return f"{what} {verb} to be forgotten, by {by}{beside}."


def forget_words(results: Results) -> str:
    """How the forget set was chosen, from the first configuration that says so."""
    found = (_mapping(_mapping(row.config.get("subject")).get("forget")) for row in results.rows)
    data = next(filter(None, found), None)
    if data is None:
        return ""
    try:
        forget = config.plugin_from_data("forget_sets", data)
    except RequestError:  # of a third-party package that is not installed here
        return str(data.get("name", ""))
    return registry.of_config("forget_sets", forget).mark.words(forget) or config.text("forget_sets", forget)


def _mapping(value: object) -> Mapping[str, object]:
    """A JSON object, or an empty one in place of anything else."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _nearest_of(part: Part) -> str:
    """What :func:`_nearest` says of one scenario of several, in one piece."""
    return f"{part.title}: {' '.join(_nearest(part.table))}"


def _nearest(summary: Summary) -> list[str]:
    """The nearest method, those that it cannot be told from, and how the original compares."""
    judge = summary.judge.name
    known = [line for line in summary.lines if line.label not in (REFERENCE, BASELINE) and judge in line.cells]
    baseline = summary.line(BASELINE)
    nothing = baseline.cells.get(judge) if baseline else None
    if not known:
        what = "a distance to retrained weights" if summary.judge.name == RELATIVE else "an average gap"
        return [f"No method has {what}, so none can be ranked: that takes a finished run and a retrained model."]
    best, gap = known[0], known[0].cells[judge]
    sentence = f"{best.label} came nearest to retraining: {_far(best, summary)}{_cost(best, summary)}."
    if baseline is None or nothing is None:
        return [sentence, *_ties(known, summary)]
    if nothing.mean <= gap.mean:
        return [f"No method came nearer to retraining than the original ({_left(baseline, summary)}); {sentence}"]
    return [f"{sentence[:-1]}; the original has {_left(baseline, summary)}.", *_ties(known, summary)]


def _far(line: Line, summary: Summary) -> str:
    """The distance or gap of a method from retraining."""
    cell = line.cells[summary.judge.name]
    if summary.judge.name == RELATIVE:
        return f"its relative distance is {spread(cell, summary.judge)} (that of the original is 1)"
    return f"its average gap is {spread(cell, summary.judge)} points"


def _left(baseline: Line, summary: Summary) -> str:
    """The distance or gap of the original from retraining."""
    if summary.judge.name == RELATIVE:
        return f"a distance of {spread(baseline.cells.get(DISTANCE), measure(DISTANCE))}"
    return f"an average gap of {spread(baseline.cells[summary.judge.name], summary.judge)} points"


def _cost(line: Line, summary: Summary) -> str:
    """The run time as a share or a multiple of retraining's."""
    reference = summary.line(REFERENCE)
    spent, whole = line.cells.get(TIME), reference.cells.get(TIME) if reference else None
    if not spent or not whole or not whole.mean > 0:
        return ""
    share = spent.mean / whole.mean
    return f", in {f'{share:.1f} times' if share > 1 else f'{100 * share:.2g}% of'} the time of retraining"


def _ties(known: Sequence[Line], summary: Summary) -> list[str]:
    """The methods that differ from the nearest by no more than the two standard deviations together."""
    judge = summary.judge
    best = known[0].cells[judge.name]
    near = [
        line.label
        for line in known[1:]
        if (cell := line.cells[judge.name]).mean - best.mean <= (cell.std or 0.0) + (best.std or 0.0)
    ]
    what = "distance" if judge.name == RELATIVE else "gap"
    return (
        [f"The {what} of {_listed(near)} differs from that by no more than the spread between seeds."] if near else []
    )


def _outcome(results: Results) -> str:
    total = len(results.rows)
    failed = [row for row in results.rows if row.status == "failed"]
    pending = sum(row.status == "pending" for row in results.rows)
    verb = "is" if pending == 1 else "are"
    waiting = f" {pending} of {_count(total, 'run')} {verb} pending." if pending else ""
    if failed:
        names = _listed(list(dict.fromkeys(row.label for row in failed)))
        return f"{len(failed)} of {_count(total, 'run')} failed ({names}).{waiting}"
    return waiting.strip() or ("The only run finished." if total == 1 else f"All {total} runs finished.")


def glossary(summary: Summary) -> dict[str, str]:
    """The meaning of each metric of the table that has one, with its limits and its aim, by short name and title."""
    return {
        _term(found): " ".join(filter(None, (found.meaning, _sentence(found.limits, found.aim))))
        for found in summary.measures
        if found.meaning
    }


def _term(found: Measure) -> str:
    """The head of the column and the title; once where they are the same."""
    return found.title if found.label.lower() == found.title.lower() else f"{found.label}, {found.title}"


def _sentence(*parts: str) -> str:
    """The parts that are not empty as one sentence."""
    joined = "; ".join(filter(None, parts))
    return f"{joined[0].upper()}{joined[1:]}." if joined else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def common_configuration(results: Results) -> dict[str, str]:
    """What the runs share: data, model, training and forget set; where they differ, each value."""
    found: dict[str, list[str]] = {}
    for row in results.rows:
        for name, text in _shared(row).items():
            found.setdefault(name, []).append(text)
    return {name: _distinct(texts) for name, texts in found.items()}


def _shared(row: Row) -> dict[str, str]:
    parts = {key: value for key, value in _mapping(row.config.get("subject")).items() if key != "unlearning"}
    metrics = row.config.get("metrics")
    return flatten(parts) | (flatten(metrics, "metrics") if metrics is not None else {})


def method_configurations(results: Results, labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """The configuration of each method, of its first run that has one."""
    by_label = {row.label: flatten(unlearning_of(row)) for row in reversed(results.rows) if unlearning_of(row)}
    return {label: by_label[label] for label in labels if label in by_label}


def provenance(results: Results) -> dict[str, str]:
    """Device, versions, memory and time of the evaluations and of the unlearning that they judge."""
    records = [row.provenance for row in results.rows]
    memory = [value for value in _each(records, "peak_memory_bytes") if isinstance(value, (int, float))]
    starts, ends = ([str(v) for v in _each(records, key)] for key in ("started", "finished"))
    versions = [mapping for value in _each(records, "versions") if (mapping := _mapping(value))]
    names = dict.fromkeys(name for found in versions for name in found)
    shown = {
        "device": _distinct(map(str, _each(records, "device"))),
        "threads": _distinct(map(str, _each(records, "threads"))),
        **{name: _distinct(str(found[name]) for found in versions if name in found) for name in names},
        "revision": _distinct(map(str, _each(records, "git_revision"))),
        "largest memory": f"{max(memory) / 2**20:,.0f} MiB" if memory else "",
        "evaluated": f"{_time(min(starts))} to {_time(max(ends))}" if starts and ends else "",
    }
    return {name: text for name, text in shown.items() if text}


def _each(records: Sequence[Mapping[str, object]], key: str) -> list[object]:
    return [record[key] for record in records if record.get(key) is not None]


def _time(iso: str) -> str:
    """A time of the form 2026-01-31T12:34:56.789+00:00 without fractions."""
    zone = " UTC" if iso.endswith(("+00:00", "Z")) else ""
    return f"{iso[:19].replace('T', ' ')}{zone}"


def _distinct(texts: Iterable[str], most: int = 6) -> str:
    found = list(dict.fromkeys(texts))
    return "; ".join(found[:most]) + (f"; ... ({len(found)} values)" if len(found) > most else "")
