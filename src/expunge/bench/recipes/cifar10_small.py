"""Tuned methods on a fifth of CIFAR-10 with a narrow ResNet-18, on a CPU."""

from expunge.bench.grid import Comparison
from expunge.bench.tuning import tuned
from expunge.data.split_data import DataConfig
from expunge.training.fit import Training
from expunge.training.rules import Rule


def recipe() -> Comparison:
    """Ten percent of 10,000 images forgotten at random, ResNet-18 of width 8, one seed."""
    return Comparison(
        name="cifar10-small",
        data=DataConfig("cifar10", limit=10_000, test_limit=5_000),
        model="resnet18:width=8",
        training=Training(epochs=40, batch_size=128, rule=Rule(lr=0.1, schedule="cosine", warmup=0.1)),
        forget="random:10%",
        methods=tuned("cifar10_small"),
    )
