"""Gradient ascent on the forget set."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.registry import method
from expunge.core.weights import check_plain, trainable
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.losses import cross_entropy, l1_penalty
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class GradientAscentConfig:
    """Hyperparameters of gradient ascent."""

    epochs: int = 3
    """Passes over the forget set."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    batch_size: int = 128
    """Examples per step."""
    l1: float = 0.0
    """Weight of the l1 norm of all trainable weights, which is minimised; none by default."""
    rule: Rule | PerRole = Rule(lr=5e-3, clip=1.0)
    """The update rule; weight decay applies to ascent too."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.at_least(0, l1=self.l1)


@method(
    reference="Thudi et al. 2022, arXiv:2109.13398",
    aliases=("GA", "neggrad"),
    search={"lr": (1e-6, 1e-2)},
    paper={"epochs": 5, "lr": 1e-4, "clip": None},
    reach=0.5,
    extend=64.0,
    roles=("forget",),
)
def unlearn(model: nn.Module, data: UnlearningData, config: GradientAscentConfig, context: Context) -> nn.Module:
    """Maximise the loss of the forget set: ``min -E_forget[CE] + l1 ||w||_1``."""
    if config.l1 > 0:
        check_plain(model, "an l1 norm")
    model.train()
    weights = list(trainable(model).values())
    total = duration.total_steps(config, data.forget.steps(config.batch_size))
    step = context.stepper(model, config.rule, total)
    for batch in duration.batches(data.forget, config, context.generator):
        step(forget=lambda b=batch: l1_penalty(weights, config.l1) - cross_entropy(model(b.inputs), b.labels))
    return model
