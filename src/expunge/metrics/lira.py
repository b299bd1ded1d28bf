"""The likelihood-ratio attack (LiRA)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from expunge.core.errors import RunError
from expunge.core.registry import Measure, metric
from expunge.evaluation import membership
from expunge.evaluation.membership import Floats
from expunge.evaluation.predictions import Predictions, Shadows, Subject
from expunge.training.context import Context

Score = Callable[[Tensor, Shadows, bool], Tensor]

MANY = 64
"""Number of shadow models from which each example has its own variance (Carlini et al.)."""
LEAST = 1e-6
"""The least variance, where all shadow models agree."""


@dataclass(frozen=True)
class LiraConfig:
    """Options of the attack."""

    variance: Literal["auto", "each", "pooled"] = "auto"
    """The spread of an example's log odds over shadow models: its own (each), or one for all (pooled); auto takes
    its own from 64 shadow models on."""


@metric(
    Measure(
        "likelihood-ratio attack, retained or forgotten: AUC",
        "reference",
        name="auc",
        short="LiRA AUC",
        range=(0, 1),
        meaning="How well an attacker with shadow models tells retained from forgotten examples: the area under the "
        "curve of true over false positives, 0.5 by guessing. A model that remembers what it was to forget has less "
        "than the retrained one.",
        decimals=3,
    ),
    Measure(
        "members found by LiRA at 1% false alarms",
        "reference",
        name="tpr_at_1_percent",
        short="LiRA TPR",
        unit="%",
        range=(0, 100),
        meaning="Share of the retained examples that the attacker with shadow models finds at 1% false alarms.",
        decimals=1,
    ),
    Measure(
        "members found by LiRA at 0.1% false alarms",
        "reference",
        name="tpr_at_0_1_percent",
        short="LiRA TPR at 0.1%",
        unit="%",
        range=(0, 100),
        meaning="Share of the retained examples that the attacker with shadow models finds at 0.1% false alarms.",
        decimals=1,
    ),
    Measure(
        "offline LiRA, forgotten or unseen: AUC",
        "reference",
        name="offline_auc",
        short="Offline LiRA AUC",
        range=(0, 1),
        meaning="How well an attacker with shadow models that never saw them tells forgotten from unseen examples: 0.5 "
        "after perfect forgetting.",
        decimals=3,
    ),
    Measure(
        "forgotten examples found by offline LiRA at 1% false alarms",
        "reference",
        name="offline_tpr_at_1_percent",
        short="Offline LiRA TPR",
        unit="%",
        range=(0, 100),
        meaning="Share of the forgotten examples that the offline attacker finds at 1% false alarms.",
        decimals=1,
    ),
)
def measure(subject: Subject, config: LiraConfig, context: Context) -> dict[str, float]:
    """How well an attacker with shadow models tells retained (members) from forgotten examples (Carlini et al. 2022).

    ``auc`` and the percent of members found at 1% and at 0.1% false alarms, by the online attack
    (:func:`likelihood_ratio`) with true labels. The retrained model gives the reference values; a model that remembers
    the forget set has a lower ``auc``. With a validation split, ``offline_auc`` and ``offline_tpr_at_1_percent`` are
    those of the offline attack (:func:`surprise`) on forgotten against unseen examples: 0.5 and 1 after retraining.

    Only where there are shadow models (``--shadows 16``): each trained like the original without a random half of the
    training set, so on fewer examples than the evaluated model. An example counts if some of them were trained on it
    and some were not.
    """
    if subject.shadows is None:
        return {}
    if not bool(subject.shadows.log_odds.isfinite().all()):
        raise RunError("a shadow model gives outputs that are not finite: choose a training that does not diverge")
    each = config.variance == "each" or (config.variance == "auto" and len(subject.shadows.inside) >= MANY)
    forget, retain = subject.predictions("forget"), subject.predictions("retain")
    forgotten, members = _scored(likelihood_ratio, (forget, retain), subject.shadows, each)
    found = membership.roc(members, forgotten, (1.0, 0.1))
    if not len(subject.splits.get("validation", ())):
        return found
    forgotten, unseen = _scored(surprise, (forget, subject.predictions("validation")), subject.shadows, each)
    offline = membership.roc(forgotten, unseen, (1.0,))
    return found | {f"offline_{name}": value for name, value in offline.items()}


def _scored(score: Score, parts: Sequence[Predictions], shadows: Shadows, each: bool) -> list[Floats]:
    """The scores of the examples of each part, all by the same shadow models, where there is one."""
    log_odds = torch.cat([part.log_odds() for part in parts])
    found = score(log_odds, shadows.of(torch.cat([part.ids for part in parts])), each)
    return [scores[~scores.isnan()].numpy() for scores in found.split([len(part) for part in parts])]


def likelihood_ratio(log_odds: Tensor, shadows: Shadows, each: bool) -> Tensor:
    """The score of the online attack (n,), higher for members: ``log N(x; in) - log N(x; out)``.

    Carlini et al. 2022 (arXiv:2112.03570), algorithm 1. x is ``log p_y - log(1 - p_y)`` of the evaluated model, ``in``
    the normal distribution of x over the shadow models trained on the example, ``out`` over the others. Cost:
    O(shadows * n). NaN where there are too few of either.
    """
    inside, outside = (gaussian(shadows.log_odds, seen, each) for seen in (shadows.inside, ~shadows.inside))
    return _log_density(log_odds, *inside) - _log_density(log_odds, *outside)


def surprise(log_odds: Tensor, shadows: Shadows, each: bool) -> Tensor:
    """The score of the offline attack (n,), higher for members: ``(x - mean) / std`` of ``out``.

    It orders examples as the paper's ``Pr[Z <= x]`` for Z ~ ``out``, which for many examples rounds to 1.
    """
    mean, variance = gaussian(shadows.log_odds, ~shadows.inside, each)
    return (log_odds - mean) / variance.sqrt()


def gaussian(log_odds: Tensor, counted: Tensor, each: bool) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance (n,) of each example over the shadow models that are ``counted`` (shadows, n).

    Unless ``each`` example has its own variance, deviations from the means are pooled over all. NaN where too few
    shadow models are counted.
    """
    count = counted.sum(dim=0)
    mean = torch.where(counted, log_odds, 0.0).sum(dim=0) / count
    squares = torch.where(counted, (log_odds - mean).square(), 0.0).sum(dim=0)
    free = (count - 1).clamp(min=0)
    variance = squares / free if each else (squares.sum() / free.sum()).expand(len(mean))
    return mean, variance.clamp(min=LEAST)


def _log_density(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The logarithm of the normal density, without its constant."""
    return -0.5 * (variance.log() + (values - mean).square() / variance)
