"""A backdoor trigger: a noise pattern blended into images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from expunge.core import checks, registry
from expunge.core.randomness import uniform
from expunge.data.image_set import Change
from expunge.data.poisoning import Trigger, scaled, to_type


@dataclass(frozen=True)
class BlendTrigger(Trigger):
    """The weight of the pattern; the pattern follows from the seed."""

    alpha: float = 0.2
    """The weight of the pattern, in (0, 1]."""

    def __post_init__(self) -> None:
        """Check the range."""
        super().__post_init__()
        checks.above(0, alpha=self.alpha)
        checks.between(0, 1, alpha=self.alpha)


@registry.poison(reference="Chen et al. 2017 (arXiv:1712.05526)")
def poison(shape: tuple[int, ...], config: BlendTrigger) -> Change:
    """A pattern z of uniform noise, the same for every image: ``(1 - alpha) x + alpha z``."""
    drawn = uniform(np.zeros(1, dtype=np.int64), int(np.prod(shape)), config.seed, "pattern")
    pattern = torch.from_numpy(drawn).view(shape)

    def change(inputs: Tensor, ids: Tensor) -> Tensor:
        values = scaled(inputs)
        return to_type(torch.lerp(values, pattern.to(values), config.alpha), inputs.dtype)

    return change
