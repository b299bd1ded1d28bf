"""Common parts of the recipes of Hessian-free unlearning (Qiao et al. 2024, arXiv:2404.01712)."""

import os
from pathlib import Path

from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig
from expunge.training.fit import Training
from expunge.training.rules import Rule, weight_decay_of

VARIANTS = (
    "hessian_free",
    "hessian_free:variant=additive as additive",
    "hessian_free:as_released=true as released",
)
"""The tangent of the forget set, the sum of one vector per example, and the released recursion."""


def training(epochs: int, batch_size: int, *, lr: float, l2: float, clip: float, decay: float = 0.995) -> Training:
    """Return a recorded training by plain SGD, with a fixed order of examples and exponential decay, as published."""
    rule = Rule(lr=lr, momentum=0.0, weight_decay=l2, schedule="exponential", decay=decay, clip=clip)
    return Training(epochs, batch_size, rule, record=True, fixed_order=True)


def newton(l2: float, damping: float) -> tuple[str, ...]:
    """Return the two methods that use the curvature at the end of training."""
    return tuple(f"{name}:l2={l2},damping={damping}" for name in ("newton_step", "infinitesimal_jackknife"))


def finetune(plan: Training) -> str:
    """Return the published fine-tuning: 15 epochs on the retain set with the rule of training."""
    rule = plan.rule
    return (
        f"finetune:epochs=15,batch_size={plan.batch_size},lr={rule.lr},momentum=0.0,weight_decay={rule.weight_decay},"
        f"schedule=exponential,decay={rule.decay},clip={rule.clip}"
    )


def network(name: str, data: DataConfig, model: str, plan: Training, forget: str) -> Comparison:
    """Return the comparison for a network without normalisation, trained with a negligible L2 term.

    The damping of Newton's steps is the published 0.01, which the released code adds twice.
    """
    methods = (*VARIANTS, *newton(l2=weight_decay_of(plan.rule), damping=0.02), finetune(plan))
    return Comparison(name, data, model, plan, forget, methods)


def fashion(name: str, model: str) -> Comparison:
    """Return the comparison on Fashion-MNIST: 200 of 4,000 images forgotten; nearly all gradients are clipped to 0.5.

    This is one of the seven published sizes of the forget set (40 to 1,200). Pixels are normalised by the statistics
    of the data set, not by 0.5 and 0.5, and the subset of images is class-balanced.
    """
    plan = training(30, 256, lr=0.5, l2=1e-6, clip=0.5)
    data = DataConfig("fashion_mnist", limit=4_000, test_limit=1_600, validation=0.0)
    return network(name, data, model, plan, "random:200")


def residual(name: str, data: DataConfig, plan: Training) -> Comparison:
    """Return the comparison for ResNet-18: 50 images forgotten, with the published fine-tuning and gradient ascent."""
    ascent = (
        f"gradient_ascent:epochs=2,batch_size=50,lr={plan.rule.lr / 10},momentum=0.0,weight_decay=0.0,clip=none,"
        "reach=none"
    )
    return Comparison(name, data, "resnet18", plan, "random:50", (*VARIANTS, finetune(plan), ascent))


def folder(name: str) -> str:
    """Return the folder of a data set within EXPUNGE_DATA."""
    return str(Path(os.environ.get("EXPUNGE_DATA", "")) / name)
