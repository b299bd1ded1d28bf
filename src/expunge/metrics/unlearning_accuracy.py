"""Unlearning accuracy (UA)."""

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "unlearning accuracy",
        "reference",
        short="UA",
        unit="%",
        range=(0, 100),
        meaning="100 minus the accuracy on the forget set, in percent.",
        column=10,
        decimals=1,
    )
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Unlearning accuracy, UA: 100 minus the accuracy on the forget set, in percent."""
    return {"unlearning_accuracy": 100 - subject.predictions("forget").accuracy()}
