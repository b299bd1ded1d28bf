"""Hessian-free unlearning over the number of examples deleted: the quick start otherwise."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free


def recipe() -> Comparison:
    """The seven published sizes of the forget set, of 1,000 training images."""
    variations = [f"forget=random:{value}" for value in (10, 50, 100, 150, 200, 250, 300)]
    return _hessian_free.ablation("hessian-free-ablation-deleted", variations)
