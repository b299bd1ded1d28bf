"""Random changes of whole batches of training images: crop, flip, rotation, RandAugment."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from expunge.core import checks
from expunge.data import randaugment


@dataclass(frozen=True)
class Augmentation:
    """Zero-pad, crop to the original size at a random position, flip at random; then, if asked, turn and RandAugment.

    Everything is drawn from the generator of the training pass, on its device, and applied on that of the images.
    """

    padding: int = 4
    """Pixels of zeros added on each side before the crop; 0 for no crop."""
    flip: bool = True
    """Flip each image horizontally with probability one half."""
    rotation: float = 0.0
    """Turn each image counter-clockwise by an angle that is uniform on 0 to so many degrees, to the nearest pixel."""
    operations: int = 0
    """The number of operations of RandAugment on each image (Cubuk et al. 2020, arXiv:1909.13719); 0 for none."""
    magnitude: int = 9
    """Their strength, from 0 to 30."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks.at_least(0, padding=self.padding, operations=self.operations)
        checks.between(0, 360, rotation=self.rotation)
        checks.between(0, randaugment.STRONGEST, magnitude=self.magnitude)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment (n, channels, height, width); return a new tensor of the same shape and type."""
        images = self._cropped(images, generator)
        if self.rotation:
            drawn = torch.rand(len(images), generator=generator, device=generator.device)
            images = randaugment.rotated(images, (drawn * self.rotation).to(images.device))
        if self.operations:
            images = randaugment.augmented(images, self.operations, self.magnitude, generator)
        return images

    def _cropped(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop and flip, by one gather."""
        height, width = images.shape[2:]
        rows, columns = self._places(len(images), height, width, generator)
        rows, columns = rows.to(images.device), columns.to(images.device)
        padded = functional.pad(images, (self.padding,) * 4)
        flat = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        indices = flat.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        return padded.flatten(2).gather(2, indices).view(images.shape)

    def _places(self, count: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the rows (n, height) and columns (n, width) of the padded images to keep."""
        device = generator.device
        offsets = torch.randint(2 * self.padding + 1, (2, count, 1), generator=generator, device=device)
        rows = offsets[0] + torch.arange(height, device=device)
        columns = offsets[1] + torch.arange(width, device=device)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        return rows, columns
