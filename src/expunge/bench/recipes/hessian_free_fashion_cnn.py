"""Hessian-free unlearning of a convolutional network: 4,000 pictures of clothes (Fashion-MNIST)."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free


def recipe() -> Comparison:
    """The published setting at one of its seven sizes of the forget set (40 to 1,200).

    Pixels are normalised by the data set's own mean and deviation, not by a half and a half, and the choice of images
    is balanced over classes.
    """
    return _hessian_free.fashion("hessian-free-fashion-cnn", "cnn")
