"""The quick start of Hessian-free unlearning: logistic regression on 1,000 digits of MNIST, in about a minute."""

from expunge import config
from expunge.plans import DataConfig
from expunge.sweeps.grid import Comparison
from expunge.sweeps.recipes import _hessian_free


def recipe() -> Comparison:
    """Fifty of 1,000 images forgotten at random, a strongly convex loss, four seeds: how near do weights come?"""
    plan = _hessian_free.training(15, 32, lr=0.05, l2=0.5, clip=5.0)
    return Comparison(
        name="hessian-free-quick",
        data=DataConfig(config.parse("data", "mnist"), limit=1_000, test_limit=400, validation=0.0),
        model=config.parse("models", "logistic"),
        training=plan,
        forget="random:50",
        methods=(*_hessian_free.VARIANTS, *_hessian_free.newton(l2=0.5), _hessian_free.finetune(plan)),
        seeds=4,
    )
