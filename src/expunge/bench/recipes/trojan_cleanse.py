"""Remove a backdoor by unlearning the poisoned images, from a dense and from sparse models: small CIFAR-10."""

from expunge.bench.grid import Comparison
from expunge.data.poisons.patch import PatchTrigger
from expunge.data.split_data import DataConfig
from expunge.training.fit import Training
from expunge.training.rules import Rule


def recipe() -> Comparison:
    """The trojan cleanse of Jia et al. 2023 (arXiv:2304.04934, section 5): a black patch on a tenth of the images."""
    poison = PatchTrigger(share=0.1, target=0, size=4, margin=2)
    return Comparison(
        name="trojan-cleanse",
        data=DataConfig("cifar10", limit=4_000, test_limit=2_000, poison=poison),
        model="resnet18:width=8",
        training=Training(epochs=20, batch_size=64, rule=Rule(lr=0.05, schedule="cosine", warmup=0.1)),
        forget="poisoned",
        methods=(
            "finetune:epochs=5,lr=0.02,schedule=constant,clip=none",
            "gradient_ascent:epochs=5,lr=0.0001,clip=none,reach=none",
            "neggrad_plus:epochs=5,alpha=0.99,lr=0.01,schedule=constant,clip=none,reach=none",
            "random_label:epochs=5,lr=0.01,schedule=constant,reach=none",
            "l1_sparse:epochs=5,lr=0.02,schedule=constant,clip=none",
        ),
        prunings=("dense", *(f"magnitude:rate={rate},rewind=2" for rate in (0.8, 0.95))),
    )
