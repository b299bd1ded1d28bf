"""Run time."""

from dataclasses import dataclass

from expunge.core.registry import metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class RunTimeConfig:
    """There is nothing to choose."""


@metric(better="lower")
def measure(subject: Subject, config: RunTimeConfig, context: Context) -> dict[str, float]:
    """Seconds of wall-clock time: in preparation, in unlearning, and in all."""
    precompute, unlearn = (subject.seconds.get(phase, 0.0) for phase in ("precompute", "unlearn"))
    return {"precompute": precompute, "unlearn": unlearn, "total": precompute + unlearn} if subject.seconds else {}
