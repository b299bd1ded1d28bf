"""Six methods on scikit-learn's handwritten digits, two seeds, in about a minute."""

from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig
from expunge.training.fit import Training
from expunge.training.rules import Rule


def recipe() -> Comparison:
    """Ten percent of 600 digits forgotten at random by a small convolutional network, two seeds.

    With so few images, the network misclassifies some unseen ones, so that forgetting is visible.
    """
    return Comparison(
        name="demo",
        data=DataConfig("digits", limit=600),
        model="small_cnn",
        training=Training(epochs=60, batch_size=64, rule=Rule(lr=0.1, schedule="cosine", warmup=0.05)),
        forget="random:10%",
        methods=(
            "finetune:lr=0.1",
            "gradient_ascent:lr=0.03,batch_size=32",
            "neggrad_plus:alpha=0.8",
            "random_label:lr=0.003",
            "salun:lr=0.003",
            "scrub:lr=0.02,maximise_epochs=3,forget_batch_size=32",
        ),
        seeds=2,
    )
