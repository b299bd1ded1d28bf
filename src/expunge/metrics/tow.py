"""Tug-of-war: one number for forgetting, retaining and generalising as the retrained model does."""

from collections.abc import Mapping
from math import prod

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context

KEEP = ("remaining_accuracy", "test_accuracy")


@metric(
    Measure(
        "tug-of-war",
        "higher",
        short="ToW",
        range=(0, 1),
        retrained=1,
        meaning="Product of 1 minus the gap (as a fraction) over UA, RA and TA.",
        column=90,
        decimals=3,
    ),
    Measure(
        "tug-of-war with membership attack",
        "higher",
        name="tow_mia",
        short="ToW-MIA",
        range=(0, 1),
        retrained=1,
        meaning="Product of 1 minus the gap (as a fraction) over MIA, RA and TA.",
        decimals=3,
    ),
    needs=("unlearning_accuracy", *KEEP, "membership_svc"),
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Tug-of-war, the product of 1 - absolute gap/100 over UA, RA and TA, in [0, 1]; ``tow_mia`` has membership for UA.

    Zhao et al. 2024 (arXiv:2406.01257), with the absolute value of each gap.
    """
    if subject.reference is None:
        return {}
    gaps = {
        name: abs(value - subject.reference.values[name])
        for name, value in subject.values.items()
        if name in subject.reference.values
    }
    forgetting = {"tow": "unlearning_accuracy", "tow_mia": "membership_svc.confidence"}
    return {key: tug_of_war(gaps, (name, *KEEP)) for key, name in forgetting.items() if {name, *KEEP} <= set(gaps)}


def tug_of_war(gaps: Mapping[str, float], names: tuple[str, ...]) -> float:
    """The product of ``1 - gap/100`` over these gaps, given in points."""
    return prod(1 - gaps[name] / 100 for name in names)
