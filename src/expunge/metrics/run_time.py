"""Run time."""

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "run time",
        "lower",
        name="total",
        short="Time",
        unit="s",
        range=(0, None),
        meaning="Wall-clock time of the preparation and of the unlearning.",
        column=100,
    ),
    Measure(
        "run time of the preparation",
        "lower",
        name="precompute",
        short="Precompute",
        unit="s",
        range=(0, None),
        meaning="Wall-clock time of the update mask and of what the method counts as preparation.",
    ),
    Measure(
        "run time of the unlearning",
        "lower",
        name="unlearn",
        short="Unlearn",
        unit="s",
        range=(0, None),
        meaning="Wall-clock time of the unlearning without its preparation.",
    ),
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Seconds of wall-clock time: in preparation, in unlearning, and in all."""
    precompute, unlearn = (subject.seconds.get(phase, 0.0) for phase in ("precompute", "unlearn"))
    return {"precompute": precompute, "unlearn": unlearn, "total": precompute + unlearn} if subject.seconds else {}
