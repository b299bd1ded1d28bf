"""Random crop and horizontal flip of whole batches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from expunge.core.errors import RequestError


@dataclass(frozen=True)
class Augmentation:
    """Zero-pad by ``padding``, crop to the original size at a random position, flip at random."""

    padding: int = 4
    """Pixels of zeros added on each side before the crop; 0 for no crop."""
    flip: bool = True
    """Flip each image horizontally with probability one half."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.padding < 0:
            raise RequestError(f"padding must be at least 0, got {self.padding}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment (n, channels, height, width), by one gather; return a new tensor of the same shape and type."""
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
