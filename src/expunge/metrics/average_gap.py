"""The average gap to the retrained model."""

from collections.abc import Sequence
from statistics import fmean, pstdev

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context

NEEDS = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc")
PARTS = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc.confidence")


@metric(
    Measure(
        "average gap to retraining",
        "lower",
        short="Avg. gap",
        unit="points",
        range=(0, 100),
        retrained=0,
        meaning="Mean of the gaps in UA, RA, TA and MIA, in percentage points.",
        column=60,
        decimals=2,
    ),
    needs=NEEDS,
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Mean over UA, RA, TA and membership (confidence) of the distance to the retrained model, in points."""
    if subject.reference is None:
        return {}
    values, reference = subject.values, subject.reference.values
    if not all(part in values and part in reference for part in PARTS):
        return {}
    return {"average_gap": average_gap([values[part] for part in PARTS], [reference[part] for part in PARTS])}


def average_gap(values: Sequence[float], reference: Sequence[float]) -> float:
    """The mean of ``|value - reference|`` (Fan et al. 2024, section 5)."""
    return fmean(abs(value - wanted) for value, wanted in zip(values, reference, strict=True))


def gap_of_means(values: Sequence[Sequence[float]], reference: Sequence[float]) -> tuple[float, float]:
    """The mean over metrics of ``|mean over seeds - reference|``, and of the standard deviation over seeds (by n).

    ``values`` are (seeds, metrics), ``reference`` is the mean of the retrained models. The average gap as DualOptim's
    code computes it (Zhong et al. 2025): gaps of single seeds to either side cancel.
    """
    columns = list(zip(*values, strict=True))
    return average_gap([fmean(column) for column in columns], reference), fmean(map(pstdev, columns))
