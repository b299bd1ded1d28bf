"""Unlearning accuracy (UA)."""

from dataclasses import dataclass

from expunge.core.registry import metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class UnlearningAccuracyConfig:
    """There is nothing to choose."""


@metric(better="reference")
def measure(subject: Subject, config: UnlearningAccuracyConfig, context: Context) -> dict[str, float]:
    """Unlearning accuracy, UA: 100 minus the accuracy on the forget set, in percent."""
    return {"unlearning_accuracy": 100 - subject.predictions("forget").accuracy()}
