"""Certified removal from softmax regression: a proven distance to the retrained weights, and the noise that hides it.

The loss is ``F(W) = (1/n) sum_i CE_i(W) + l2/2 ||W||^2`` of ``logits = X W^T``, X (n, d) fixed. It is l2-strongly
convex, so that it has one minimiser W*, and ``||W - W*|| <= ||grad F(W)|| / l2`` for every W (as Guo et al. 2020,
arXiv:1911.03030, and Neel et al. 2021, arXiv:2007.02923, use it). Nothing here holds with l2 = 0, or where X depends
on W.
"""

import math
import os
from dataclasses import dataclass

import torch
from scipy.special import log_ndtr
from torch import Tensor

from expunge.core import checks
from expunge.core.errors import RequestError, RunError
from expunge.curvature import softmax_linear

CHOSEN = (
    "sigma was chosen from these data, and the certificate takes it as given: fix a budget beforehand for a "
    "certificate that covers it too"
)
"""The condition of a certificate without a budget, for the notes of the result."""


@dataclass(frozen=True)
class Certificate:
    """The guarantee for weights W with noise of deviation ``sigma`` added to each.

    The retrained model is the minimiser of the loss of the retain set, or any weights where the gradient of that loss
    has at most the norm ``reference_gradient_norm``, with noise of the same deviation. Both models are (epsilon, delta)
    indistinguishable: the probability of any event under one is at most exp(epsilon) times that under the other, plus
    delta. This holds for the weights alone: the numbers here are exact, and may reveal something of the data.
    """

    gradient_norm: float
    """``||grad F(W)||``, F the loss of the retain set."""
    reference_gradient_norm: float
    """The same at the retrained model, at most."""
    bound: float
    """The distance of W to the retrained model is at most this: the sum of both norms, divided by l2."""
    budget: float
    """The distance that the noise hides."""
    epsilon: float
    delta: float
    sigma: float
    """The deviation of the noise."""
    capacity: int
    """The number of arbitrary further examples whose deletion leaves the bound of W within the budget."""
    conditional: str | None
    """:data:`CHOSEN` where the budget was the bound, so that sigma depends on the data. None where it was given."""


def check(l2: float, epsilon: float, delta: float) -> None:
    """Raise a RequestError where these admit no certificate."""
    checks.at_least(0, l2=l2)
    if l2 == 0:
        raise RequestError(
            "l2 must be above 0: without it the loss is not strongly convex, and no gradient, however small, bounds "
            "the distance to the retrained weights; train the original with a weight_decay, and say the same here"
        )
    checks.above(0, epsilon=epsilon)
    if not 0 < delta < 1:
        raise RequestError(f"delta must be above 0 and below 1, got {delta}")


def check_features(inputs: Tensor) -> None:
    """Raise a RequestError unless all features are finite: else no gradient is bounded."""
    if not bool(torch.isfinite(inputs).all()):
        raise RequestError(
            "some features are not finite, so that no gradient is bounded: the model or the images hold NaN or infinity"
        )


def certify(
    weights: Tensor,
    inputs: Tensor,
    labels: Tensor,
    *,
    l2: float,
    epsilon: float,
    delta: float,
    budget: float | None = None,
    reference_gradient_norm: float = 0.0,
    mask: Tensor | None = None,
) -> Certificate:
    """The certificate of W (classes, d), without noise so far, on the retained X (n, d), both float64; one pass.

    Without a ``budget``, it is the bound, and (epsilon, delta) hold conditional on the sigma that follows. Where
    ``mask`` (classes, d) is false, the weights of all models are zero.

    Raises:
        RequestError: A feature is not finite.
        RunError: The gradient is not finite, or the bound exceeds the budget.
    """
    check_features(inputs)
    slope = gradient(weights, inputs, labels, l2)
    norm = float((slope if mask is None else slope * mask).norm())
    bound = (norm + reference_gradient_norm) / l2
    if not math.isfinite(bound):
        raise RunError("the gradient at these weights is not finite, so that nothing bounds how far off they are")
    if budget is not None and bound > budget:
        raise RunError(
            f"the weights are proven to be within {bound:.3g} of the retrained ones, and the budget is {budget:g}: "
            "take more steps, or retrain"
        )
    hidden = bound if budget is None else budget
    each = lipschitz(inputs) + float((slope - l2 * weights).norm())
    further = capacity(norm, len(inputs), each, l2 * hidden - reference_gradient_norm)
    sigma = gaussian_deviation(hidden, epsilon, delta)
    conditional = CHOSEN if budget is None else None
    return Certificate(norm, reference_gradient_norm, bound, hidden, epsilon, delta, sigma, further, conditional)


def gradient(weights: Tensor, inputs: Tensor, labels: Tensor, l2: float) -> Tensor:
    """``grad F(W)``, (classes, d)."""
    return softmax_linear.gradient(inputs, weights, labels) + l2 * weights


def lipschitz(inputs: Tensor) -> float:
    """``sqrt(2) max_i ||x_i||``: a bound on the gradient of every cross-entropy at any W, as ``||p - e_y||^2 <= 2``."""
    return math.sqrt(2) * float(inputs.norm(dim=1).max())


def capacity(norm: float, count: int, each: float, largest: float) -> int:
    """The number of arbitrary examples, of ``count``, that can be deleted before the gradient at W may be too large.

    With g_i the gradients of the cross-entropies and m their mean, leaving k of n out moves the gradient of F by
    ``sum over the k of (m - g_i) / (n - k)``. Where its norm was g and ``each`` bounds that of every ``m - g_i``, it is
    within ``largest`` up to ``k = n (largest - g) / (largest - g + each)``. Later updates of W are not assumed.
    """
    left = largest - norm
    return min(count - 1, math.floor(count * left / (left + each))) if left > 0 else 0


def gaussian_delta(distance: float, deviation: float, epsilon: float) -> float:
    """The least delta with which noise of this deviation hides this distance at this epsilon.

    ``Phi(a) - e^epsilon Phi(b)``, where a and b are ``+- distance/(2 deviation) - epsilon deviation/distance`` (Balle &
    Wang 2018, arXiv:1805.06530, theorem 8), through the logarithms of both terms: neither overflows.
    """
    if distance == 0:
        return 0.0
    ratio = distance / deviation
    first = float(log_ndtr(ratio / 2 - epsilon / ratio))
    second = epsilon + float(log_ndtr(-ratio / 2 - epsilon / ratio))
    return math.exp(first) * -math.expm1(min(second - first, 0.0)) if first > -math.inf else 0.0


def gaussian_deviation(distance: float, epsilon: float, delta: float) -> float:
    """The least deviation of Gaussian noise that hides ``distance`` at (epsilon, delta), up to rounding.

    Solves :func:`gaussian_delta` ``<= delta``, which falls as the deviation grows, by bisection of its logarithm.
    """
    if distance == 0:
        return 0.0
    low = high = 1.0  # in units of the distance
    while gaussian_delta(1.0, high, epsilon) > delta:
        high *= 2
    while gaussian_delta(1.0, low, epsilon) <= delta:
        low /= 2
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if gaussian_delta(1.0, middle, epsilon) <= delta else (middle, high)
    return high * distance


def secret_noise(shape: torch.Size) -> Tensor:
    """N(0, I) in float64 that cannot be drawn again: each number comes from 52 random bits of the operating system.

    ``Phi^-1((k + 1/2) / 2^52)``, k uniform: no value exceeds 8.3, as each would with probability 2^-52. The seed of
    torch's generator on the CPU has 32 bits, few enough to try them all.
    """
    bits = torch.frombuffer(bytearray(os.urandom(8 * shape.numel())), dtype=torch.int64) & (2**52 - 1)
    return torch.special.ndtri((bits.double() + 0.5) / 2**52).view(shape)
