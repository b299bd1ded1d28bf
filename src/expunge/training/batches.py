"""Batches of forget and retain images together, and an infinite iterator of batches."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data.image_set import Batch, ImageSet
from expunge.training.stepper import Objective, Stepper


def cycle(images: ImageSet, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """An infinite iterator of batches; each pass is shuffled and augmented independently."""
    while True:
        yield from images.batches(size, generator)


def joined(forget: ImageSet, retain: ImageSet) -> ImageSet:
    """Both sets as one, whose ids are positions: those below ``len(forget)`` are of the forget set.

    Cost: for images in memory, a copy of them.

    Raises:
        RequestError: The images are not of one type or kind of set, or not augmented alike.
    """
    if forget.dtype != retain.dtype or forget.augmentation != retain.augmentation:
        raise RequestError("to mix forget and retain images, both must have one type and one augmentation")
    return forget.followed_by(retain)


def by_role(losses: Callable[[], Tensor], of_forget: Tensor, step: Stepper) -> dict[str, Objective]:
    """Two objectives, the parts of both sets in the mean of the losses (batch,).

    They share one forward pass where the stepper takes one step on their sum.
    """
    shared: list[Tensor] = []

    def forget() -> Tensor:
        found = losses()
        if step.jointly:
            shared.append(found)
        return torch.where(of_forget, found, 0.0).sum() / len(found)

    def retain() -> Tensor:
        found = shared.pop() if shared else losses()
        return torch.where(of_forget, 0.0, found).sum() / len(found)

    return {"forget": forget, "retain": retain}
