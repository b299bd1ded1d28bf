"""Membership inference: features of outputs, the SVC attack, and the quality of an attack."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import auc, roc_curve
from sklearn.svm import SVC
from torch import Tensor

from expunge.core.errors import RunError
from expunge.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
GRID = 1024
"""The number of values to which a one-dimensional feature is rounded for the fit."""
SMALL = 2000
"""Number of examples up to which the fit is on raw values."""


def features(predictions: Predictions, as_released: bool = False) -> dict[str, Floats]:
    """The five features of the attack on softmax outputs p and labels y, each (n, d) with d = 1 but for ``prob``.

    ``correctness``; ``confidence`` p_y; ``entropy`` of p; ``m_entropy``, the modified entropy of Song and
    Mittal 2021 (arXiv:2003.10595, eq. 9); ``prob``, p itself. ``as_released`` gives the modified entropy of
    the published attack, which ignores each example's own label (see docs/fidelity.md).

    Raises:
        RunError: Some output is not finite.
    """
    if not bool(torch.isfinite(predictions.logits).all()):
        raise RunError("the model gives outputs that are not finite: it cannot be attacked, nor used")
    probabilities = predictions.probabilities()
    modified = _modified_entropy_as_released if as_released else modified_entropy
    columns = {
        "correctness": predictions.correct().double(),
        "confidence": probabilities.gather(1, predictions.labels[:, None])[:, 0],
        "entropy": entropy(probabilities),
        "m_entropy": modified(probabilities, predictions.labels),
    }
    return {name: column.numpy()[:, None] for name, column in columns.items()} | {"prob": probabilities.numpy()}


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy (n,) in nats of probabilities (n, classes)."""
    return -torch.special.xlogy(probabilities, probabilities.clamp(min=1e-30)).sum(dim=1)


def modified_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """``-(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c)``: (n,), 0 for a certain and correct prediction."""
    own = torch.nn.functional.one_hot(labels, probabilities.shape[1]).bool()
    reverse = 1 - probabilities
    weights = torch.where(own, reverse, probabilities)
    inside = torch.where(own, probabilities, reverse)
    return -(weights * inside.clamp(min=1e-30).log()).sum(dim=1)


def _modified_entropy_as_released(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The published code's: over classes that occur in the set ``-(1 - p_c) log p_c``, else ``-p_c log p_c``."""
    present = torch.zeros(probabilities.shape[1], dtype=torch.bool)
    present[labels.unique()] = True
    weights = torch.where(present, 1 - probabilities, probabilities)
    return -(weights * probabilities.clamp(min=1e-30).log()).sum(dim=1)


def attack(members: Floats, others: Floats, *, exact: bool = False) -> SVC:
    """The support vector classifier (C = 3, gamma = 1/d, RBF) that tells members (1) from others (0).

    Unless ``exact``, a one-dimensional feature is rounded to a grid over its range and equal values are merged into one
    weighted example, which is equivalent to copies of it: the cost falls from O(n^2) to O(GRID^2).
    """
    values = np.concatenate([members, others])
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    classifier = SVC(C=3, gamma="auto", kernel="rbf", cache_size=500)
    if exact or values.shape[1] > 1 or len(values) <= SMALL:
        return classifier.fit(values, labels)
    low, spread = values.min(), np.ptp(values)
    rounded = low + np.rint((values - low) / spread * GRID) / GRID * spread if spread > 0 else values
    rows, weights = np.unique(np.column_stack([rounded, labels]), axis=0, return_counts=True)
    return classifier.fit(rows[:, :1], rows[:, 1], sample_weight=weights)


def share_of_members(classifier: SVC, values: Floats) -> float:
    """The share of examples (n, d) that are classified as members; each distinct value is classified once."""
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    return float(np.average(classifier.predict(distinct), weights=counts))


def roc(targets: Floats, others: Floats, at: Sequence[float]) -> dict[str, float]:
    """The ROC of a score, higher for ``targets`` (n,) than for ``others`` (m,); NaN where one is empty.

    ``auc`` is the area under the curve. For each false positive rate in percent, ``tpr_at_1_percent``
    (``tpr_at_0_1_percent``, ...) is the largest true positive rate in percent among thresholds that do not exceed it.

    Raises:
        RunError: Some score is not finite.
    """
    names = [f"tpr_at_{rate:g}_percent".replace(".", "_") for rate in at]
    if not (len(targets) and len(others)):
        return dict.fromkeys(["auc", *names], float("nan"))
    scores = np.concatenate([targets, others])
    if not np.isfinite(scores).all():
        raise RunError("the scores of an attack are not finite: some model gives outputs that mean nothing")
    members = np.repeat([1, 0], [len(targets), len(others)])
    false, true, _ = roc_curve(members, scores, drop_intermediate=False)
    rates = [100 * float(true[100 * false <= rate + 1e-9].max()) for rate in at]
    return {"auc": float(auc(false, true)), **dict(zip(names, rates, strict=True))}
