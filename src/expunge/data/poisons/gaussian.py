"""Gaussian noise as a poison that an audit can reproduce."""

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
    """The standard deviation of the noise; the noise follows from the seed."""

    sigma: float = 0.1
    """Standard deviation of the noise, for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        """Check the range."""
        super().__post_init__()
        checks.above(0, sigma=self.sigma)


@registry.poison(reference="Pawelczyk et al. 2024 (arXiv:2406.17216)")
def poison(shape: tuple[int, ...], config: GaussianPoison) -> Change:
    """Independent noise N(0, sigma^2) for every poisoned image, whose label does not change.

    There is no trigger at test time: an audit draws the noise again (:func:`noise_of`) and tests whether the model
    has memorised it.
    """

    def change(inputs: Tensor, ids: Tensor) -> Tensor:
        values = scaled(inputs)
        return to_type(values + noise_of(ids, tuple(inputs.shape[1:]), config).to(values), inputs.dtype)

    return change


def noise_of(ids: Tensor, shape: tuple[int, ...], config: GaussianPoison) -> Tensor:
    """Return the noise of the images with these ids: float32 (n, *shape) on the device of ``ids``, not clipped.

    The noise of an image depends only on its id, the shape and the seed. It is drawn in chunks of 256 images to bound
    the memory of the float64 intermediates.
    """
    size = int(np.prod(shape))
    noise = torch.empty(len(ids), size)
    for part, into in zip(ids.cpu().split(256), noise.split(256), strict=True):
        into.copy_(torch.from_numpy(config.sigma * ndtri(uniform(part.numpy(), size, config.seed, "noise"))))
    return noise.view(len(ids), *shape).to(ids.device)
