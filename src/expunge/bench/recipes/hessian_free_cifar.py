"""Hessian-free unlearning of ResNet-18: all of CIFAR-10, on a GPU."""

from expunge.bench import hessian_free
from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig


def recipe() -> Comparison:
    """Fifty of 50,000 images forgotten at random, 40 epochs with batches of 256, without augmentation, as published.

    The published network has torchvision's stem and ImageNet weights; this one has a 3x3 stem and random initial
    weights, and its batch normalisation, with initial statistics, only scales and shifts.
    """
    data = DataConfig("cifar10:augment=false", validation=0.0)
    plan = hessian_free.training(40, 256, lr=0.001, l2=1e-2, clip=10.0, decay=0.99995)
    return hessian_free.residual("hessian-free-cifar", data, plan)
