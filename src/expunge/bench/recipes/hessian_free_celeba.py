"""Hessian-free unlearning of ResNet-18: men and women of CelebA, from EXPUNGE_DATA/celeba, on a GPU."""

from expunge.bench import hessian_free
from expunge.bench.grid import Comparison
from expunge.data.sources.celeba import CelebaConfig
from expunge.data.split_data import DataConfig


def recipe() -> Comparison:
    """Fifty of 10,000 images forgotten at random, five epochs with batches of 64, as published.

    Images are 32 pixels wide instead of 128, since the stem here does not downsample by four, so that feature maps have
    the published size. The initial weights are random, not from ImageNet; batch normalisation with its initial
    statistics only scales and shifts.
    """
    source = CelebaConfig(hessian_free.folder("celeba"), size=32, first=50_000, first_test=4_000)
    plan = hessian_free.training(5, 64, lr=0.01, l2=1e-2, clip=10.0, decay=0.9995)
    data = DataConfig(source, limit=10_000, validation=0.0)
    return hessian_free.residual("hessian-free-celeba", data, plan)
