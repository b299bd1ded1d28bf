"""What the recipes of Hessian-free unlearning (Qiao et al. 2024, arXiv:2404.01712) have in common."""

import os
from pathlib import Path

from expunge.bench.grid import Comparison
from expunge.data.split_data import DataConfig
from expunge.training.fit import Training
from expunge.training.rules import Rule

VARIANTS = (
    "hessian_free",
    "hessian_free:variant=additive as additive",
    "hessian_free:as_released=true as released",
)
"""The tangent of the very forget set, the sum of one vector for each example, and the released recursion."""


def training(epochs: int, batch_size: int, *, lr: float, l2: float, clip: float, decay: float = 0.995) -> Training:
    """Recorded steps of plain SGD in one order of examples, the rate falling at each step, as published."""
    rule = Rule(lr=lr, momentum=0.0, weight_decay=l2, schedule="exponential", decay=decay, clip=clip)
    return Training(epochs, batch_size, rule, record=True, fixed_order=True)


def newton(l2: float, damping: float) -> tuple[str, ...]:
    """The two methods that solve with the curvature at the end of training."""
    return tuple(f"{name}:l2={l2},damping={damping}" for name in ("newton_step", "infinitesimal_jackknife"))


def finetune(plan: Training) -> str:
    """The published fine-tuning: fifteen epochs on the retain set by the rule of training, from its first rate on."""
    rule = plan.rule
    return (
        f"finetune:epochs=15,batch_size={plan.batch_size},lr={rule.lr},momentum=0.0,weight_decay={rule.weight_decay},"
        f"schedule=exponential,decay={rule.decay},clip={rule.clip}"
    )


def network(name: str, data: DataConfig, model: str, plan: Training, forget: str) -> Comparison:
    """A network without normalisation, trained without an L2 term to speak of.

    The damping of Newton's steps is the published 0.01, which the released code adds twice.
    """
    steps = newton(l2=plan.rule.weight_decay, damping=0.02)
    methods = (*VARIANTS, *steps, finetune(plan))
    return Comparison(name, data, model, plan, forget, methods)


def fashion(name: str, model: str) -> Comparison:
    """Two hundred of 4,000 images of Fashion-MNIST forgotten, nearly every gradient being clipped to a half."""
    plan = training(30, 256, lr=0.5, l2=1e-6, clip=0.5)
    data = DataConfig("fashion_mnist", limit=4_000, test_limit=1_600, validation=0.0)
    return network(name, data, model, plan, "random:200")


def residual(name: str, data: DataConfig, plan: Training) -> Comparison:
    """ResNet-18, 50 images forgotten, beside fine-tuning and two epochs of gradient ascent as published."""
    ascent = f"gradient_ascent:epochs=2,batch_size=50,lr={plan.rule.lr / 10},momentum=0.0,weight_decay=0.0"
    return Comparison(
        name=name,
        data=data,
        model="resnet18",
        training=plan,
        forget="random:50",
        methods=(*VARIANTS, finetune(plan), ascent),
    )


def folder(name: str) -> str:
    """The folder of a set that is read from its published layout: within EXPUNGE_DATA, as of the sets with a name."""
    return str(Path(os.environ.get("EXPUNGE_DATA", "")) / name)
