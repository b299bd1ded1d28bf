"""Membership inference from the models before and after unlearning."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, get_args

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
"""Number of rows up to which the network is trained on all of them at once (L-BFGS), without early stopping."""
CONSTANT = 1e-12
"""Range of a feature up to which it counts as constant: the rounding of probabilities."""
Feature = Literal["direct_diff", "sorted_diff", "direct_concat", "sorted_concat", "l2_distance"]
Attacker = Literal["logistic", "mlp"]


@dataclass(frozen=True)
class UnlearningAttackConfig:
    """Options of the attack whose strength is ``auc``; others are tried beside it."""

    feature: Feature = "direct_diff"
    """Feature of the posteriors p before and q after: direct_diff p - q; sorted_diff, the same with classes in
    descending order of p; direct_concat and sorted_concat, p and q side by side; l2_distance |p - q|."""
    attacker: Attacker = "logistic"
    """Logistic regression, or a network with one hidden layer."""
    thorough: bool = False
    """Try every feature by both attackers, not three features by the one: 5 to 30 times as long."""
    folds: int = 5
    """Number of folds of the cross-validation."""
    as_released: bool = False
    """Train and test on the same rows, with all retained examples, as the published code does; this attack alone."""

    def __post_init__(self) -> None:
        ranges.at_least(2, folds=self.folds)


def _described(feature: Feature) -> Measure:
    return Measure(
        f"attack on the models before and after by logistic regression on {feature}: AUC",
        "reference",
        name=f"logistic_{feature}",
        short=f"MIAU logistic {feature}",
        range=(0, 1),
        meaning=f"AUC of logistic regression that sees {feature} of the posteriors before and after: 0.5 by guessing.",
        decimals=3,
    )


ATTACKS = [(feature, attacker) for attacker in get_args(Attacker) for feature in get_args(Feature)]
"""All pairs of a feature and an attacker."""
TRIED: tuple[Feature, ...] = ("direct_diff", "sorted_diff", "l2_distance")
"""The features that are always tried; the others hold the same differences in more dimensions."""


@metric(
    Measure(
        "attack on the models before and after: AUC",
        "reference",
        name="auc",
        short="MIAU AUC",
        range=(0, 1),
        meaning="How well an attacker with the outputs of the models before and after tells forgotten from retained "
        "examples, tested on examples that the attacker has not learned from: 0.5 by guessing. By the feature and the "
        "attacker that are asked for; others may find more.",
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
    Measure(
        "strongest attack on the models before and after: AUC",
        "reference",
        name="strongest_auc",
        short="MIAU strongest AUC",
        range=(0, 1),
        meaning="AUC of the attack on the models before and after that tells forgotten from retained examples best, "
        "among the features and attackers that are tried. As the best of several it is above 0.5 by chance, for the "
        "retrained model too.",
        decimals=3,
    ),
    Measure(
        "forgotten examples found by that strongest attack at 1% false alarms",
        "reference",
        name="strongest_tpr_at_1_percent",
        short="MIAU strongest TPR",
        unit="%",
        range=(0, 100),
        meaning="Share of the forgotten examples that the attack of the largest AUC finds at 1% false alarms.",
        decimals=1,
    ),
    Measure(
        "AUC, against the retrained model, of the attack that is strongest against this one",
        name="strongest_auc_retrained",
        short="MIAU strongest AUC, retrained",
        range=(0, 1),
        meaning="What the feature and attacker that find most of this model find of the retrained model.",
        decimals=3,
    ),
    Measure(
        "largest excess of an attack's AUC over that against the retrained model",
        "lower",
        name="excess_auc",
        short="MIAU excess",
        range=(-1, 1),
        retrained=0,
        meaning="Over all features and attackers, the largest difference between the AUC against this model and that "
        "against the retrained one. Where a whole class is forgotten, an attack that sees the posteriors themselves "
        "tells the class, whatever the model: this difference leaves that out.",
        decimals=3,
    ),
    *map(_described, TRIED),
)
def measure(subject: Subject, config: UnlearningAttackConfig, context: Context) -> dict[str, float]:
    """How well an attacker with the posteriors before and after tells forgotten from retained examples (MIAU).

    Chen et al. 2021 (arXiv:2005.02205), with an attacker trained on labelled examples of both models. ``auc`` is 0.5 by
    guessing, and exactly that where the feature is constant; ``tpr_at_1_percent`` is the percent of forgotten examples
    found at 1% false alarms. As many retained examples as forgotten are drawn, and both numbers are means over folds.
    A single attack may see nothing of a large change: three features are tried by logistic regression, with
    ``thorough`` five by both attackers. Each AUC is named ``attacker_feature``; ``strongest_auc`` is the largest.
    The retrained model gives the reference values.

    Cost: 3 ``folds`` fits, or 10, on up to 2m rows for m forgotten examples.
    """
    if subject.original is None:
        return {}
    forgotten, retained = (
        torch.stack([model.predictions(split).probabilities() for model in (subject.original, subject)], dim=1)
        for split in SPLITS
    )
    if not config.as_released:
        count = min(len(forgotten), len(retained))
        forgotten, retained = (_drawn(part, count, context.generator) for part in (forgotten, retained))
    before, after = torch.cat([forgotten, retained]).unbind(dim=1)
    answers = np.repeat([True, False], [len(forgotten), len(retained)])
    seed = randomness.draw_seed(context.generator)
    parts = _parts(answers, config, seed)

    def strength(attack: UnlearningAttackConfig) -> dict[str, float]:
        return _strength(features(before, after, attack.feature).numpy(), answers, parts, attack, seed)

    if config.as_released:
        return strength(config)
    asked_for, always = (config.feature, config.attacker), [(feature, "logistic") for feature in TRIED]
    tried = ATTACKS if config.thorough else [each for each in ATTACKS if each in (asked_for, *always)]
    found = {f"{a}_{f}": strength(replace(config, feature=f, attacker=a)) for f, a in tried}
    retrained = {} if subject.reference is None else subject.reference.values
    asked = found[f"{config.attacker}_{config.feature}"]
    return asked | _strongest(found, retrained) | {name: each["auc"] for name, each in found.items()}


def _strongest(found: Mapping[str, Mapping[str, float]], retrained: Mapping[str, float]) -> dict[str, float]:
    """The attack of the largest AUC, and the retrained model's AUC under it, where its values are known."""
    name = max(found, key=lambda each: found[each]["auc"])
    values = {f"strongest_{key}": value for key, value in found[name].items()}
    known = {each: retrained[full] for each in found if (full := f"unlearning_attack.{each}") in retrained}
    if len(known) == len(found):
        excess = max(found[each]["auc"] - value for each, value in known.items())
        values |= {"strongest_auc_retrained": known[name], "excess_auc": excess}
    return values


def _strength(
    values: Floats, answers: Answers, parts: list[tuple[Rows, Rows]], config: UnlearningAttackConfig, seed: int
) -> dict[str, float]:
    """The mean over folds of AUC and true positive rate of an attack on features (n, d); NaN without folds."""
    nothing = np.zeros(1 if parts else 0)
    if not parts or np.ptp(values, axis=0).max() <= CONSTANT:
        return membership.roc(nothing, nothing, FALSE_ALARMS)
    found = [
        membership.roc(scores[answers[tested]], scores[~answers[tested]], FALSE_ALARMS)
        for learned, tested in parts
        for scores in [_attack(values[learned], answers[learned], config, seed)(values[tested])]
    ]
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
        if len(answers) <= SMALL and not config.as_released:
            network = MLPClassifier(solver="lbfgs", max_iter=50, random_state=seed)
        # The published code does not scale the features.
        attacker = (network if config.as_released else make_pipeline(StandardScaler(), network)).fit(values, answers)
    return lambda asked: np.asarray(attacker.predict_proba(asked))[:, 1]
