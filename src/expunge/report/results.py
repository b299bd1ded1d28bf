"""The evaluations in a folder of runs, as rows: one method at one seed each.

Numbers and configurations are read by :func:`load`; losses and predictions, which may be large, only by
:func:`history` and :func:`predictions`.
"""

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor

from expunge.core import files, registry
from expunge.core.config import from_data, plugin_from_data
from expunge.core.errors import RequestError
from expunge.evaluation.predictions import FORGOTTEN, WITHHELD, Predictions, parted, stored_predictions
from expunge.store.directory import RunDirectory, Store
from expunge.store.run import expanded

T = TypeVar("T")

REFERENCE = "retrain"
"""The label of the reference: the model retrained without the forget set."""

BASELINE = "original"
"""The label of the original: the model before unlearning."""

_CURE = "delete its folder and run it again"

PLAIN = "dense"
"""The displayed name of the scenario whose name is empty."""


@dataclass(frozen=True)
class Provenance:
    """Where and when a run was made, as in ``run.json``."""

    device: str | None = None
    threads: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    git_revision: str | None = None
    peak_memory_bytes: float | None = None
    started: str | None = None
    finished: str | None = None


@dataclass(frozen=True)
class Row:
    """One evaluation: a method at a seed."""

    label: str
    """The method, as tables name it."""
    seed: int
    """The seed of the unlearning."""
    status: Literal["finished", "failed", "pending"]
    """The state of the run; one in progress counts as pending."""
    reason: str | None = None
    """Why it failed."""
    metrics: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    """Values by full name; None where a value is missing or not finite."""
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    """The configuration of the evaluation, as in ``config.json``."""
    run: str | None = None
    """The id of the evaluation."""
    subject: str | None = None
    """The id of the unlearning that it evaluates."""
    provenance: Provenance = Provenance()
    scenario: str = ""
    """What distinguishes its original model, such as how it was pruned; empty for none."""
    unchanged: bool = False
    """Whether the unlearning hardly changed the outputs on the forget set, as it noted."""


@dataclass(frozen=True)
class Results:
    """Every evaluation of a folder."""

    folder: Path
    name: str
    rows: tuple[Row, ...]

    @property
    def scenarios(self) -> list[str]:
        """The scenarios, in the order in which they first appear."""
        return list(dict.fromkeys(row.scenario for row in self.rows))

    @property
    def recorded(self) -> bool:
        """Whether the trainings were recorded, and every reference repeats its own without the forget set.

        Only then do the weights of a model and of its reference begin at the same place, so that their distance
        means something.
        """
        trainings = [part(row.config, "subject", "original", "training") for row in self.rows]
        found = [training["record"] for training in trainings if "record" in training]
        retrained = [part(row.config, "reference", "unlearning", "method") for row in self.rows]
        found += [method.get("recorded", False) for method in retrained if method]
        return bool(found) and all(record is True for record in found)

    def first(self, label: str, scenario: str | None = None) -> Row | None:
        """The finished row of a method with the lowest seed, in a scenario or in any."""
        finished = [row for row in self.rows if row.label == label and row.status == "finished"]
        wanted = [row for row in finished if scenario is None or row.scenario == scenario]
        return min(wanted, key=lambda row: row.seed, default=None)


@dataclass(frozen=True)
class Entry:
    """An entry of ``bench.json``: a method at a seed."""

    label: str
    seed: int
    scenario: str = ""
    run: str | None = None
    subject: str | None = None
    status: str = "pending"
    reason: str | None = None


@dataclass(frozen=True)
class Manifest:
    """``bench.json``."""

    name: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Record:
    """``run.json`` of an evaluation."""

    status: Literal["finished", "failed"]
    label: str
    scenario: str = ""
    reason: str | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    parents: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class SubjectConfig:
    """The configuration of an unlearning."""

    seed: int


@dataclass(frozen=True)
class Step:
    """A line of ``history.jsonl``."""

    loss: Mapping[str, float | None]


def load(folder: Path) -> Results:
    """The evaluations of a folder: those that ``bench.json`` lists, else all that are there.

    The status in a run directory takes precedence, because the list of a killed bench may be out of date.

    Raises:
        RequestError: The folder holds no evaluations, or a file in it is missing or damaged.
    """
    path = folder / "bench.json"
    if path.is_file():
        manifest = _structured(Manifest, _read(path), path)
        rows = [_listed(folder, entry) for entry in manifest.entries]
        name = manifest.name
    else:
        rows = _distinct([_found(run) for run in Store(folder).all() if run.record().get("kind") == "evaluate"])
        name = folder.resolve().name
    if not rows:
        raise RequestError(f"{folder} holds no evaluations: run `expunge bench` or `expunge evaluate` into it first")
    return Results(folder, name, tuple(rows))


def _listed(folder: Path, entry: Entry) -> Row:
    """The row of an entry of ``bench.json``."""
    directory = Store(folder).directory(entry.run) if entry.run else None
    if directory is not None and (directory.exists or entry.status == "finished"):
        return replace(_found(directory), label=entry.label, seed=entry.seed, scenario=entry.scenario)
    failed = entry.status == "failed"
    subject = Store(folder).directory(entry.subject) if entry.subject else None
    return Row(
        label=entry.label,
        seed=entry.seed,
        status="failed" if failed else "pending",
        reason=(entry.reason or "for no stated reason") if failed else None,
        config={"subject": expanded(subject)} if subject is not None and subject.exists else {},
        run=entry.run,
        subject=entry.subject,
        scenario=entry.scenario,
    )


def _found(directory: RunDirectory) -> Row:
    """The row of a finished or failed evaluation."""
    path = directory.path / "run.json"
    directory.record()
    data, config = _read(path), expanded(directory)
    record = _structured(Record, data, path)
    return Row(
        label=record.label,
        seed=_structured(SubjectConfig, config.get("subject"), directory.path / "config.json").seed,
        status=record.status,
        reason=(record.reason or "for no stated reason") if record.status == "failed" else None,
        metrics=record.metrics,
        config=config,
        run=directory.id,
        subject=record.parents.get("subject"),
        provenance=_structured(Provenance, data, path),
        scenario=record.scenario,
        unchanged=record.label != BASELINE and bool(part(data, "notes").keys() & {"unchanged", "hardly_changed"}),
    )


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """The rows, sorted, with labels that differ wherever more than the seed differs.

    Where several configurations have one label, the options in which they differ are added to it; where one label
    and seed still occur twice in a scenario, the end of the run's id.
    """
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    named: list[Row] = []
    for label, group in by_label.items():
        options = [flatten(part(row.config, "subject", "unlearning")) for row in group]
        keys = sorted({key for found in options for key in found})
        differing = [key for key in keys if len({found.get(key) for found in options}) > 1]
        for row, found in zip(group, options, strict=True):
            told = ",".join(f"{key.removeprefix('method.')}={found.get(key, 'none')}" for key in differing)
            named.append(replace(row, label=f"{label}:{told}") if told else row)

    def place(row: Row) -> tuple[str, int, str]:
        return row.scenario, row.seed, row.label

    times = Counter(map(place, named))
    distinct = [
        replace(row, label=f"{row.label} {(row.run or '')[-12:]}") if times[place(row)] > 1 else row for row in named
    ]
    return sorted(distinct, key=place)


def history(results: Results, row: Row) -> dict[str, Tensor]:
    """The losses of the unlearning of a finished row by role: float64 (steps,), NaN where a role was absent.

    Raises:
        RequestError: The file is missing or damaged; the message names it and the line.
    """
    path = Store(results.folder).directory(row.subject or "").file("history.jsonl")
    lines = enumerate(files.text(path, _CURE).splitlines(), start=1)
    texts = {f"{path}, line {number},": line for number, line in lines if line.strip()}
    steps = [_structured(Step, _json(line, where), where).loss for where, line in texts.items()]
    roles = dict.fromkeys(role for step in steps for role in step)
    values = {role: [step.get(role) for step in steps] for role in roles}
    return {
        role: torch.tensor([math.nan if loss is None else loss for loss in found], dtype=torch.float64)
        for role, found in values.items()
    }


def predictions(results: Results, row: Row) -> dict[str, Predictions]:
    """The predictions of the model of a finished row on the forget, retain, validation and test set.

    Raises:
        RequestError: The file is missing, damaged or incomplete.
    """
    directory = Store(results.folder).directory(row.subject or "")
    try:
        splits, stored = stored_predictions(directory)
        for name in ("train", "validation", "test"):
            found = splits[name]
            if found.logits.ndim != 2 or not len(found.logits) == len(found.labels) == len(found.ids):
                raise ValueError(f"{name}: logits, labels and ids have different lengths")
            if len(found) and not 0 <= int(found.labels.min()) <= int(found.labels.max()) < found.logits.shape[1]:
                raise ValueError(f"{name}: a label has no logit")
        return parted(splits, stored[FORGOTTEN], stored.get(WITHHELD))
    except RequestError:
        raise
    except (KeyError, ValueError) as error:
        path = directory.path / "predictions.safetensors"
        raise RequestError(f"{path} is incomplete ({error}): {directory.cure}") from error


def sees_validation(row: Row) -> bool:
    """Whether the method of a row reads validation images, or one before it in a chain, by what their decorators say.

    A method whose package is not installed here counts as one that does not.
    """
    place = part(row.config, "subject")
    while "unlearning" in place:
        with suppress(RequestError):
            method = plugin_from_data("methods", part(place, "unlearning").get("method"))
            sees = registry.of_config("methods", method).mark.validation(method)
            if sees or part(place, "unlearning").get("reach") is not None:
                return True
        place = part(place, "original")
    return False


def part(value: object, *keys: str) -> Mapping[str, object]:
    """The JSON object under these keys of nested ones; empty where there is none."""
    for key in keys:
        value = cast("Mapping[str, object]", value).get(key) if isinstance(value, Mapping) else None
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def flatten(value: object, prefix: str = "", most: int = 12) -> dict[str, str]:
    """Nested JSON as texts by dotted name, in its order; of a long list, the first ``most``."""
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    if any(isinstance(each, Mapping) for each in values):
        numbered = {str(number): each for number, each in enumerate(values, start=1)}
        items = cast("Mapping[str, object]", value if isinstance(value, Mapping) else numbered).items()
        parts = (flatten(each, f"{prefix}.{name}" if prefix else name) for name, each in items)
        return {name: text for part in parts for name, text in part.items()}
    words = [each if isinstance(each, str) else "none" if each is None else json.dumps(each) for each in values[:most]]
    more = [f"... ({len(values)} in all)"] if len(values) > most else []
    return {prefix: ", ".join([*words, *more]) or ("none" if not values else "")}


def _json(text: str, where: object) -> object:
    """Parsed JSON, with None in place of NaN and infinities."""
    return files.parse_json(text, where, _CURE, constants=False)


def _read(path: Path) -> object:
    return files.read_json(path, _CURE, constants=False)


def _structured(kind: type[T], data: object, where: object) -> T:
    """The fields of a dataclass from a JSON object, which may have others."""
    names = [found.name for found in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    if not isinstance(data, Mapping):
        raise RequestError(f"{where} should be a JSON object, got {data!r}: delete it and run it again")
    try:
        return from_data(kind, {name: data[name] for name in names if name in data})
    except RequestError as error:
        raise RequestError(f"{where} is damaged ({error}): delete it and run it again") from error
