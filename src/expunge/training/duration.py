"""Duration of a training: a number of epochs, or of steps in place of epochs."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Annotated, Protocol

import torch

from expunge.core import checks
from expunge.core.config import InPlaceOf
from expunge.core.errors import RequestError
from expunge.data.image_set import Batch, ImageSet

Steps = Annotated[int | None, InPlaceOf("epochs")]
"""The type of a field ``steps``, to be given in place of ``epochs``."""


class Duration(Protocol):
    """A configuration that says how long to train: ``epochs`` passes, or ``steps`` steps where these are given."""

    @property
    def epochs(self) -> int: ...  # noqa: D102

    @property
    def steps(self) -> int | None: ...  # noqa: D102

    @property
    def batch_size(self) -> int: ...  # noqa: D102


def check(duration: Duration) -> None:
    """Raise a RequestError for a number out of range, and for steps beside other epochs than the default ones."""
    checks.at_least(0, epochs=duration.epochs, steps=duration.steps)
    checks.at_least(1, batch_size=duration.batch_size)
    if duration.steps is not None and duration.epochs != getattr(type(duration), "epochs", None):
        raise RequestError("steps is given in place of epochs: leave out one of them")


def total_steps(duration: Duration, per_epoch: int) -> int:
    """The number of steps, where an epoch has ``per_epoch``."""
    return duration.epochs * per_epoch if duration.steps is None else duration.steps


def count_epochs(duration: Duration, per_epoch: int) -> int:
    """The number of epochs of ``per_epoch`` steps; with ``steps``, the last may be cut short."""
    return duration.epochs if duration.steps is None else -(-duration.steps // max(per_epoch, 1))


def passes(
    images: ImageSet, duration: Duration, generator: torch.Generator, first: int = 0, last: int | None = None
) -> Iterator[Iterator[Batch]]:
    """The batches of each epoch, from epoch ``first`` to ``last``; with ``steps``, the last may be cut short."""
    per_epoch = images.steps(duration.batch_size)
    total = total_steps(duration, per_epoch)
    for epoch in range(count_epochs(duration, per_epoch))[first:last]:
        yield islice(images.batches(duration.batch_size, generator), total - epoch * per_epoch)


def batches(images: ImageSet, duration: Duration, generator: torch.Generator) -> Iterator[Batch]:
    """The batches of all epochs."""
    return chain.from_iterable(passes(images, duration, generator))
