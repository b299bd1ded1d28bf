"""The examples of a run or of a data source: ids to names and names to ids."""

import csv
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch

from expunge.cli import _console
from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.data.dataset import Dataset
from expunge.data.id_lists import read_examples
from expunge.data.names import Names
from expunge.evaluation.predictions import FORGOTTEN
from expunge.store.directory import RunDirectory
from expunge.store.examples import Example, examples_of

SHOWN = 20
"""Rows that are printed without ``--all``."""
WIDTH = 40
"""Characters of a name that are printed, the last ones."""


def find(words: Sequence[str]) -> list[Example]:
    """Return the examples of RUN or DATA, the first word: those that the other words name, or all.

    Raises:
        RequestError: There is no such run or data source, or no such example.
    """
    if not words:
        raise RequestError("say of which run or data source: expunge list ids RUN|DATA [NAME or id ...]")
    folder = Path(words[0])
    if (folder / "run.json").is_file():
        run = RunDirectory(folder.resolve())
        stored = run.tensor("predictions", FORGOTTEN) if (folder / "predictions.safetensors").is_file() else None
        found = examples_of(run, torch.empty(0) if stored is None else stored)
    else:
        found = _of_source(words[0])
    return _chosen(found, words[1:]) if len(words) > 1 else found


def _of_source(text: str) -> list[Example]:
    source = config.parse("data", text)
    dataset = cast("Dataset", registry.of_config("data", source).call(source))
    sides = (("train", dataset.train, dataset.train_names), ("test", dataset.test, dataset.test_names))
    return [
        Example(each, names[each] if names else str(each), label, split)
        for split, images, names in sides
        for each, label in zip(images.ids.tolist(), images.labels.tolist(), strict=True)
    ]


def _chosen(examples: Sequence[Example], words: Iterable[str]) -> list[Example]:
    """The training examples with these ids, and the examples with these names."""
    listed = [each for word in words for each in read_examples(word)]
    named = any(example.name != str(example.id) for example in examples)
    sides = [[each for each in examples if each.split.endswith("test") is test] for test in (False, True)]
    names = Names(*(tuple(each.name for each in side) for side in sides)) if named else Names()
    found: list[Example] = []
    for each in listed:
        if not named or isinstance(each, int):
            found += [example for example in sides[0] if example.id == each]
            if not found or found[-1].id != each:
                raise RequestError(f"there is no training example with the id {each}")
            continue
        name = names.find(each)
        if name is None:
            raise RequestError(names.unknown([each]))
        test, example = names.by_name[name]
        found.append(sides[test][example])
    return found


def show(examples: Sequence[Example], everything: bool) -> None:
    """Print a table of the examples, and how many there are in each split."""
    shown = examples if everything else examples[:SHOWN]
    rows = [
        (str(each.id), _short(each.name), str(each.label), each.split, "forgotten" if each.forgotten else "")
        for each in shown
    ]
    _console.print_table("", ("id", "name", "label", "split", ""), rows)
    counts = Counter(each.split for each in examples)
    said = ", ".join(f"{count} {split}" for split, count in counts.items())
    forgotten = sum(each.forgotten for each in examples)
    print(f"{len(examples)} examples: {said}{f', {forgotten} forgotten' if forgotten else ''}")
    if len(shown) < len(examples):
        _console.say(f"{len(examples) - len(shown)} more are not shown: --all prints them, --csv and --json too")


def _short(name: str) -> str:
    return name if len(name) <= WIDTH else f"...{name[3 - WIDTH :]}"


def write_csv(examples: Sequence[Example]) -> None:
    """Print all examples as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Example)])
    writer.writerows(dataclasses.astuple(example) for example in examples)
