"""The manifest of the data that a model was trained on: each example's id, name, label, split and pixels."""

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data.dataset import Dataset
from expunge.data.image_set import ImageSet, TensorImages
from expunge.data.names import Names
from expunge.data.splits import PartName

SPLITS = ("train", "validation", "test", "unused", "unused test")
"""The splits by number; ``unused`` are those that a limit leaves out."""
DIGEST = 16
"""Bytes of a digest, the first ones of the SHA-256 of the stored pixels."""
TRAINING, VALIDATION, TEST, UNUSED, UNUSED_TEST = range(5)


@dataclass(frozen=True)
class Manifest:
    """The examples of a data source, training side before test side, each in the order of its ids from 0."""

    names: Names
    labels: Tensor
    """int64 (n,), before poisoning."""
    splits: Tensor
    """Positions in :data:`SPLITS`: uint8 (n,)."""
    digests: Tensor
    """Of the stored pixels before poisoning: uint8 (n, 16); zeros for what is not used."""
    class_names: tuple[str, ...]

    @property
    def ids(self) -> Tensor:
        """The id of each example on its side: int64 (n,)."""
        return torch.cat([torch.arange(len(self.names.train)), torch.arange(len(self.names.test))])

    def tensors(self) -> dict[str, Tensor]:
        """Return the manifest as tensors, to be stored; text is UTF-8, separated by zeros."""
        texts = {"train.names": self.names.train, "test.names": self.names.test, "class_names": self.class_names}
        numbers = {"labels": self.labels, "splits": self.splits, "digests": self.digests}
        return {
            key: torch.frombuffer(bytearray("\0".join(value).encode()), dtype=torch.uint8)
            for key, value in texts.items()
        } | numbers


def read(stored: Mapping[str, Tensor]) -> Manifest:
    """Return the manifest that :meth:`Manifest.tensors` gave.

    Raises:
        RequestError: A tensor is missing, or they do not belong together.
    """
    try:
        train, test, classes = (
            tuple(stored[key].numpy().tobytes().decode().split("\0"))
            for key in ("train.names", "test.names", "class_names")
        )
        found = Manifest(Names(train, test), stored["labels"], stored["splits"], stored["digests"], classes)
    except (KeyError, ValueError) as error:
        raise RequestError(
            f"the manifest of the data is damaged ({error}): delete the run and make it again"
        ) from error
    count = len(train) + len(test)
    if not len(found.labels) == len(found.splits) == len(found.digests) == count:
        raise RequestError("the manifest of the data is damaged: delete the run and make it again")
    return found


def of(dataset: Dataset, train: ImageSet, validation: ImageSet, test: ImageSet) -> Manifest:
    """Return the manifest of a data set with names, split into these sets, before poisoning.

    Cost: all pixels are hashed; 60,000 images of 3 x 32 x 32 take 0.8 s of one core, and their manifest 3.3 MB.
    """
    sides = len(dataset.all_labels), len(dataset.all_test_labels)
    splits = torch.cat([torch.full((sides[0],), UNUSED), torch.full((sides[1],), UNUSED_TEST)]).to(torch.uint8)
    digests = torch.zeros(sum(sides), DIGEST, dtype=torch.uint8)
    for number, images, first in ((TRAINING, train, 0), (VALIDATION, validation, 0), (TEST, test, sides[0])):
        places = images.ids.cpu() + first
        splits[places], digests[places] = number, pixel_digests(images)
    labels = torch.cat([dataset.all_labels, dataset.all_test_labels]).cpu()
    return Manifest(Names(dataset.train_names, dataset.test_names), labels, splits, digests, dataset.class_names)


def pixel_digests(images: ImageSet) -> Tensor:
    """Return the digest of each image's stored pixels and their type: uint8 (n, 16)."""
    start = hashlib.sha256(str((images.dtype, images.shape)).encode())
    found = bytearray()
    for batch in images.batches(512):
        # Batches of uint8 images are new tensors, of x / 255.
        inputs = batch.inputs.mul_(255).round_().to(torch.uint8) if images.dtype == torch.uint8 else batch.inputs
        for image in inputs.cpu().contiguous().flatten(1).numpy().view(np.uint8):
            one = start.copy()
            one.update(image)
            found += one.digest()[:DIGEST]
    return torch.frombuffer(found, dtype=torch.uint8).view(-1, DIGEST) if found else torch.empty(0, DIGEST).byte()


@dataclass(frozen=True)
class Aligned:
    """A data set on disk as a manifest knows it."""

    train: ImageSet
    """All training examples of the manifest; the images of missing ones are black."""
    validation: ImageSet
    test: ImageSet
    missing: Tensor
    """The ids of the training examples that are not on disk: int64."""
    notes: Mapping[str, object]
    """How many images are missing, of which splits, and how many are new; empty if the data are unchanged."""


def used(known: Manifest) -> dict[PartName, Set[str]]:
    """Return the names of the examples that a model has seen, of each side: those whose images are needed."""
    numbers, first = known.splits.tolist(), len(known.names.train)
    train = {name for name, split in zip(known.names.train, numbers[:first], strict=True) if split != UNUSED}
    test = {name for name, split in zip(known.names.test, numbers[first:], strict=True) if split != UNUSED_TEST}
    return {"train": train, "test": test}


def align(known: Manifest, dataset: Dataset) -> Aligned:
    """Find the examples of a manifest in a data set by name, and give them the ids and labels of the manifest.

    Raises:
        RequestError: An image that is used has the name of one in the manifest, and other pixels or another label.
    """
    sides = (
        (dataset.train, dataset.train_names, known.names.train, 0, (TRAINING, VALIDATION, UNUSED)),
        (dataset.test, dataset.test_names, known.names.test, len(known.names.train), (TEST, UNUSED_TEST)),
    )
    parts: dict[int, ImageSet] = {}
    lost: dict[int, list[int]] = {}
    new = 0
    for images, present, names, first, numbers in sides:
        there = set(present)
        new += len(there - set(names))
        places = {present[example]: place for place, example in enumerate(images.ids.tolist())}
        splits = known.splits[first : first + len(names)].tolist()
        for number in numbers:
            wanted = [example for example, split in enumerate(splits) if split == number]
            ids = [example for example in wanted if names[example] in places]
            if number in (UNUSED, UNUSED_TEST):
                lost[number] = [example for example in wanted if names[example] not in there]
                continue
            lost[number] = [example for example in wanted if names[example] not in places]
            rows = torch.tensor(ids, dtype=torch.int64) + first
            found = images.select(torch.tensor([places[names[example]] for example in ids], dtype=torch.int64))
            _check(found, dataset.class_names, known, rows, [names[example] for example in ids])
            parts[number] = found.with_ids(rows - first).with_labels(known.labels[rows])
    missing = torch.tensor(lost[TRAINING], dtype=torch.int64)
    train = parts[TRAINING]
    if len(missing):
        shape = (len(missing), *train.shape)
        train = train.merged(TensorImages(torch.zeros(shape, dtype=train.dtype), known.labels[missing], missing))
    gone = {SPLITS[number]: len(ids) for number, ids in lost.items() if ids}
    notes: dict[str, object] = {"missing images": gone} if gone else {}
    return Aligned(train, parts[VALIDATION], parts[TEST], missing, notes | ({"new images": new} if new else {}))


def _check(images: ImageSet, class_names: Sequence[str], known: Manifest, rows: Tensor, names: Sequence[str]) -> None:
    """Raise a RequestError unless these images have the pixels and the classes of these rows of the manifest."""
    changed = (pixel_digests(images) != known.digests[rows]).any(dim=1).tolist()
    labels, before = images.labels.tolist(), known.labels[rows].tolist()
    moved = [class_names[now] != known.class_names[then] for now, then in zip(labels, before, strict=True)]
    for found, what in ((changed, "other pixels"), (moved, "another label")):
        which = [name for name, wrong in zip(names, found, strict=True) if wrong]
        if which:
            more = f" and {len(which) - 5} more" if len(which) > 5 else ""
            raise RequestError(
                f"{len(which)} images have {what} than when the model was trained: {', '.join(which[:5])}{more}; "
                "restore them, or train again"
            )


def described(dataset: Dataset, known: Manifest, found: Aligned) -> Dataset:
    """Return the data set with the classes of the manifest, the training images and the test images that it knows."""
    names = tuple(known.names.train[each] for each in found.train.ids.tolist())
    tests = tuple(known.names.test[each] for each in found.test.ids.tolist())
    return replace(
        dataset,
        train=found.train,
        test=found.test,
        class_names=known.class_names,
        train_names=names,
        test_names=tests,
        train_labels=None,
        test_labels=None,
    )
