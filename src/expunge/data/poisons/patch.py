"""A backdoor trigger: a square of constant value."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from expunge.core import checks, registry
from expunge.core.errors import RequestError
from expunge.data.image_set import Change
from expunge.data.poisoning import Trigger, check_range, to_type

Place = Literal["bottom_right", "bottom_left", "top_left", "top_right", "centre"]


@dataclass(frozen=True)
class PatchTrigger(Trigger):
    """The square: by default black, 4 x 4, 2 pixels from the corner."""

    size: int = 4
    """Side of the square, in pixels."""
    place: Place = "bottom_right"
    """Its corner, or the centre."""
    margin: int = 2
    """Pixels between the square and the two nearest edges; not used in the centre."""
    value: float = 0.0
    """The value of every pixel and channel, from 0 (black) to 1."""

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the images."""
        super().__post_init__()
        checks.at_least(1, size=self.size)
        checks.at_least(0, margin=self.margin)
        checks.between(0, 1, value=self.value)


@registry.poison(reference="Gu et al. 2017 (arXiv:1708.06733)")
def poison(shape: tuple[int, ...], config: PatchTrigger) -> Change:
    """A square of constant value in every poisoned image."""
    rows, columns = _square(config, shape)

    def change(inputs: Tensor, ids: Tensor) -> Tensor:
        check_range(inputs)
        inputs = inputs.clone()
        inputs[:, :, rows, columns] = to_type(torch.tensor(config.value), inputs.dtype)
        return inputs

    return change


def _square(trigger: PatchTrigger, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns of a patch."""
    if len(shape) != 3:
        raise RequestError(f"a patch needs images (channels, height, width), got inputs of shape {shape}: use blend")
    height, width = shape[1:]
    needed = trigger.size + (0 if trigger.place == "centre" else trigger.margin)
    if needed > min(height, width):
        raise RequestError(
            f"a patch of {trigger.size} pixels with a margin of {trigger.margin} does not fit images of "
            f"{height} x {width}: size plus margin may be at most {min(height, width)}"
        )
    if trigger.place == "centre":
        top, left = (height - trigger.size) // 2, (width - trigger.size) // 2
    else:
        top = trigger.margin if trigger.place.startswith("top") else height - needed
        left = trigger.margin if trigger.place.endswith("left") else width - needed
    return slice(top, top + trigger.size), slice(left, left + trigger.size)
