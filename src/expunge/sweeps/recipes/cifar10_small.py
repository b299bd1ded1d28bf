"""Every method on a fifth of CIFAR-10 with a narrow ResNet-18: a real comparison in minutes on a CPU."""

from expunge import config
from expunge.plans import DataConfig
from expunge.sweeps.grid import Comparison
from expunge.training import Training
from expunge.updates import Rule


def recipe() -> Comparison:
    """Ten percent of 10,000 images forgotten at random, ResNet-18 of width 8, one seed."""
    return Comparison(
        name="cifar10-small",
        data=DataConfig(config.parse("data", "cifar10"), limit=10_000, test_limit=5_000),
        model=config.parse("models", "resnet18:width=8"),
        training=Training(epochs=40, batch_size=128, rule=Rule(lr=0.1, schedule="cosine", warmup=0.1)),
        forget="random:10%",
        methods=("finetune", "gradient_ascent", "neggrad_plus", "random_label", "salun", "scrub"),
    )
