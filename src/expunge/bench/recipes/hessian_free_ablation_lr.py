"""Hessian-free unlearning over the step size: the quick start otherwise."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free


def recipe() -> Comparison:
    """The nine published rates, with 50 images forgotten, which is one of four published numbers."""
    variations = [f"lr={value}" for value in (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)]
    return _hessian_free.ablation("hessian-free-ablation-lr", variations)
