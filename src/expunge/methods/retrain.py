"""Retraining from scratch: the exact answer that every other method approximates."""

from dataclasses import dataclass

from torch import nn

from expunge import parameters, training
from expunge.context import Context, UnlearningData
from expunge.errors import RequestError
from expunge.registry import method
from expunge.rules import PerRole, Rule


@dataclass(frozen=True)
class RetrainConfig:
    """Hyperparameters of retraining; a fair reference uses those of the original model."""

    epochs: int = 30
    """Passes over the retain set."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=0.1, schedule="cosine", warmup=0.05)
    """The update rule."""
    label_smoothing: float = 0.0
    """Share of each label spread evenly over all classes, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        training.check_schedule(self.epochs, self.batch_size)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise RequestError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")


@method(reference="exact unlearning by definition", aliases=("retrained",), roles=("retain",))
def unlearn(model: nn.Module, data: UnlearningData, config: RetrainConfig, context: Context) -> nn.Module:
    """Draw all weights anew and train on the retain set alone; the forget set is never read."""
    parameters.reinitialise(model)
    return training.fit(
        model,
        data.retain,
        config.rule,
        context,
        epochs=config.epochs,
        batch_size=config.batch_size,
        label_smoothing=config.label_smoothing,
    )
