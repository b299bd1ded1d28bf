"""Update masks from the saliency of weights for the forget set."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge import masks, parameters
from expunge.data.image_set import ImageSet
from expunge.errors import RequestError
from expunge.losses import cross_entropy


@dataclass(frozen=True)
class Saliency:
    """Let only the weights move that are most salient for the forget set (SalUn, Fan et al. 2024)."""

    fraction: float = 0.5
    """Share of all weights that may move: those with the largest saliency."""
    batch_size: int = 256
    """Forget examples per gradient."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 <= self.fraction <= 1.0:
            raise RequestError(f"fraction must be in [0, 1], got {self.fraction}")
        if self.batch_size < 1:
            raise RequestError(f"batch_size must be at least 1, got {self.batch_size}")


def saliency(model: nn.Module, forget: ImageSet, batch_size: int) -> dict[str, Tensor]:
    """Saliency of every trainable weight: ``|sum over forget batches of the gradient of the mean loss|``.

    Fan et al. 2024 (arXiv:2310.12508), eq. 4, in evaluation mode and on the test transform, so that it
    depends on nothing random. Cost: one forward and backward pass over the forget set.
    """
    weights = parameters.trainable(model)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    was_training = model.training
    model.eval()
    for batch in forget.batches(batch_size):
        loss = cross_entropy(model(batch.inputs), batch.labels)
        gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient
    model.train(was_training)
    return {name: sum_of.abs_() for name, sum_of in total.items()}


def update_mask(model: nn.Module, forget: ImageSet, config: Saliency) -> masks.Mask:
    """The mask of the ``fraction`` most salient weights, in one ranking over the whole model; O(p) after saliency."""
    return masks.largest(saliency(model, forget, config.batch_size), config.fraction)
