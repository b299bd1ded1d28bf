"""Test accuracy (TA)."""

from dataclasses import dataclass

from expunge.core.registry import metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class TestAccuracyConfig:
    """There is nothing to choose."""


@metric(better="reference")
def measure(subject: Subject, config: TestAccuracyConfig, context: Context) -> dict[str, float]:
    """Test accuracy, TA: the accuracy on the test images of classes that are still retained, in percent."""
    return {"test_accuracy": subject.predictions("test").accuracy()}
