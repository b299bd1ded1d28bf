"""Sparsity."""

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@metric(better="reference")
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Share of prunable weights that are zero by the sparsity mask, in percent; absent where the model is dense."""
    total = sum(kept.numel() for kept in subject.sparsity.values())
    pruned = sum(int((~kept).sum()) for kept in subject.sparsity.values())
    return {"sparsity": 100.0 * pruned / total} if total else {}
