"""Unlearning accuracy (UA)."""

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@metric(better="reference")
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Unlearning accuracy, UA: 100 minus the accuracy on the forget set, in percent."""
    return {"unlearning_accuracy": 100 - subject.predictions("forget").accuracy()}
