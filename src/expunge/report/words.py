"""The report in words: its headline sentences, the configuration and where the numbers come from."""

from collections.abc import Iterable, Sequence

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.report.results import BASELINE, REFERENCE, Results, flatten, part
from expunge.report.tables import DISTANCE, RELATIVE, TIME, Summary, measure, spread


def headline(results: Results, summary: Summary, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """What was forgotten, which method is nearest to retraining, and how the runs ended: a sentence each.

    With several scenarios, which method is nearest is said of each. ``sizes``: of each model, how many examples
    it was to forget and how many the original was trained on.
    """
    if summary.several:
        nearest = [f"{each.title}: {' '.join(_nearest(each.table))}" for each in summary.parts]
    else:
        nearest = _nearest(summary)
    return [_task(results, summary, sizes), *nearest, _outcome(results)]


def _task(results: Results, summary: Summary, sizes: Sequence[tuple[int, int]]) -> str:
    methods = {line.label for line in summary.lines if line.label not in (REFERENCE, BASELINE)}
    chosen = forget_words(results)
    learned = max((learned for _, learned in sizes), default=0)
    ends = list(dict.fromkeys(bound(forgotten for forgotten, _ in sizes) for bound in (min, max) if learned))
    if learned:
        share = " to ".join(f"{100 * end / learned:.3g}%" for end in ends)
        what = f"{' to '.join(f'{end:,}' for end in ends)} of {learned:,} training examples"
        what += f" ({share}; {chosen})" if chosen else f" ({share})"
    else:
        what = f"A forget set ({chosen})" if chosen else "A forget set"
    verb = "were" if learned and ends[-1] > 1 else "was"
    by = f"{_count(len(methods), 'method')} with {_count(len({row.seed for row in results.rows}), 'seed')}"
    scenarios = f" in {_count(len(summary.parts), 'scenario')}" if summary.several else ""
    beside = ", compared with retraining" if all(each.table.line(REFERENCE) for each in summary.parts) else ""
    return f"{what} {verb} to be forgotten, by {by}{scenarios}{beside}."


def forget_words(results: Results) -> str:
    """How the forget set was chosen, from the first configuration that says so."""
    data = next(filter(None, (part(row.config, "subject", "forget") for row in results.rows)), None)
    if data is None:
        return ""
    try:
        forget = config.plugin_from_data("forget_sets", data)
    except RequestError:  # of a third-party package that is not installed here
        return str(data.get("name", ""))
    return registry.of_config("forget_sets", forget).mark.words(forget) or config.text("forget_sets", forget)


def _nearest(summary: Summary) -> list[str]:
    """The method nearest to retraining, how the original compares, and the methods within the spread between seeds."""
    ranking, relative = summary.ranking, summary.ranking.name == RELATIVE
    known = [line for line in summary.lines if line.label not in (REFERENCE, BASELINE) and ranking.name in line.cells]
    if not known:
        what = "a distance to retrained weights" if relative else "an average gap"
        return [f"No method has {what}, so none can be ranked: that takes a finished run and a retrained model."]
    gaps = {line.label: line.cells[ranking.name] for line in known}
    best = known[0]
    gap = gaps[best.label]
    far = f"its average gap is {spread(gap, ranking)} points"
    if relative:
        far = f"its relative distance is {spread(gap, ranking)} (that of the original is 1)"

    reference = summary.line(REFERENCE)
    spent, whole = best.cells.get(TIME), reference.cells.get(TIME) if reference else None
    cost = ""
    if spent and whole and whole.mean > 0:
        share = spent.mean / whole.mean
        cost = f", in {f'{share:.1f} times' if share > 1 else f'{100 * share:.2g}% of'} the time of retraining"
    sentence = f"{best.label} is nearest to retraining: {far}{cost}"

    baseline = summary.line(BASELINE)
    if baseline is not None and ranking.name in baseline.cells:
        left = f"an average gap of {spread(baseline.cells[ranking.name], ranking)} points"
        if relative:
            left = f"a distance of {spread(baseline.cells.get(DISTANCE), measure(DISTANCE))}"
        if baseline.cells[ranking.name].mean <= gap.mean:
            return [f"No method is nearer to retraining than the original ({left}); {sentence}."]
        sentence += f"; the original has {left}"
    near = [
        label
        for label, cell in gaps.items()
        if label != best.label and cell.mean - gap.mean <= (cell.std or 0.0) + (gap.std or 0.0)
    ]
    if not near:
        return [f"{sentence}."]
    what = "distance" if relative else "gap"
    tie = f"The {what} of {_listed(near)} differs from that by no more than the spread between seeds."
    return [f"{sentence}.", tie]


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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def glossary(summary: Summary) -> dict[str, str]:
    """The meaning of each metric of the table that has one, with its limits and its aim, by short name and title."""
    found: dict[str, str] = {}
    for each in summary.measures:
        if each.meaning:
            term = each.title if each.label.lower() == each.title.lower() else f"{each.label}, {each.title}"
            limits = "; ".join(filter(None, (each.limits, each.aim)))
            found[term] = f"{each.meaning} {limits[0].upper()}{limits[1:]}." if limits else each.meaning
    return found


def common_configuration(results: Results) -> dict[str, str]:
    """What the runs share: data, model, training and forget set; where they differ, each value."""
    found: dict[str, list[str]] = {}
    for row in results.rows:
        shared = {key: value for key, value in part(row.config, "subject").items() if key != "unlearning"}
        metrics = row.config.get("metrics")
        texts = flatten(shared) | (flatten(metrics, "metrics") if metrics is not None else {})
        for name, text in texts.items():
            found.setdefault(name, []).append(text)
    return {name: _values(texts) for name, texts in found.items()}


def method_configurations(results: Results, labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """The configuration of each method, of its first run that has one."""
    options = [(row.label, part(row.config, "subject", "unlearning")) for row in reversed(results.rows)]
    by_label = {label: flatten(found) for label, found in options if found}
    return {label: by_label[label] for label in labels if label in by_label}


def provenance(results: Results) -> dict[str, str]:
    """Device, versions, memory and time of the evaluations."""
    records = [row.provenance for row in results.rows]
    names = dict.fromkeys(name for record in records for name in record.versions)
    memory = max((record.peak_memory_bytes or 0.0 for record in records), default=0.0)
    starts = [record.started for record in records if record.started]
    ends = [record.finished for record in records if record.finished]
    shown = {
        "device": _values(record.device for record in records),
        "threads": _values(record.threads for record in records),
        **{name: _values(record.versions.get(name) for record in records) for name in names},
        "revision": _values(record.git_revision for record in records),
        "largest memory": f"{memory / 2**20:,.0f} MiB" if memory else "",
        "evaluated": f"{_time(min(starts))} to {_time(max(ends))}" if starts and ends else "",
    }
    return {name: text for name, text in shown.items() if text}


def _time(iso: str) -> str:
    """A time of the form 2026-01-31T12:34:56.789+00:00 without fractions."""
    zone = " UTC" if iso.endswith(("+00:00", "Z")) else ""
    return f"{iso[:19].replace('T', ' ')}{zone}"


def _values(values: Iterable[object], most: int = 6) -> str:
    """The distinct values that are known, of many the first ones."""
    found = list(dict.fromkeys(str(value) for value in values if value is not None))
    return "; ".join(found[:most]) + (f"; ... ({len(found)} values)" if len(found) > most else "")
