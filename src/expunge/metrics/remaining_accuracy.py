"""Remaining accuracy (RA)."""

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "remaining accuracy",
        "reference",
        short="RA",
        unit="%",
        range=(0, 100),
        meaning="Accuracy on the retain set: the training examples that may be remembered.",
        column=20,
        decimals=1,
    )
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Remaining accuracy, RA: the accuracy on the retain set, in percent."""
    return {"remaining_accuracy": subject.predictions("retain").accuracy()}
