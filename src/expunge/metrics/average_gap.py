"""The average gap to the retrained model."""

from collections.abc import Sequence
from dataclasses import dataclass

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric

NEEDS = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc")
PARTS = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc.confidence")


@dataclass(frozen=True)
class AverageGapConfig:
    """There is nothing to choose."""


@metric(better="lower", needs=NEEDS)
def measure(subject: Subject, config: AverageGapConfig, context: Context) -> dict[str, float]:
    """Mean over UA, RA, TA and membership (confidence) of the distance to the retrained model, in points."""
    if subject.reference is None or not all(part in subject.values for part in PARTS):
        return {}
    reference = subject.reference.values
    return {"average_gap": average_gap([subject.values[p] for p in PARTS], [reference[p] for p in PARTS])}


def average_gap(values: Sequence[float], reference: Sequence[float]) -> float:
    """The mean of ``|value - reference|`` (Fan et al. 2024, section 5)."""
    return sum(abs(a - b) for a, b in zip(values, reference, strict=True)) / len(values)
