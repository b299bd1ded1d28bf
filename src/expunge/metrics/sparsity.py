"""Sparsity."""

from dataclasses import dataclass

from expunge.core.registry import metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class SparsityConfig:
    """There is nothing to choose."""


@metric(better="reference")
def measure(subject: Subject, config: SparsityConfig, context: Context) -> dict[str, float]:
    """Share of prunable weights that are zero by the sparsity mask, in percent; absent where the model is dense."""
    total = sum(kept.numel() for kept in subject.sparsity.values())
    pruned = sum(int((~kept).sum()) for kept in subject.sparsity.values())
    return {"sparsity": 100.0 * pruned / total} if total else {}
