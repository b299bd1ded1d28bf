"""Membership inference from the models before and after unlearning."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from expunge.core import checks as ranges
from expunge.core import randomness
from expunge.core.registry import Measure, metric
from expunge.evaluation import membership
from expunge.evaluation.membership import Floats
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context

Rows = npt.NDArray[np.int64]
Answers = npt.NDArray[np.bool_]
SPLITS = ("forget", "retain")
FALSE_ALARMS = (1.0,)
"""False positive rates in percent."""
SMALL = 40
"""Number of rows up to which the network is trained without early stopping."""
Feature = Literal["direct_diff", "sorted_diff", "direct_concat", "sorted_concat", "l2_distance"]


@dataclass(frozen=True)
class UnlearningAttackConfig:
    """Options of the attack."""

    feature: Feature = "direct_diff"
    """Feature of the posteriors p before and q after: direct_diff p - q; sorted_diff, the same with classes in
    descending order of p; direct_concat and sorted_concat, p and q side by side; l2_distance |p - q|."""
    attacker: Literal["logistic", "mlp"] = "logistic"
    """Logistic regression, or a network with one hidden layer."""
    folds: int = 5
    """Number of folds of the cross-validation."""
    as_released: bool = False
    """Train and test on the same rows, with all retained examples, as the published code does."""

    def __post_init__(self) -> None:
        ranges.at_least(2, folds=self.folds)


@metric(
    Measure(
        "attack on the models before and after: AUC",
        "reference",
        name="auc",
        short="MIAU AUC",
        range=(0, 1),
        meaning="How well an attacker with the outputs of the models before and after tells forgotten from retained "
        "examples, tested on examples that the attacker has not learned from: 0.5 by guessing.",
        decimals=3,
    ),
    Measure(
        "forgotten examples found from the models before and after at 1% false alarms",
        "reference",
        name="tpr_at_1_percent",
        short="MIAU TPR",
        unit="%",
        range=(0, 100),
        meaning="Share of the forgotten examples that the attacker with both models finds at 1% false alarms.",
        decimals=1,
    ),
)
def measure(subject: Subject, config: UnlearningAttackConfig, context: Context) -> dict[str, float]:
    """How well an attacker with the posteriors before and after tells forgotten from retained examples (MIAU).

    Chen et al. 2021 (arXiv:2005.02205), with an attacker trained on labelled examples of both models, so an upper bound
    of theirs. ``auc`` is 0.5 by guessing; ``tpr_at_1_percent`` is the percent of forgotten examples found at 1% false
    alarms. As many retained examples as forgotten are drawn, and both numbers are means over folds. The retrained model
    gives the reference values.

    Cost: ``folds`` fits on up to 2m rows for m forgotten examples.
    """
    if subject.original is None:
        return {}
    forgotten, retained = (
        features(before.probabilities(), after.probabilities(), config.feature)
        for before, after in ((subject.original.predictions(split), subject.predictions(split)) for split in SPLITS)
    )
    if not config.as_released:
        count = min(len(forgotten), len(retained))
        forgotten, retained = (_drawn(part, count, context.generator) for part in (forgotten, retained))
    values = torch.cat([forgotten, retained]).numpy()
    answers = np.repeat([True, False], [len(forgotten), len(retained)])
    seed = randomness.draw_seed(context.generator)
    found = [
        membership.roc(scores[answers[tested]], scores[~answers[tested]], FALSE_ALARMS)
        for learned, tested in _parts(answers, config, seed)
        for scores in [_attack(values[learned], answers[learned], config, seed)(values[tested])]
    ]
    found = found or [membership.roc(np.empty(0), np.empty(0), FALSE_ALARMS)]
    return {name: fmean(part[name] for part in found) for name in found[0]}


def features(before: Tensor, after: Tensor, feature: Feature) -> Tensor:
    """The feature (n, d) of posteriors (n, classes) of the original and of the unlearned model."""
    if feature.startswith("sorted"):
        order = before.argsort(dim=1, descending=True, stable=True)
        before, after = before.gather(1, order), after.gather(1, order)
    if feature.endswith("concat"):
        return torch.cat([before, after], dim=1)
    return before - after if feature.endswith("diff") else (before - after).norm(dim=1, keepdim=True)


def _drawn(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(rows), generator=generator, device=generator.device)[:count]
    return rows[chosen.to(rows.device)]


def _parts(answers: Answers, config: UnlearningAttackConfig, seed: int) -> list[tuple[Rows, Rows]]:
    """The rows to train and to test on, for each fold; none where a side has fewer than two examples."""
    fewest = int(min(answers.sum(), (~answers).sum()))
    if fewest < 2:
        return []
    if config.as_released:
        every = np.arange(len(answers))
        return [(every, every)]
    folds = StratifiedKFold(min(config.folds, fewest), shuffle=True, random_state=seed)
    return list(folds.split(answers, answers))


def _attack(values: Floats, answers: Answers, config: UnlearningAttackConfig, seed: int) -> Callable[[Floats], Floats]:
    """The score of an attacker trained on these rows, higher for forgotten examples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if config.attacker == "logistic":
            linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=400))
            return linear.fit(values, answers).decision_function
        network = MLPClassifier(learning_rate_init=0.01, early_stopping=len(answers) > SMALL, random_state=seed)
        # The published code does not scale the features.
        attacker = (network if config.as_released else make_pipeline(StandardScaler(), network)).fit(values, answers)
    return lambda asked: np.asarray(attacker.predict_proba(asked))[:, 1]
