"""Hessian-free unlearning over the batch size: the quick start otherwise."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free


def recipe() -> Comparison:
    """Eight sizes from 8 to all 1,000 images; the released scripts have none of this."""
    variations = [f"batch_size={value}" for value in (8, 16, 32, 64, 128, 256, 512, 1000)]
    return _hessian_free.ablation("hessian-free-ablation-batch", variations)
