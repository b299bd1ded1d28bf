"""Give every training example of a model a score: its influence on the test loss, for example."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge.cli import _console
from expunge.core import checks, config
from expunge.runs.score import ScoreConfig
from expunge.store import execute
from expunge.store.directory import RunDirectory
from expunge.store.examples import names_of


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge score`."""

    run: _console.RunPath
    """The run of `expunge train` whose examples are scored."""
    score: Annotated[str, tyro.conf.Positional]
    """The score, see `expunge list scores`; options follow a colon: trajectory_influence:of=logits,ids=3+17."""
    top: int = 5
    """How many of the highest and of the lowest to print."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write all of them here too, a line for each example."""
    seed: int = 0
    """Seed of random choices within the score."""


def run(arguments: Sequence[str]) -> int:
    """Score, or find the run that exists already."""
    given = _console.parse(Arguments, "score", __doc__, arguments)
    checks.at_least(1, top=given.top)
    store, original = _console.open_original(given.run)
    wanted = ScoreConfig(original, config.parse("scores", given.score), given.seed)
    with _console.session(given, [wanted]) as session:
        directory = execute.run(wanted, store, session)
    if given.csv is not None:
        _write(directory, given.csv)
    if given.json:
        _console.print_json({"run": str(directory.path), **directory.record()})
        return 0
    for title, rows in _extremes(directory, given.top):
        _console.print_table(title, ("id", "name", "label", "score"), rows)
    print(directory.path)
    return 0


def _extremes(directory: RunDirectory, top: int) -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """For each score, the examples with the highest and the lowest."""
    found = directory.tensors("scores")
    ids, labels = found.pop("ids").tolist(), found.pop("labels").tolist()
    names = names_of(directory)
    tables: list[tuple[str, list[tuple[str, str, str, str]]]] = []
    for name, values in found.items():
        order = values.argsort(descending=True).tolist()
        for word, chosen in (("highest", order[:top]), ("lowest", order[::-1][:top])):
            rows = [(str(ids[at]), names.of(ids[at]), str(labels[at]), f"{float(values[at]):.4g}") for at in chosen]
            tables.append((f"{name}, {word}", rows))
    return tables


def _write(directory: RunDirectory, path: Path) -> None:
    found = directory.tensors("scores")
    columns = ["ids", "labels", *(name for name in found if name not in ("ids", "labels"))]
    names = names_of(directory)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "name", "label", *columns[2:]])
        for example, *rest in zip(*(found[name].tolist() for name in columns), strict=True):
            writer.writerow([example, names.of(example), *map(repr, rest)])
