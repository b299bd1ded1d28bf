"""SFRon: forget steps, weighted by how low each loss is, at intervals between retain steps."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks
from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.batches import cycle
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule

RULES = PerRole(Rule(lr=0.03, schedule="cosine", clip=7.0), Rule(lr=0.03, schedule="cosine"), share="first")
"""The published rules but for their rate: a shared momentum, and clipping for forget steps alone."""


@dataclass(frozen=True)
class SfronConfig:
    """Hyperparameters of SFRon."""

    epochs: int = 3
    """Passes over the retain set; the forget set is cycled."""
    steps: duration.Steps = None
    """Steps on retain batches in place of epochs (published: 1500)."""
    forget_every: int = 5
    """Number of retain steps for each forget step, which precedes them."""
    alpha: float = 100.0
    """Weight of the forget loss at the start; it decreases to 0 over the run by half a cosine."""
    exponent: float = 0.5
    """An example with loss l has the weight l^-exponent; 0 for equal weights."""
    batch_size: int = 128
    """Retain examples per step."""
    forget_batch_size: int | None = None
    """Forget examples per step; by default as many as retain examples."""
    rule: Rule | PerRole = RULES
    """The update rule; by default both roles share a momentum, and the gradient of forget steps is clipped."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.at_least(0, alpha=self.alpha, exponent=self.exponent)
        checks.at_least(1, forget_every=self.forget_every, forget_batch_size=self.forget_batch_size)


@method(
    reference="Huang et al. 2024, arXiv:2409.19732; as in Zhong et al. 2025, arXiv:2504.15827",
    aliases=("SFRon",),
    search={"lr": (1e-3, 1e-1), "alpha": (1.0, 100.0)},
    stronger=2.0,
    paper={"epochs": 5, "alpha": 25.0, "lr": 0.01},
    reach=0.75,
)
def unlearn(model: nn.Module, data: UnlearningData, config: SfronConfig, context: Context) -> nn.Module:
    """At each of T steps ``min E_retain[CE]``; before every ``forget_every``-th ``min -alpha_t sum_i w_i l_i``.

    ``l_i`` is the cross-entropy of forget example i, ``w_i`` its weight (:func:`adaptive_weights`), and
    ``alpha_t = alpha (1 + cos(pi t / T)) / 2`` at step t = 0..T-1, T being ``steps``, or the steps of ``epochs`` passes
    over the retain set. The papers' saliency ratio is an update mask, not part of this loop.
    """
    model.train()
    size, generator = config.batch_size, context.generator
    total = duration.total_steps(config, data.retain.steps(size))
    forgetting = cycle(data.forget, config.forget_batch_size or size, generator)
    # One call per objective: a rule shared by both roles must alternate, not step on the sum of the two losses.
    step = context.stepper(model, config.rule, total + math.ceil(total / config.forget_every))
    for t, retain in enumerate(duration.batches(data.retain, config, generator)):
        if t % config.forget_every == 0:
            alpha, forget = config.alpha * (1 + math.cos(math.pi * t / total)) / 2, next(forgetting)
            step(forget=lambda b=forget, a=alpha: -a * adaptive_loss(model(b.inputs), b.labels, config.exponent))
        step(retain=lambda b=retain: cross_entropy(model(b.inputs), b.labels))
    return model


def adaptive_loss(logits: Tensor, labels: Tensor, exponent: float) -> Tensor:
    """``sum_i w_i l_i`` over (batch, classes) logits, with :func:`adaptive_weights` as constants."""
    losses = functional.cross_entropy(logits.float(), labels, reduction="none")
    return (adaptive_weights(losses, exponent) * losses).sum()


def adaptive_weights(losses: Tensor, exponent: float) -> Tensor:
    """``w_i = l_i^-exponent / sum_j l_j^-exponent`` of losses (batch,) >= 0, without gradient.

    A loss of 0, to which float32 rounds any below about 6e-8, counts as the smallest positive loss of the batch, since
    its own gradient is 0; a batch of zeros is weighted evenly. A softmax of logarithms avoids overflow.
    """
    losses = losses.detach()
    smallest = torch.where(losses > 0, losses, torch.finfo(losses.dtype).max).amin()
    return torch.softmax(-exponent * losses.maximum(smallest).log(), dim=0)
