"""Six methods on scikit-learn's handwritten digits, two seeds, in about half a minute on two idle cores."""

from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig
from expunge.training.fit import Training
from expunge.training.rules import Rule


def recipe() -> Comparison:
    """A fifth of the training images of 300 forgotten at random by a small convolutional network, two seeds.

    With so few images, the network misclassifies some unseen ones, so that forgetting is visible. The methods have
    their defaults, which were chosen by validation on several problems, the digits among them.
    """
    return Comparison(
        name="demo",
        data=DataConfig("digits", limit=300, validation=0.2),
        model="small_cnn",
        training=Training(epochs=60, batch_size=64, rule=Rule(lr=0.1, schedule="cosine", warmup=0.05)),
        forget="random:20%",
        methods=("finetune", "influence", "gradient_ascent", "scrub", "salun", "random_label"),
        seeds=2,
    )
