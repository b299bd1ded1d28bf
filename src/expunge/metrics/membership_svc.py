"""The SVC membership attack."""

from dataclasses import dataclass

from expunge.core.errors import RequestError
from expunge.core.registry import Measure, metric
from expunge.data import splits
from expunge.evaluation import membership
from expunge.evaluation.predictions import Predictions, Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class MembershipSvcConfig:
    """Options of the attack."""

    exact: bool = False
    """Fit one-dimensional features on raw values: the same result, many times slower."""
    as_released: bool = False
    """Use the modified entropy of the published code, which ignores each example's own label."""


def _described(feature: str, words: str, column: int | None = None) -> Measure:
    return Measure(
        f"membership attack on {words}",
        "reference",
        name=feature,
        short="MIA" if column else f"MIA {feature}",
        unit="%",
        range=(0, 100),
        meaning=f"Share of the forget set that an attacker who sees only the model's {words} takes for examples that "
        "were never trained on.",
        column=column,
        decimals=1,
    )


@metric(
    _described("confidence", "confidence", 40),
    _described("correctness", "correctness"),
    _described("entropy", "entropy"),
    _described("m_entropy", "modified entropy"),
    _described("prob", "probabilities"),
)
def measure(subject: Subject, config: MembershipSvcConfig, context: Context) -> dict[str, float]:
    """Percent of the forget set that an attacker takes for non-members (Fan et al. 2024), by five features.

    The attacker is trained on as many retained examples (members) as test examples (non-members) of the same model,
    drawn class-balanced. The reference value is that of the retrained model, not 100.
    """
    members, others, targets = (subject.predictions(split) for split in ("retain", "test", "forget"))
    if not (len(members) and len(others) and len(targets)):
        raise RequestError("membership_svc needs examples to retain, to test on and to forget")
    count = min(len(members), len(others))
    members, others = (
        part if len(part) == count else part.select(splits.balanced_subset(part.labels, count, context.generator))
        for part in (members, others)
    )
    return {name: 100 * (1 - share) for name, share in efficacy(members, others, targets, config).items()}


def efficacy(
    members: Predictions, others: Predictions, targets: Predictions, config: MembershipSvcConfig
) -> dict[str, float]:
    """For each feature, the share of ``targets`` taken for members by an attacker trained on the other two."""
    inside, outside, asked = (membership.features(part, config.as_released) for part in (members, others, targets))
    return {
        name: membership.share_of_members(
            membership.attack(inside[name], outside[name], exact=config.exact), asked[name]
        )
        for name in inside
    }
