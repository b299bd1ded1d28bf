"""Labelled images that are read in batches: the protocol ``ImageSet``, and its implementation in memory."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation

Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps stored images (count, channels, height, width) and their ids (count,) to other images, one by one."""


@dataclass(frozen=True)
class Batch:
    """Inputs as float (batch, channels, height, width), labels and ids as int64 (batch,)."""

    inputs: Tensor
    labels: Tensor
    ids: Tensor


@runtime_checkable
class ImageSet(Protocol):
    """Labelled images that are read in batches, from memory or elsewhere.

    An implementation holds the labels and ids of all examples, and may compute or read images on demand: no method
    returns all pixels at once. Ids identify examples: they are unique, need not be consecutive, and do not change when
    examples are selected. Every method returns a new set or batch and leaves this set unchanged. Only sets of the same
    implementation can be joined.
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
        """The type of the stored images: uint8, which batches convert to float in [0, 1], or the type of batches."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of labels, ids and batches."""
        ...

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation of batches in training passes; it draws from the generator of the pass."""
        ...

    def to(self, device: torch.device | str, /) -> "ImageSet":
        """Return the same examples on another device."""
        ...

    def steps(self, size: int, /) -> int:
        """Return the number of batches in a training pass, in which a last batch of one example joins the previous."""
        ...

    def batches(self, size: int, generator: torch.Generator | None = None, /) -> Iterator[Batch]:
        """Yield all examples once, in batches.

        With a generator, this is a training pass: the order is one ``torch.randperm`` of all positions, drawn before
        the first batch; each batch is augmented, if the set has an augmentation; and a last batch of one example joins
        the previous (:func:`bounds`), since batch normalisation needs at least two. Without a generator, this is the
        test transform: the stored order, no augmentation, nothing random. If ``size`` exceeds the number of examples,
        there is one batch.
        """
        ...

    def gather(self, ids: Tensor, /) -> Batch:
        """Return the examples with these ids, in that order, as one batch with the test transform.

        Raises:
            RequestError: There is no example with one of the ids.
        """
        ...

    def select(self, positions: Tensor, /) -> "ImageSet":
        """Return the examples at these positions (int64 indices, or a bool mask), in that order."""
        ...

    def contains(self, ids: Tensor, /) -> Tensor:
        """Return whether the id of each example of this set is among ``ids``: bool (n,)."""
        ...

    def with_labels(self, labels: Tensor, /) -> "ImageSet":
        """Return the same examples with these labels: int64 (n,)."""
        ...

    def with_ids(self, ids: Tensor, /) -> "ImageSet":
        """Return the same examples with other ids: int64 (n,), each once."""
        ...

    def with_augmentation(self, augmentation: Augmentation | None, /) -> "ImageSet":
        """Return the same examples with another augmentation, or none."""
        ...

    def mapped(self, change: Change, positions: Tensor | None = None, /) -> "ImageSet":
        """Return the same examples, with the images at these positions (int64 indices; all by default) changed.

        ``change`` takes stored images and their ids, and returns images of the same shape and type without modifying
        its inputs. It must treat each image independently of the others, since it may be called on any subset of them
        at any time.
        """
        ...

    def merged(self, other: "ImageSet", /) -> "ImageSet":
        """Return the examples of both sets in the order of their ids, with the augmentation of this set.

        Raises:
            RequestError: An id is in both sets, or the sets are of different implementations.
        """
        ...

    def followed_by(self, other: "ImageSet", /) -> "ImageSet":
        """Return the examples of this set and then those of the other, with new ids 0 to n - 1.

        Both must have the same ``dtype`` and augmentation, which do not change.

        Raises:
            RequestError: The sets are of different implementations.
        """
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 of type, shape, stored images, labels and ids, which identifies the data."""
        ...


@dataclass(frozen=True)
class TensorImages:
    """An :class:`ImageSet` whose images are one tensor in the memory of a device.

    ``inputs`` is (n, channels, height, width), of type uint8, which batches convert to float in [0, 1], or of a float
    type, which batches keep.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Check shapes, types and ids."""
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
        """The device of the images."""
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
        """Return the same examples on another device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device), ids=self.ids.to(device))

    def select(self, positions: Tensor) -> "TensorImages":
        """Return the examples at these positions (int64 indices, or a bool mask), in that order."""
        positions = positions.to(self.device)
        return replace(self, inputs=self.inputs[positions], labels=self.labels[positions], ids=self.ids[positions])

    def contains(self, ids: Tensor) -> Tensor:
        """Return whether the id of each example of this set is among ``ids``: bool (n,)."""
        return torch.isin(self.ids, ids.to(self.device))

    def gather(self, ids: Tensor) -> Batch:
        """Return the examples with these ids, in that order, as one batch with the test transform. O(n log n)."""
        ids, order = ids.to(self.device), self.ids.argsort()
        missing = ids[~torch.isin(ids, self.ids)]
        if len(missing):
            raise RequestError(f"there is no example with the id {int(missing[0])}")
        found = order[torch.searchsorted(self.ids, ids, sorter=order)]
        return Batch(self._inputs(found, None), self.labels[found], ids)

    def with_labels(self, labels: Tensor) -> "TensorImages":
        """Return the same examples with these labels; images are shared."""
        return replace(self, labels=labels)

    def with_ids(self, ids: Tensor) -> "TensorImages":
        """Return the same examples with these ids; images are shared."""
        return replace(self, ids=ids)

    def with_augmentation(self, augmentation: Augmentation | None) -> "TensorImages":
        """Return the same examples with another augmentation; images are shared."""
        return replace(self, augmentation=augmentation)

    def mapped(self, change: Change, positions: Tensor | None = None) -> "TensorImages":
        """Return the same examples with some images changed; all images are copied. See :class:`ImageSet`."""
        if positions is None:
            return replace(self, inputs=change(self.inputs, self.ids))
        inputs = self.inputs.clone()
        inputs[positions] = change(self.inputs[positions], self.ids[positions])
        return replace(self, inputs=inputs)

    def merged(self, other: ImageSet) -> "TensorImages":
        """Return the examples of both sets in the order of their ids; each image is copied once."""
        ids, order = torch.cat([self.ids, other.ids]).sort()
        added, places = _in_memory(other).inputs, order.argsort()
        dtype = torch.promote_types(self.dtype, other.dtype)
        inputs = self.inputs.new_empty((len(order), *self.shape), dtype=dtype)
        inputs[places[: len(self)]] = self.inputs.to(dtype)
        inputs[places[len(self) :]] = added.to(dtype)
        return replace(self, inputs=inputs, labels=torch.cat([self.labels, other.labels])[order], ids=ids)

    def followed_by(self, other: ImageSet) -> "TensorImages":
        """Return the examples of this set and then those of the other, with new ids; each image is copied once."""
        labels = torch.cat([self.labels, other.labels])
        ids = torch.arange(len(labels), device=self.device)
        return TensorImages(torch.cat([self.inputs, _in_memory(other).inputs]), labels, ids, self.augmentation)

    def steps(self, size: int) -> int:
        """Return the number of batches in a training pass."""
        return len(bounds(len(self), size, join=True))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Yield all examples once, in batches: see :class:`ImageSet`."""
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
        if inputs.dtype == torch.uint8:
            return inputs / 255
        return inputs.clone() if isinstance(taken, slice) else inputs  # a model may write to its input

    def fingerprint(self) -> str:
        """Return the SHA-256 of images, labels and ids. O(bytes)."""
        sha = hashlib.sha256(str((self.inputs.dtype, tuple(self.inputs.shape))).encode())
        for tensor in (self.inputs, self.labels, self.ids):
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return sha.hexdigest()


def _in_memory(images: ImageSet) -> TensorImages:
    """The other set of a join, which must be in memory too."""
    if not isinstance(images, TensorImages):
        raise RequestError("images in memory can only be joined with images in memory")
    return images


def bounds(count: int, size: int, join: bool) -> list[tuple[int, int]]:
    """Return the start and end of each batch of a pass over ``count`` examples.

    With ``join``, as in training, a last batch of one example joins the previous.

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
    """Make an ImageSet in memory, with ids counting from ``first_id``."""
    ids = torch.arange(first_id, first_id + len(labels), device=inputs.device)
    return TensorImages(inputs, labels.to(torch.int64), ids, augmentation)
