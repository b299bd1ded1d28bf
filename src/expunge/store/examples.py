"""The examples of a run: their names, labels and splits, and which were forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from expunge.core import config
from expunge.data import manifest
from expunge.data.forget_sets.ids import ListedForget
from expunge.data.manifest import SPLITS, Manifest
from expunge.data.names import Names
from expunge.store.directory import RunDirectory, Store

FEW = 20
"""Duplicates that are written as a forget set."""
MANIFEST = "manifest"
"""The file of the manifest, in the folder of the run that begins a chain."""


@dataclass(frozen=True)
class Example:
    """One example of a run or a data source."""

    id: int
    name: str
    label: int
    split: str
    """``train``, ``validation``, ``test``, or, where a limit leaves it out, ``unused`` or ``unused test``."""
    forgotten: bool = False


def first_run(directory: RunDirectory) -> RunDirectory:
    """Return the run that begins the chain of a run: a training or an import."""
    while True:
        parents = directory.record().get("parents")
        before = parents.get("original", parents.get("subject")) if isinstance(parents, dict) else None
        if not isinstance(before, str):
            return directory
        directory = Store(directory.path.parent).directory(before)


def stored_manifest(directory: RunDirectory) -> Manifest | None:
    """Read the manifest of the data of a run; None if they have no names.

    Raises:
        RequestError: It is damaged.
    """
    first = first_run(directory)
    return manifest.read(first.tensors(MANIFEST)) if (first.path / f"{MANIFEST}.safetensors").is_file() else None


def names_of(directory: RunDirectory) -> Names:
    """Return the names of the examples of a run."""
    known = stored_manifest(directory)
    return Names() if known is None else known.names


def forgotten_words(directory: RunDirectory) -> str:
    """Return in words how many examples an unlearning forgot, a few of their names, and what else there is to know."""
    ids = directory.tensor("predictions", "step.ids")
    chosen = torch.empty(0, dtype=torch.int64) if ids is None else ids
    found = [f"forgotten: {len(chosen)} examples ({names_of(directory).few(chosen)})"]
    gone = lacked_images(directory)
    if gone:
        counts = ", ".join(f"{count} {split}" for split, count in gone.items())
        found.append(f"not on disk, and without predictions: {counts} images")
    if new := _notes(directory).get("new images"):
        found.append(f"{new} images on disk that the model does not know are ignored")
    return "; ".join(found)


def duplicate_words(directory: RunDirectory, forget: str) -> str:
    """Return in words which forget examples have exact duplicates in the retain set, and the cure; empty if none has.

    ``forget`` is the text of the forget set.
    """
    found = cast("Mapping[str, list[int]]", _notes(directory).get("duplicates", {}))
    if not found:
        return ""
    names, retained = names_of(directory), found["retain"]
    also = ListedForget(tuple(names.of(each) if names.train else each for each in retained))
    cure = f"--forget 'union:({forget})+({config.text('forget_sets', also)})'"
    if len(retained) > FEW:
        cure = f"their ids are in {directory.path / 'run.json'}, notes.duplicates.retain"
    return (
        f"{len(found['forget'])} forgotten examples ({names.few(torch.tensor(found['forget']))}) have exact duplicates "
        f"in the retain set ({names.few(torch.tensor(retained))}), from which the model still learns the same; forget "
        f"these too: {cure}"
    )


def lacked_images(directory: RunDirectory) -> dict[str, int]:
    """Return how many images of each split were not on disk when the run was made."""
    return cast("dict[str, int]", _notes(directory).get("missing images", {}))


def _notes(directory: RunDirectory) -> Mapping[str, object]:
    notes = directory.record().get("notes")
    return cast("Mapping[str, object]", notes if isinstance(notes, dict) else {})


def examples_of(directory: RunDirectory, forgotten: Tensor) -> list[Example]:
    """Return the examples of a run, training side first, each in the order of its ids.

    Raises:
        RequestError: A file of the run is missing or damaged.
    """
    known, gone = stored_manifest(directory), set(forgotten.tolist())
    if known is not None:
        rows = zip(
            known.ids.tolist(),
            (*known.names.train, *known.names.test),
            known.labels.tolist(),
            known.splits.tolist(),
            strict=True,
        )
        return [
            Example(each, name, label, SPLITS[split], split == manifest.TRAINING and each in gone)
            for each, name, label, split in rows
        ]
    stored, found = directory.tensors("predictions"), list[Example]()
    for split in ("train", "validation", "test"):
        pairs = zip(stored[f"{split}.ids"].tolist(), stored[f"{split}.labels"].tolist(), strict=True)
        found += [Example(each, str(each), label, split, split == "train" and each in gone) for each, label in pairs]
    return sorted(found, key=lambda example: (example.split == "test", example.id))
