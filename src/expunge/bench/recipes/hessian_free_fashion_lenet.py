"""Hessian-free unlearning of LeNet-5: 4,000 images of Fashion-MNIST."""

from expunge.bench import hessian_free
from expunge.bench.grid import Comparison


def recipe() -> Comparison:
    """200 of 4,000 images forgotten: see :func:`hessian_free.fashion`."""
    return hessian_free.fashion("hessian-free-fashion-lenet", "lenet")
