"""Hessian-free unlearning over the regularisation: the quick start otherwise."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free


def recipe() -> Comparison:
    """Eight strengths of the L2 term; the two published are 1e-6 and 0.5.

    Newton's steps are left out: they would need the term of each training among their own options.
    """
    variations = [f"weight_decay={value}" for value in (1e-06, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0)]
    return _hessian_free.ablation("hessian-free-ablation-l2", variations, newton_steps=False)
