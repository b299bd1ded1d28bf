"""What the recipes of Hessian-free unlearning (Qiao et al. 2024, arXiv:2404.01712) have in common."""

from expunge.rules import Rule
from expunge.training import Training

VARIANTS = (
    "hessian_free",
    "hessian_free:variant=additive as additive",
    "hessian_free:as_released=true as released",
)
"""The tangent of the very forget set, the sum of one vector for each example, and the released recursion."""


def training(
    epochs: int, batch_size: int, *, lr: float, l2: float, clip: float, decay: float = 0.995
) -> Training:
    """Recorded steps of plain SGD in one order of examples, the rate falling at each step, as published."""
    rule = Rule(lr=lr, momentum=0.0, weight_decay=l2, schedule="exponential", decay=decay, clip=clip)
    return Training(epochs, batch_size, rule, record=True, fixed_order=True)


def newton(l2: float, damping: float = 1e-3) -> tuple[str, ...]:
    """The two methods that solve with the curvature at the end of training."""
    return tuple(f"{name}:l2={l2},damping={damping}" for name in ("newton_step", "infinitesimal_jackknife"))


def finetune(plan: Training) -> str:
    """The published fine-tuning: fifteen epochs on the retain set by the rule of training, from its first rate on."""
    rule = plan.rule
    return (
        f"finetune:epochs=15,batch_size={plan.batch_size},lr={rule.lr},momentum=0.0,weight_decay={rule.weight_decay},"
        f"schedule=exponential,decay={rule.decay},clip={rule.clip}"
    )
