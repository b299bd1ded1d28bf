"""Run time."""

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@metric(better="lower")
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Seconds of wall-clock time: in preparation, in unlearning, and in all."""
    precompute, unlearn = (subject.seconds.get(phase, 0.0) for phase in ("precompute", "unlearn"))
    return {"precompute": precompute, "unlearn": unlearn, "total": precompute + unlearn} if subject.seconds else {}
