"""Validation accuracy (VA)."""

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "validation accuracy",
        "reference",
        short="VA",
        unit="%",
        range=(0, 100),
        meaning="Accuracy on the validation set, by which hyperparameters may be chosen.",
        decimals=1,
    )
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Validation accuracy, VA: the accuracy on validation images of retained classes, in percent; absent without any.

    For the choice of hyperparameters.
    """
    if "validation" not in subject.splits:
        return {}
    found = subject.predictions("validation")
    return {"validation_accuracy": found.accuracy()} if len(found) else {}
