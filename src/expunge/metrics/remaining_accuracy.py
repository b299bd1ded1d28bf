"""Remaining accuracy (RA)."""

from dataclasses import dataclass

from expunge.core.registry import metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class RemainingAccuracyConfig:
    """There is nothing to choose."""


@metric(better="reference")
def measure(subject: Subject, config: RemainingAccuracyConfig, context: Context) -> dict[str, float]:
    """Remaining accuracy, RA: the accuracy on the retain set, in percent."""
    return {"remaining_accuracy": subject.predictions("retain").accuracy()}
