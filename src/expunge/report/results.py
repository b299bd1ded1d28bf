"""What a folder of runs holds, as rows: one evaluation of one method at one seed each.

Numbers and configurations are read at once; the steps and predictions behind a row, which may be large,
when :func:`history` and :func:`predictions` are called.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.evaluation.predictions import FORGOTTEN, Predictions, parted, stored_predictions
from expunge.store.directory import Record, RunDirectory, Store, read_json
from expunge.store.run import expanded

_RECORD = "subject.original.training.record"

Status = Literal["finished", "failed", "pending"]

REFERENCE = "retrain"
"""The label of the reference: the model retrained without the forget set."""

BASELINE = "original"
"""The label of the original: the model before unlearning."""

PLAIN = "dense"
"""The name of the scenario whose text is empty, beside others."""


@dataclass(frozen=True)
class Row:
    """One evaluation: a method at a seed."""

    label: str
    """The method, as tables name it."""
    seed: int
    """The seed of the unlearning."""
    status: Status
    """How the run stands; one in progress counts as pending."""
    reason: str | None = None
    """Why it failed."""
    metrics: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    """Values by full name; None where a value is missing or not finite."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Wall-clock seconds by phase."""
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    """The configuration of the evaluation, as in ``config.json``."""
    run: str | None = None
    """The id of the evaluation."""
    subject: str | None = None
    """The id of the unlearning that it judges."""
    provenance: Mapping[str, object] = field(default_factory=dict[str, object])
    """Device, threads, versions, revision, memory and times, as in ``run.json``."""
    scenario: str = ""
    """What sets its original model apart, such as how it was pruned; empty for none."""


@dataclass(frozen=True)
class Results:
    """Every evaluation of a folder."""

    folder: Path
    name: str
    rows: tuple[Row, ...]

    @property
    def labels(self) -> list[str]:
        """The methods, in the order in which they first appear."""
        return list(dict.fromkeys(row.label for row in self.rows))

    @property
    def scenarios(self) -> list[str]:
        """The scenarios, in the order in which they first appear."""
        return list(dict.fromkeys(row.scenario for row in self.rows))

    @property
    def recorded(self) -> bool:
        """Whether the trainings were recorded, so that retraining repeats them without the forget set."""
        found = [text for row in self.rows for name, text in flatten(row.config).items() if name == _RECORD]
        return bool(found) and all(text == "true" for text in found)

    def first(self, label: str, scenario: str | None = None) -> Row | None:
        """The finished row of a method with the lowest seed, in a scenario or in any."""
        finished = [row for row in self.rows if row.label == label and row.status == "finished"]
        wanted = [row for row in finished if scenario is None or row.scenario == scenario]
        return min(wanted, key=lambda row: row.seed, default=None)


@dataclass(frozen=True)
class Losses:
    """The loss of each role at each of n steps: float64 (n,), NaN where the role was absent."""

    by_role: Mapping[str, Tensor]

    def __len__(self) -> int:
        """The number of steps."""
        return max((len(values) for values in self.by_role.values()), default=0)


def load(folder: Path) -> Results:
    """The evaluations of a folder: those that ``bench.json`` lists, else all that are there.

    The status in a run directory takes precedence, because the list of a killed bench may be out of date.

    Raises:
        RequestError: The folder holds no evaluations, or a file in it is missing or garbled.
    """
    manifest = folder / "bench.json"
    listed = manifest.is_file()
    rows = _listed(folder, manifest) if listed else _distinct([_found(run) for run in _evaluations(folder)])
    if not rows:
        raise RequestError(f"{folder} holds no evaluations: run `expunge bench` or `expunge evaluate` into it first")
    name = _text(read_json(manifest).get("name"), manifest, "name") if listed else folder.resolve().name
    return Results(folder, name, tuple(rows))


def history(results: Results, row: Row) -> Losses:
    """The losses of the unlearning behind a finished row, step by step.

    Raises:
        RequestError: The file is missing or garbled; the message names it and the line.
    """
    path = results.folder / (row.subject or "") / "history.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read ({error}): delete its folder and run it again") from error
    steps = [_losses_of_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    roles = list(dict.fromkeys(role for step in steps for role in step))
    values = {role: [step.get(role, math.nan) for step in steps] for role in roles}
    return Losses({role: torch.tensor(found, dtype=torch.float64) for role, found in values.items()})


def predictions(results: Results, row: Row) -> dict[str, Predictions]:
    """The predictions behind a finished row on the forget, retain, validation and test set.

    Raises:
        RequestError: The file is missing, garbled or incomplete.
    """
    directory = RunDirectory(results.folder / (row.subject or ""))
    try:
        splits, stored = stored_predictions(directory)
        found = {name: _fitting(splits[name], name) for name in ("train", "validation", "test")}
        return parted(found, stored[FORGOTTEN])
    except RequestError:
        raise
    except (KeyError, ValueError) as error:
        path = directory.path / "predictions.safetensors"
        raise RequestError(f"{path} is incomplete ({error}): delete {directory.path} and run it again") from error


def _fitting(found: Predictions, name: str) -> Predictions:
    if found.logits.ndim != 2 or not len(found.logits) == len(found.labels) == len(found.ids):
        raise ValueError(f"{name}: logits, labels and ids do not fit together")
    if len(found) and not 0 <= int(found.labels.min()) <= int(found.labels.max()) < found.logits.shape[1]:
        raise ValueError(f"{name}: a label has no logit")
    return found


def _losses_of_line(line: str, path: Path, number: int) -> dict[str, float]:
    try:
        losses = _mapping(json.loads(line)["loss"], path, "loss")
        return {role: math.nan if value is None else float(cast("float", value)) for role, value in losses.items()}
    except (ValueError, KeyError, TypeError) as error:
        cure = "delete its folder and run it again"
        raise RequestError(f"{path}, line {number}, is no record of a step: {cure}") from error


def _evaluations(folder: Path) -> list[RunDirectory]:
    return [run for run in Store(folder).all() if run.record().get("kind") == "evaluate"]


def _listed(folder: Path, manifest: Path) -> list[Row]:
    """The rows that ``bench.json`` lists."""
    entries = read_json(manifest).get("entries")
    if not isinstance(entries, list):
        raise RequestError(f"{manifest} lists no entries: run the same `expunge bench` again")
    found = (_mapping(entry, manifest, "entries") for entry in cast("list[object]", entries))
    return [_of_entry(folder, manifest, entry) for entry in found]


def _of_entry(folder: Path, manifest: Path, entry: Mapping[str, object]) -> Row:
    label, seed = _text(entry.get("label"), manifest, "label"), _whole(entry.get("seed"), manifest, "seed")
    scenario = _text(entry.get("scenario") or "", manifest, "scenario")
    run = cast("str | None", entry.get("run"))
    directory = RunDirectory(folder / run) if run else None
    if directory is not None and (directory.exists or entry.get("status") == "finished"):
        return replace(_found(directory), label=label, seed=seed, scenario=scenario)
    subject = cast("str | None", entry.get("subject"))
    status: Status = "failed" if entry.get("status") == "failed" else "pending"
    reason = str(entry.get("reason") or "for no stated reason") if status == "failed" else None
    config = _config_of(folder, subject)
    return Row(label, seed, status, reason, config=config, run=run, subject=subject, scenario=scenario)


def _config_of(folder: Path, subject: str | None) -> dict[str, object]:
    """What is known of the configuration of an evaluation that was never made: that of its subject, if there."""
    path = folder / (subject or "") / "config.json"
    return {"subject": expanded(RunDirectory(path.parent))} if subject and path.is_file() else {}


def _found(directory: RunDirectory) -> Row:
    """The row of an evaluation that is there, finished or failed."""
    path = directory.path / "run.json"
    record, config = directory.record(), expanded(directory)
    status = record.get("status")
    if status not in ("finished", "failed"):
        cure = "delete its folder and run it again"
        raise RequestError(f"{path}: status should be finished or failed, not {status!r}; {cure}")
    seconds = _numbers(record.get("seconds", {}), path, "seconds")
    return Row(
        label=_text(record.get("label"), path, "label"),
        seed=_seed(config, directory.path / "config.json"),
        status=cast("Status", status),
        reason=str(record.get("reason") or "for no stated reason") if status == "failed" else None,
        metrics=_numbers(record.get("metrics", {}), path, "metrics"),
        seconds={name: value for name, value in seconds.items() if value is not None},
        config=config,
        run=directory.id,
        subject=cast("str | None", _mapping(record.get("parents", {}), path, "parents").get("subject")),
        provenance={name: record.get(name) for name in _PROVENANCE},
        scenario=_text(record.get("scenario") or "", path, "scenario"),
    )


_PROVENANCE = ("device", "threads", "versions", "git_revision", "peak_memory_bytes", "started", "finished")


def _seed(config: Record, path: Path) -> int:
    return _whole(_mapping(config.get("subject"), path, "subject").get("seed"), path, "seed")


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """The rows with labels that tell apart what is not the same method with another seed.

    Where a label stands for several configurations, those are told apart by the options in which they differ;
    where one label and seed still occur twice in a scenario, by the run.
    """
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    told = [row for group in by_label.values() for row in _told_apart(group)]
    times = Counter(map(_place, told))
    named = [
        replace(row, label=f"{row.label} {(row.run or '')[-12:]}") if times[_place(row)] > 1 else row for row in told
    ]
    return sorted(named, key=_place)


def _place(row: Row) -> tuple[str, int, str]:
    return row.scenario, row.seed, row.label


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    options = [flatten(unlearning_of(row)) for row in rows]
    keys = sorted({key for found in options for key in found})
    differing = [key for key in keys if len({found.get(key) for found in options}) > 1]
    if not differing:
        return list(rows)
    names = {key: key.removeprefix("method.") for key in differing}
    told = [",".join(f"{name}={found.get(key, 'none')}" for key, name in names.items()) for found in options]
    return [replace(row, label=f"{row.label}:{text}") for row, text in zip(rows, told, strict=True)]


def unlearning_of(row: Row) -> Mapping[str, object]:
    """The part of a row's configuration that says how it unlearns."""
    subject = row.config.get("subject")
    found = cast("Mapping[str, object]", subject).get("unlearning") if isinstance(subject, Mapping) else None
    return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {}


def flatten(value: object, prefix: str = "") -> dict[str, str]:
    """Nested JSON as texts by dotted name, in its order; a long list is cut short."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        parts = (flatten(part, f"{prefix}.{name}" if prefix else name) for name, part in items)
        return {name: text for part in parts for name, text in part.items()}
    if isinstance(value, list):
        return _flatten_list(cast("list[object]", value), prefix)
    return {prefix: _word(value)}


def _word(value: object) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _flatten_list(values: list[object], prefix: str, most: int = 12) -> dict[str, str]:
    if any(isinstance(value, Mapping) for value in values):
        return flatten({str(number): value for number, value in enumerate(values, start=1)}, prefix)
    shown = ", ".join(_word(value) for value in values[:most])
    return {prefix: f"{shown}, ... ({len(values)} in all)" if len(values) > most else shown or "none"}


def _numbers(value: object, path: Path, key: str) -> dict[str, float | None]:
    found = _mapping(value, path, key)
    return {name: _number(number, path, name) for name, number in found.items()}


def _number(value: object, path: Path, key: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{path}: {key} should be a number, got {value!r}; delete its folder and run it again")
    return float(value) if math.isfinite(value) else None


def _mapping(value: object, path: Path, key: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{path}: {key} should be a JSON object, got {value!r}; delete it and run it again")
    return cast("Mapping[str, object]", value)


def _text(value: object, path: Path, key: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{path}: {key} should be text, got {value!r}; delete it and run it again")
    return value


def _whole(value: object, path: Path, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{path}: {key} should be a whole number, got {value!r}; delete it and run it again")
    return value
