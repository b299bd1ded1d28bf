"""Test accuracy (TA)."""

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@metric(better="reference")
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Test accuracy, TA: the accuracy on the test images of classes that are still retained, in percent."""
    return {"test_accuracy": subject.predictions("test").accuracy()}
