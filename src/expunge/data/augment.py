"""Random crop and flip of whole batches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Zero-pad by ``padding``, crop back to the original size at a random place, mirror at random."""

    padding: int = 4
    """Pixels of zeros added on each side before the crop; 0 for no crop."""
    flip: bool = True
    """Mirror each image left to right with probability one half."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment (n, channels, height, width); the result is a new tensor of the same shape and type."""
        raise NotImplementedError
