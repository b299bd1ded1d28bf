"""Labelled images that live on the device and come in whole batches."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation


@dataclass(frozen=True)
class Batch:
    """Inputs as float (batch, channels, height, width), labels and ids as int64 (batch,)."""

    inputs: Tensor
    labels: Tensor
    ids: Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images, labels and the id of each example, all on one device.

    ``inputs`` is uint8 (n, channels, height, width), which batches turn into float in [0, 1], or float,
    which batches leave as it is. ``ids`` tell an example apart for its whole life: they survive every
    selection, are unique, and need not be consecutive.
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

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same examples on another device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device), ids=self.ids.to(device))

    def select(self, positions: Tensor) -> "ImageSet":
        """The examples at these positions (int64 indices, or a mask of bool), in that order."""
        positions = positions.to(self.device)
        return replace(self, inputs=self.inputs[positions], labels=self.labels[positions], ids=self.ids[positions])

    def contains(self, ids: Tensor) -> Tensor:
        """For each example of this set, whether its id is among ``ids``: bool (n,)."""
        return torch.isin(self.ids, ids.to(self.device))

    def steps(self, size: int) -> int:
        """The number of batches of a training pass: one of a single example joins the batch before it."""
        return len(_bounds(len(self), size, join=True))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass over all examples.

        With a generator, this is a pass of training: the order is shuffled and the augmentation, if the set
        has one, applied. Without, it is the test transform: the order as stored, no augmentation, nothing
        random. A ``size`` above the number of examples gives one batch of all of them. In training, a last
        batch of a single example joins the one before it: batch normalisation has no statistics of one.
        """
        order = None
        if generator is not None:
            order = torch.randperm(len(self), generator=generator, device=generator.device).to(self.device)
        for start, stop in _bounds(len(self), size, join=generator is not None):
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
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()


def _bounds(count: int, size: int, join: bool) -> list[tuple[int, int]]:
    """Where each batch begins and ends."""
    if size < 1:
        raise RequestError(f"the batch size must be at least 1, got {size}")
    starts = list(range(0, count, size))
    if join and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True)) if starts else []


def make(inputs: Tensor, labels: Tensor, augmentation: Augmentation | None = None, first_id: int = 0) -> ImageSet:
    """An ImageSet whose ids count up from ``first_id``."""
    ids = torch.arange(first_id, first_id + len(labels), device=inputs.device)
    return ImageSet(inputs, labels.to(torch.int64), ids, augmentation)
