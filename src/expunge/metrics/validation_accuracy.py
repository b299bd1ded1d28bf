"""Validation accuracy (VA)."""

from dataclasses import dataclass

from expunge.core.registry import metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class ValidationAccuracyConfig:
    """There is nothing to choose."""


@metric(better="reference")
def measure(subject: Subject, config: ValidationAccuracyConfig, context: Context) -> dict[str, float]:
    """Validation accuracy, VA: the accuracy on validation images of retained classes, in percent; absent without any.

    It serves to choose hyperparameters, so that the test set need not.
    """
    if "validation" not in subject.splits:
        return {}
    found = subject.predictions("validation")
    return {"validation_accuracy": found.accuracy()} if len(found) else {}
