"""What is to be known of a data set before training: counts, sizes, unreadable files, duplicates, normalisation."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.data import _pictures, duplicates, image_files
from expunge.data.dataset import Dataset
from expunge.data.duplicates import Near
from expunge.data.image_set import ImageSet, make
from expunge.data.manifest import pixel_digests
from expunge.data.sources import folder
from expunge.data.sources.folder import FolderConfig


@dataclass(frozen=True)
class Part:
    """What the check keeps of some images of one shape."""

    digests: Tensor
    """Of the stored pixels: uint8 (n, 16)."""
    copies: Tensor
    """Small grey copies: float32 (n, 256)."""
    moments: Tensor
    """The sum of the pixels in [0, 1], and of their squares, per channel: float64 (2, channels)."""
    shape: tuple[int, ...]
    """As stored, before any resizing."""
    dtype: str


@dataclass(frozen=True)
class Side:
    """The readable images of the training side or of the test side."""

    parts: tuple[Part, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    """Ids as text where the source has no names."""
    unreadable: dict[str, str]
    """The names of files that cannot be decoded, and why."""
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """One of several images that are alike."""

    name: str
    split: str
    label: str


@dataclass(frozen=True)
class Alike:
    """Images that are exact or near duplicates of each other."""

    members: tuple[Member, ...]
    similarity: float

    @property
    def conflict(self) -> bool:
        """Whether they have different labels."""
        return len({each.label for each in self.members}) > 1

    @property
    def leak(self) -> bool:
        """Whether one is in the training and another in the test set."""
        return len({each.split for each in self.members}) > 1


@dataclass(frozen=True)
class Findings:
    """What was found in a data set."""

    classes: dict[str, dict[str, int]]
    """The number of training (``train``) and test (``test``) images of each class."""
    sizes: dict[str, int]
    """The number of images of each size, as ``32 x 32, colour``."""
    dtypes: tuple[str, ...]
    unreadable: dict[str, str]
    exact: tuple[Alike, ...]
    near: tuple[Alike, ...]
    """Pairs, the most alike first, without exact duplicates."""
    near_complete: bool
    """Whether all near duplicates are listed: the search ends at a million."""
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Mean and deviation per channel of the training images in [0, 1] if uint8; None if their channels differ."""


def check(source: object, alike: float = duplicates.ALIKE) -> Findings:
    """Read a data source whole and list what is in it; image folders are read file by file, to find damaged ones.

    Cost: one digest and one small copy an image, and the search for near duplicates (:func:`duplicates.near`).

    Raises:
        RequestError: It cannot be read at all.
    """
    train, test = _of_folder(source) if isinstance(source, FolderConfig) else _of_source(source)
    parts = (*train.parts, *test.parts)
    members = [
        Member(name, split, side.classes[label])
        for split, side in (("train", train), ("test", test))
        for name, label in zip(side.names, side.labels, strict=True)
    ]
    digests, copies = torch.empty(0, 16, dtype=torch.uint8), torch.empty(0, duplicates.SIDE**2)
    digests = torch.cat([digests, *(part.digests for part in parts)])
    copies = torch.cat([copies, *(part.copies for part in parts)])
    exact = duplicates.groups(digests)
    copies[[position for group in exact for position in group[1:]]] = 0  # one image stands for its exact copies
    pairs: Near = duplicates.near(copies, alike)
    counts = Counter((each.label, each.split) for each in members)
    sizes = Counter[str]()
    for part in parts:
        sizes[_size(part.shape)] += len(part.digests)
    return Findings(
        {name: {split: counts[name, split] for split in ("train", "test")} for name in train.classes},
        dict(sizes.most_common()),
        tuple(sorted({part.dtype for part in parts})),
        train.unreadable | test.unreadable,
        tuple(Alike(tuple(members[each] for each in group), 1.0) for group in exact),
        tuple(
            Alike((members[one], members[other]), similarity)
            for (one, other), similarity in zip(pairs.pairs.tolist(), pairs.similarities.tolist(), strict=True)
        ),
        pairs.complete,
        _normalisation(train.parts),
    )


def _of_source(source: object) -> tuple[Side, Side]:
    """Both sides of a data set."""
    found = cast("Dataset", registry.of_config("data", source).call(source))
    train, test = (
        Side(
            (_part(images),),
            tuple(images.labels.tolist()),
            names or tuple(map(str, images.ids.tolist())),
            {},
            found.class_names,
        )
        for images, names in ((found.train, found.train_names), (found.test, found.test_names))
    )
    return train, test


def _of_folder(config: FolderConfig) -> tuple[Side, Side]:
    """Both sides of an image folder, whose images may be damaged or differ in size."""
    root, classes, *sides = folder.listed(config)
    train, test = (_read(root, classes, labelled, config.size) for labelled in sides)
    return train, test


def _read(root: Path, classes: Sequence[str], labelled: Sequence[tuple[Path, int]], size: int | None) -> Side:
    names = image_files.names(labelled, root)
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(partial(_file, size=size), names, [path for path, _ in labelled])]
    read = [
        (part, label, name)
        for part, (_, label), name in zip(found, labelled, names, strict=True)
        if isinstance(part, Part)
    ]
    parts, labels, kept = zip(*read, strict=True) if read else ((), (), ())
    damaged = {name: part for part, name in zip(found, names, strict=True) if isinstance(part, str)}
    return Side(parts, labels, kept, damaged, tuple(classes))


def _file(name: str, path: Path, size: int | None) -> Part | str:
    """What is kept of an image, or why it cannot be decoded."""
    try:
        pixels = _pictures.read([(name, partial(Path, path))], name).images[0]
    except RequestError as error:
        return str(error).removeprefix(f"{name} ")
    height, width = pixels.shape[:2]
    if size is not None:
        pixels = np.asarray(_pictures.Resize(size)(Image.fromarray(pixels)))
    image = torch.tensor(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))
    return replace(_part(make(image[None], torch.zeros(1))), shape=(len(image), height, width))


def _part(images: ImageSet) -> Part:
    copies, moments = [], torch.zeros(2, images.shape[0], dtype=torch.float64)
    for batch in images.batches(512):
        copies.append(duplicates.small_copies(batch.inputs))
        inputs = batch.inputs.double().reshape(len(batch.inputs), images.shape[0], -1)
        moments += torch.stack([inputs.mean(dim=2).sum(dim=0), inputs.square().mean(dim=2).sum(dim=0)])
    return Part(pixel_digests(images), torch.cat(copies), moments, images.shape, str(images.dtype)[6:])


def _size(shape: tuple[int, ...]) -> str:
    if len(shape) != 3:
        return f"{shape[0]} features"
    kind = {1: "grey", 3: "colour"}.get(shape[0], f"{shape[0]} channels")
    return f"{shape[1]} x {shape[2]}, {kind}"


def _normalisation(parts: Iterable[Part]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation per channel, 1 of a constant channel; every image counts alike, whatever its size."""
    parts = [*parts]
    if len({part.moments.shape[1] for part in parts}) != 1:
        return None
    mean, squares = torch.stack([part.moments for part in parts]).sum(dim=0) / sum(len(part.digests) for part in parts)
    variance = squares - mean.square()
    variance[variance <= 1e-12 * squares] = 1.0
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())
