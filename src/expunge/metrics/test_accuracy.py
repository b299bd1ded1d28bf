"""Test accuracy (TA)."""

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "test accuracy",
        "reference",
        short="TA",
        unit="%",
        range=(0, 100),
        meaning="Accuracy on examples that were in no training set.",
        column=30,
        decimals=1,
    )
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Test accuracy, TA: the accuracy on the test images of retained classes, in percent."""
    return {"test_accuracy": subject.predictions("test").accuracy()}
