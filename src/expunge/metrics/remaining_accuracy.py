"""Remaining accuracy (RA)."""

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@metric(better="reference")
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Remaining accuracy, RA: the accuracy on the retain set, in percent."""
    return {"remaining_accuracy": subject.predictions("retain").accuracy()}
