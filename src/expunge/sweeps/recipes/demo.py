"""Every method on scikit-learn's handwritten digits, twice, in about a minute."""

from expunge import config
from expunge.pipeline import DataConfig
from expunge.sweeps.grid import Comparison
from expunge.training import Training
from expunge.updates import Rule


def recipe() -> Comparison:
    """Ten percent of the digits forgotten at random by a small convolutional network, two seeds."""
    return Comparison(
        name="demo",
        data=DataConfig(config.parse("data", "digits")),
        model=config.parse("models", "small_cnn"),
        training=Training(epochs=40, batch_size=64, rule=Rule(lr=0.1, schedule="cosine", warmup=0.05)),
        forget="random:10%",
        methods=("finetune", "gradient_ascent", "neggrad_plus", "random_label", "salun", "scrub"),
        seeds=2,
    )
