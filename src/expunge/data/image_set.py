"""Labelled images that come in whole batches: what every set of them offers, and the set in memory."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation

Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From stored images (count, channels, height, width) and their ids (count,) to other images, each on its own."""


@dataclass(frozen=True)
class Batch:
    """Inputs as float (batch, channels, height, width), labels and ids as int64 (batch,)."""

    inputs: Tensor
    labels: Tensor
    ids: Tensor


@runtime_checkable
class ImageSet(Protocol):
    """Labelled images that are read in batches, wherever their pixels are kept.

    An implementation holds labels and ids of all examples, and may compute or read the images when they are asked
    for: nothing in this interface gives all pixels at once. ``ids`` identify an example: they
    are kept by every selection, are unique, and need not be consecutive. Every method returns a new set or batch and
    leaves this set as it is. Sets of one kind are joined with each other.
    """

    def __len__(self) -> int:
        """The number of examples."""
        ...

    @property
    def labels(self) -> Tensor:
        """The label of each example: int64 (n,)."""
        ...

    @property
    def ids(self) -> Tensor:
        """The id of each example: int64 (n,)."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (channels, height, width) for images."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type of the stored images: uint8, which batches turn into float in [0, 1], or that of the batches."""
        ...

    @property
    def device(self) -> torch.device:
        """Where labels, ids and batches are."""
        ...

    @property
    def augmentation(self) -> Augmentation | None:
        """What passes of training do to the images of a batch, drawing from the generator of the pass."""
        ...

    def to(self, device: torch.device | str, /) -> "ImageSet":
        """The same examples on another device."""
        ...

    def steps(self, size: int, /) -> int:
        """The number of batches of a training pass: one of a single example joins the batch before it."""
        ...

    def batches(self, size: int, generator: torch.Generator | None = None, /) -> Iterator[Batch]:
        """One pass over all examples.

        With a generator, this is a pass of training: the order is shuffled by one ``torch.randperm`` of all
        positions, drawn before the first batch, and the augmentation, if the set has one, applied to each batch.
        Without, it is the test transform: the order as stored, no augmentation, nothing random. A ``size`` above
        the number of examples gives one batch of all of them. In training, a last batch of a single example joins
        the one before it (:func:`bounds`): batch normalisation has no statistics of one.
        """
        ...

    def gather(self, ids: Tensor, /) -> Batch:
        """The examples with these ids, in that order, as one batch on the test transform.

        Raises:
            RequestError: There is no example with one of the ids.
        """
        ...

    def select(self, positions: Tensor, /) -> "ImageSet":
        """The examples at these positions (int64 indices, or a mask of bool), in that order."""
        ...

    def contains(self, ids: Tensor, /) -> Tensor:
        """For each example of this set, whether its id is among ``ids``: bool (n,)."""
        ...

    def with_labels(self, labels: Tensor, /) -> "ImageSet":
        """The same examples with these labels: int64 (n,)."""
        ...

    def with_augmentation(self, augmentation: Augmentation | None, /) -> "ImageSet":
        """The same examples under another augmentation, or none."""
        ...

    def mapped(self, change: Change, positions: Tensor | None = None, /) -> "ImageSet":
        """The same examples, the images at these positions (int64 indices; all by default) changed.

        ``change`` gets stored images and their ids, and must return images of the same shape and type without
        writing into what it got. What it does to an image must not depend on the others: it may be called on any
        part of them, at any time.
        """
        ...

    def merged(self, other: "ImageSet", /) -> "ImageSet":
        """The examples of both sets in the order of their ids, under the augmentation of this set.

        Raises:
            RequestError: An id is in both sets, or the sets are not of one kind.
        """
        ...

    def followed_by(self, other: "ImageSet", /) -> "ImageSet":
        """The examples of this set and then those of the other, with their positions, 0 to n - 1, as ids.

        Both must have one ``dtype`` and one augmentation, which it keeps.

        Raises:
            RequestError: The sets are not of one kind.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 over type, shape, stored images, labels and ids: tells whether data are what they were."""
        ...


@dataclass(frozen=True)
class TensorImages:
    """An :class:`ImageSet` whose images are one tensor in the memory of a device.

    ``inputs`` is uint8 (n, channels, height, width), which batches turn into float in [0, 1], or float,
    which batches leave as it is.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Check shapes and types once, so that nothing later has to."""
        count = len(self.inputs)
        if self.inputs.dtype != torch.uint8 and not self.inputs.is_floating_point():
            raise RequestError(f"images must be uint8 or float, got {self.inputs.dtype}")
        if self.labels.shape != (count,) or self.ids.shape != (count,):
            raise RequestError(
                f"{count} images need as many labels and ids, got shapes {tuple(self.labels.shape)} "
                f"and {tuple(self.ids.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.ids.dtype != torch.int64:
            raise RequestError(f"labels and ids must be int64, got {self.labels.dtype} and {self.ids.dtype}")
        if len(torch.unique(self.ids)) != count:
            raise RequestError("ids repeat: each example needs an id of its own")

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.inputs.device

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (channels, height, width) for images."""
        return tuple(self.inputs.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The type of the stored images."""
        return self.inputs.dtype

    def to(self, device: torch.device | str) -> "TensorImages":
        """The same examples on another device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device), ids=self.ids.to(device))

    def select(self, positions: Tensor) -> "TensorImages":
        """The examples at these positions (int64 indices, or a mask of bool), in that order."""
        positions = positions.to(self.device)
        return replace(self, inputs=self.inputs[positions], labels=self.labels[positions], ids=self.ids[positions])

    def contains(self, ids: Tensor) -> Tensor:
        """For each example of this set, whether its id is among ``ids``: bool (n,)."""
        return torch.isin(self.ids, ids.to(self.device))

    def gather(self, ids: Tensor) -> Batch:
        """The examples with these ids, in that order, as one batch on the test transform. O(n log n)."""
        ids, order = ids.to(self.device), self.ids.argsort()
        missing = ids[~torch.isin(ids, self.ids)]
        if len(missing):
            raise RequestError(f"there is no example with the id {int(missing[0])}")
        found = order[torch.searchsorted(self.ids, ids, sorter=order)]
        return Batch(self._inputs(found, None), self.labels[found], ids)

    def with_labels(self, labels: Tensor) -> "TensorImages":
        """The same examples with these labels; the images are shared."""
        return replace(self, labels=labels)

    def with_augmentation(self, augmentation: Augmentation | None) -> "TensorImages":
        """The same examples under another augmentation; the images are shared."""
        return replace(self, augmentation=augmentation)

    def mapped(self, change: Change, positions: Tensor | None = None) -> "TensorImages":
        """The same examples, the images at these positions (all by default) changed at once. A copy of the images."""
        if positions is None:
            return replace(self, inputs=change(self.inputs, self.ids))
        inputs = self.inputs.clone()
        inputs[positions] = change(self.inputs[positions], self.ids[positions])
        return replace(self, inputs=inputs)

    def merged(self, other: ImageSet) -> "TensorImages":
        """The examples of both sets in the order of their ids. Each image is copied once."""
        ids, order = torch.cat([self.ids, other.ids]).sort()
        added, places = _in_memory(other).inputs, order.argsort()
        dtype = torch.promote_types(self.dtype, other.dtype)
        inputs = self.inputs.new_empty((len(order), *self.shape), dtype=dtype)
        inputs[places[: len(self)]] = self.inputs.to(dtype)
        inputs[places[len(self) :]] = added.to(dtype)
        return replace(self, inputs=inputs, labels=torch.cat([self.labels, other.labels])[order], ids=ids)

    def followed_by(self, other: ImageSet) -> "TensorImages":
        """The examples of this set and then those of the other; ids are positions. Each image is copied once."""
        labels = torch.cat([self.labels, other.labels])
        ids = torch.arange(len(labels), device=self.device)
        return TensorImages(torch.cat([self.inputs, _in_memory(other).inputs]), labels, ids, self.augmentation)

    def steps(self, size: int) -> int:
        """The number of batches of a training pass: one of a single example joins the batch before it."""
        return len(bounds(len(self), size, join=True))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass over all examples: see :class:`ImageSet`."""
        order = None
        if generator is not None:
            order = torch.randperm(len(self), generator=generator, device=generator.device).to(self.device)
        for start, stop in bounds(len(self), size, join=generator is not None):
            taken = slice(start, stop) if order is None else order[start:stop]
            yield Batch(self._inputs(taken, generator), self.labels[taken], self.ids[taken])

    def _inputs(self, taken: slice | Tensor, generator: torch.Generator | None) -> Tensor:
        inputs = self.inputs[taken] if isinstance(taken, slice) else self.inputs.index_select(0, taken)
        if generator is not None and self.augmentation is not None:
            inputs = self.augmentation(inputs, generator)
        return inputs / 255 if inputs.dtype == torch.uint8 else inputs

    def fingerprint(self) -> str:
        """SHA-256 over images, labels and ids: tells whether data are what they were. O(bytes)."""
        sha = hashlib.sha256(str((self.inputs.dtype, tuple(self.inputs.shape))).encode())
        for tensor in (self.inputs, self.labels, self.ids):
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return sha.hexdigest()


def _in_memory(images: ImageSet) -> TensorImages:
    """The other set of a join, refused unless it is of this kind."""
    if not isinstance(images, TensorImages):
        raise RequestError("images in memory are joined with images in memory: make both sets of one kind")
    return images


def bounds(count: int, size: int, join: bool) -> list[tuple[int, int]]:
    """Where each batch of a pass over ``count`` examples begins and ends.

    With ``join``, as in training, a last batch of a single example joins the one before it.

    Raises:
        RequestError: The size is below one.
    """
    if size < 1:
        raise RequestError(f"the batch size must be at least 1, got {size}")
    starts = list(range(0, count, size))
    if join and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True)) if starts else []


def make(inputs: Tensor, labels: Tensor, augmentation: Augmentation | None = None, first_id: int = 0) -> TensorImages:
    """An ImageSet in memory whose ids count up from ``first_id``."""
    ids = torch.arange(first_id, first_id + len(labels), device=inputs.device)
    return TensorImages(inputs, labels.to(torch.int64), ids, augmentation)
