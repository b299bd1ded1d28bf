"""Every method on a fifth of CIFAR-10 with a narrow ResNet-18: a real comparison in minutes on a CPU."""

from expunge import config
from expunge.plans import DataConfig
from expunge.rules import Rule
from expunge.sweeps.grid import Comparison
from expunge.training import Training

DUAL = "forget.optimizer=adamw,forget.weight_decay=0.05"
METHODS = (
    "finetune:epochs=5",
    "gradient_ascent:epochs=5",
    "neggrad_plus:epochs=5",
    "l1_sparse:epochs=5",
    "random_label:epochs=5",
    "salun:epochs=5",
    f"salun:epochs=5,{DUAL},forget.lr=1.3e-4 as salun+dual",
    "scrub:epochs=5",
    f"scrub:epochs=5,{DUAL},forget.lr=1e-4 as scrub+dual",
    "sfron:epochs=5",
    f"sfron:epochs=5,{DUAL},forget.lr=1e-4,alpha=1,share=nothing as sfron+dual",
    "sharp_minmax:epochs=3",
    "boundary_shrink:epochs=5",
    "boundary_expanding:epochs=5",
    "bad_teacher:epochs=5",
    "adversarial:epochs=2,directions=2",
)


def recipe() -> Comparison:
    """Ten percent of 10,000 images forgotten at random, ResNet-18 of width 8, one seed."""
    return Comparison(
        name="cifar10-small",
        data=DataConfig(config.parse("data", "cifar10"), limit=10_000, test_limit=5_000),
        model=config.parse("models", "resnet18:width=8"),
        training=Training(epochs=40, batch_size=128, rule=Rule(lr=0.1, schedule="cosine", warmup=0.1)),
        forget="random:10%",
        methods=METHODS,
    )
