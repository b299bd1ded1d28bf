"""Unlearning of sparse and dense models: five methods at four sparsities, on 4,000 images of CIFAR-10."""

from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig
from expunge.training.fit import Training
from expunge.training.rules import Rule


def recipe() -> Comparison:
    """The claim of Jia et al. 2023 (arXiv:2304.04934): one-shot magnitude pruning, rewound to an early epoch."""
    return Comparison(
        name="sparse-vs-dense",
        data=DataConfig("cifar10", limit=4_000, test_limit=2_000),
        model="resnet18:width=8",
        training=Training(epochs=20, batch_size=64, rule=Rule(lr=0.05, schedule="cosine", warmup=0.1)),
        forget="random:10%",
        methods=(
            "finetune:epochs=5,lr=0.02,schedule=constant,clip=none",
            "gradient_ascent:epochs=5,lr=0.0001,clip=none,reach=none",
            "random_label:epochs=5,lr=0.01,schedule=constant,reach=none",
            "scrub:epochs=5,maximise_epochs=2,alpha=0.5,forget_batch_size=none,lr=0.01,schedule=constant,clip=none,reach=none",
            "l1_sparse:epochs=5,lr=0.02,schedule=constant,clip=none",
        ),
        prunings=("dense", *(f"magnitude:rate={rate},rewind=2" for rate in (0.5, 0.8, 0.95))),
        seeds=2,
    )
