"""Hessian-free unlearning over the number of epochs: the quick start otherwise."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free


def recipe() -> Comparison:
    """Nine of the published numbers of epochs, 1 to 200, with 50 images forgotten."""
    variations = [f"epochs={value}" for value in (1, 2, 5, 10, 15, 25, 50, 100, 200)]
    return _hessian_free.ablation("hessian-free-ablation-epochs", variations)
