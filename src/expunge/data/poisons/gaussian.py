"""Gaussian noise as a poison that an audit can draw again."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from expunge.core import checks, registry
from expunge.core.randomness import uniform
from expunge.data.image_set import Change
from expunge.data.poisoning import Poison, scaled, to_type


@dataclass(frozen=True)
class GaussianPoison(Poison):
    """The size of the noise, which the seed draws."""

    sigma: float = 0.1
    """Standard deviation of the noise, where pixels are in [0, 1]."""

    def __post_init__(self) -> None:
        """Check the range."""
        super().__post_init__()
        checks.above(0, sigma=self.sigma)


@registry.poison(reference="Pawelczyk et al. 2024 (arXiv:2406.17216)")
def poison(shape: tuple[int, ...], config: GaussianPoison) -> Change:
    """Noise N(0, sigma^2) of its own for every poisoned image, whose label stays.

    There is nothing to trigger at test time: an audit draws the noise again (:func:`noise_of`) and asks whether the
    model remembers it.
    """

    def change(inputs: Tensor, ids: Tensor) -> Tensor:
        values = scaled(inputs)
        return to_type(values + noise_of(ids, tuple(inputs.shape[1:]), config).to(values), inputs.dtype)

    return change


def noise_of(ids: Tensor, shape: tuple[int, ...], config: GaussianPoison) -> Tensor:
    """The noise of the images with these ids: float32 (n, *shape) on the device of ``ids``, not clipped.

    An image's noise depends on its id, the shape and the seed alone: it is the same whenever and beside whichever
    others it is drawn. It is drawn in parts of 256 images, which bound the memory of the float64 numbers on the way.
    """
    size = int(np.prod(shape))
    noise = torch.empty(len(ids), size)
    for part, into in zip(ids.cpu().split(256), noise.split(256), strict=True):
        into.copy_(torch.from_numpy(config.sigma * ndtri(uniform(part.numpy(), size, config.seed, "noise"))))
    return noise.view(len(ids), *shape).to(ids.device)
