"""Gradient ascent on the forget set."""

from dataclasses import dataclass

from torch import nn

from expunge import training
from expunge.context import Context, UnlearningData
from expunge.losses import cross_entropy
from expunge.registry import method
from expunge.updates import PerRole, Rule


@dataclass(frozen=True)
class GradientAscentConfig:
    """Hyperparameters of gradient ascent."""

    epochs: int = 5
    """Passes over the forget set."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=1e-4)
    """The update rule; weight decay still shrinks the weights."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        training.check_schedule(self.epochs, self.batch_size)


@method(reference="Thudi et al. 2022, arXiv:2109.13398", aliases=("GA", "neggrad"))
def unlearn(model: nn.Module, data: UnlearningData, config: GradientAscentConfig, context: Context) -> nn.Module:
    """Climb the loss of the forget set: ``min -E_forget[CE]``."""
    model.train()
    step = context.stepper(model, config.rule, config.epochs * data.forget.steps(config.batch_size))
    for _ in range(config.epochs):
        for batch in data.forget.batches(config.batch_size, context.generator):
            step(forget=lambda b=batch: -cross_entropy(model(b.inputs), b.labels))
    return model
