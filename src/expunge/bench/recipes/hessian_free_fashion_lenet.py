"""Hessian-free unlearning of LeNet-5: 4,000 images of Fashion-MNIST."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free


def recipe() -> Comparison:
    """200 of 4,000 images forgotten: see :func:`_hessian_free.fashion`."""
    return _hessian_free.fashion("hessian-free-fashion-lenet", "lenet")
