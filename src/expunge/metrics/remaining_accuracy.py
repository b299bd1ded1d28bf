"""Remaining accuracy (RA)."""

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import Measure, metric


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
