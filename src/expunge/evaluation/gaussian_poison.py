"""Scores of a model's memory of Gaussian noise in training images."""

import math

import torch
from torch import Tensor, nn

from expunge.core import weights
from expunge.core.errors import RequestError, RunError
from expunge.data.image_set import ImageSet


def gaussian_poison_scores(
    model: nn.Module,
    clean_images: ImageSet,
    noise: Tensor,
    sigma: float,
    device: torch.device,
    batch_size: int = 512,
) -> Tensor:
    """The component of each poisoned example's noise along the model's input gradient: float64 (n,) on the CPU.

    After Pawelczyk et al. 2024 (arXiv:2406.17216), with the sign that makes memory positive. For a clean image x of
    label y, its noise xi ~ N(0, sigma^2 I) and the model's cross-entropy L in evaluation mode::

        score = <-grad_x L(x, y), xi> / (sigma |grad_x L(x, y)|)

    For a model that was not trained on x + xi, scores are independent and exactly N(0, 1), as xi is independent of the
    gradient (``poisoning.noise_of``, before clipping to pixels). Training on x + xi tends to make the score positive.
    Where the gradient is zero, so is the score.

    ``-grad_x L`` has the direction of the gradient of the margin ``z_y - logsumexp over c != y of z_c`` of the logits
    z, as L = log(1 + exp(-margin)); that of the margin is computed, which does not underflow where L is near 0. One
    forward and one backward pass over n images.

    Raises:
        RequestError: There is not one noise per image, or sigma is not above 0.
        RunError: Some gradient is not finite.
    """
    if noise.shape != (len(clean_images), *clean_images.shape) or not 0 < sigma < math.inf:
        raise RequestError(
            f"{len(clean_images)} images of shape {clean_images.shape} need noise of that shape and sigma above 0, "
            f"got {tuple(noise.shape)} and {sigma}"
        )
    scores: list[Tensor] = []
    with weights.evaluating(model), torch.enable_grad():
        for batch, part in zip(clean_images.batches(batch_size), noise.split(batch_size), strict=False):
            inputs = batch.inputs.detach().to(device).requires_grad_()
            margins = _margins(model(inputs).float(), batch.labels.to(device))
            (gradient,) = torch.autograd.grad(margins.sum(), inputs)
            direction = nn.functional.normalize(gradient.flatten(1).double(), dim=1, eps=1e-300)  # 0 where it is 0
            scores.append((direction * part.to(device).flatten(1)).sum(dim=1).cpu() / sigma)
    found = torch.cat(scores) if scores else torch.empty(0, dtype=torch.float64)
    if not bool(torch.isfinite(found).all()):
        raise RunError("gradients of the poisoned images are not finite: their scores mean nothing")
    return found


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """``z_y - logsumexp over c != y of z_c`` (batch,): the log odds of the label; of one class only, the constant 0."""
    if logits.shape[1] == 1:
        return 0 * logits[:, 0]
    own = labels[:, None]
    return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -math.inf).logsumexp(dim=1)
