"""The Gaussian-poison audit."""

from statistics import NormalDist

from torch import Tensor

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context

THRESHOLD = NormalDist().inv_cdf(0.99)
"""The 99% quantile of the scores of a model without memory: 2.326."""


@metric(
    Measure(
        "mean Gaussian-poison score",
        "reference",
        name="mean",
        short="Poison score",
        meaning="How well the model remembers noise that was added to training images: the mean score, 0 without "
        "memory.",
        decimals=2,
    ),
    Measure(
        "Gaussian-poison detection rate",
        "reference",
        name="true_positive_rate",
        short="Poison TPR",
        unit="%",
        range=(0, 100),
        meaning="Share of the images with added noise whose score gives them away at a false positive rate of 1%, so 1 "
        "without memory.",
        decimals=1,
    ),
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """How well the model remembers noise added to training images (Pawelczyk et al. 2024, arXiv:2406.17216).

    ``mean`` is the mean score (:func:`expunge.evaluation.gaussian_poison.gaussian_poison_scores`), 0 without memory;
    ``true_positive_rate`` is the percent of scores above 2.326, the threshold of 1% false positives. Only where
    training images had Gaussian noise.
    """
    scores = subject.scores.get("gaussian_poison")
    if scores is None or not len(scores):
        return {}
    return {"mean": float(scores.double().mean()), "true_positive_rate": true_positive_rate(scores)}


def true_positive_rate(scores: Tensor) -> float:
    """The percent of scores above the 99% quantile of N(0, 1)."""
    return 100.0 * float((scores.double() > THRESHOLD).double().mean())
