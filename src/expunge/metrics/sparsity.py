"""Sparsity."""

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "sparsity",
        "reference",
        short="Sparsity",
        unit="%",
        range=(0, 100),
        meaning="Share of the prunable weights that are zero; 0 for a dense model.",
        decimals=1,
    )
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Share of prunable weights that are zero by the sparsity mask, in percent; absent where the model is dense."""
    total = sum(kept.numel() for kept in subject.sparsity.values())
    pruned = sum(int((~kept).sum()) for kept in subject.sparsity.values())
    return {"sparsity": 100.0 * pruned / total} if total else {}
