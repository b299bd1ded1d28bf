"""Hessian-free unlearning of a convolutional network: 1,000 digits of MNIST, in about ten minutes."""

import dataclasses

from expunge.bench import hessian_free
from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig


def recipe() -> Comparison:
    """Fifty of 1,000 images forgotten at random, four seeds: a non-convex loss.

    As published, except that the subset of images is class-balanced and there are four seeds instead of seven.
    """
    data = DataConfig("mnist", limit=1_000, test_limit=400, validation=0.0)
    plan = hessian_free.training(20, 64, lr=0.05, l2=1e-6, clip=10.0)
    found = hessian_free.network("hessian-free-mnist-cnn", data, "cnn", plan, "random:50")
    return dataclasses.replace(found, seeds=4)
