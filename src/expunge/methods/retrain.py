"""Retraining from scratch: exact unlearning, which every other method approximates."""

from dataclasses import dataclass

import torch
from torch import nn

from expunge.core.errors import RequestError
from expunge.core.registry import method
from expunge.core.weights import assign, reinitialise
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.fit import fit
from expunge.training.rules import PerRole, Rule
from expunge.trajectory.flat_loss import flat_loss
from expunge.trajectory.plan import Trajectory, needed
from expunge.trajectory.steps import Replay, beginning


@dataclass(frozen=True)
class RetrainConfig:
    """Hyperparameters of retraining; a fair reference uses those of the original model."""

    epochs: int = 30
    """Passes over the retain set."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=0.1, schedule="cosine", warmup=0.05)
    """The update rule."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    label_smoothing: float = 0.0
    """Fraction of each label spread evenly over all classes, in [0, 1)."""
    recorded: bool = False
    """Replay the recorded training of the original instead: its initial weights, its rule and its batches without the
    forgotten examples. The other options are then not used."""

    def __post_init__(self) -> None:
        duration.check(self)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise RequestError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")


@method(reference="exact unlearning by definition", aliases=("retrained",), roles=("retain",))
def unlearn(
    model: nn.Module,
    data: UnlearningData,
    config: RetrainConfig,
    context: Context,
    *,
    trajectory: Trajectory | None = None,
    forgotten: ImageSet | None = None,
) -> nn.Module:
    """Reinitialise the model and train it on the retain set alone.

    With ``recorded``, the mean of a batch is over its retained examples; without any, the step is that of the L2 term
    alone. The forget set is read only to check that the images are those of the recorded training.
    """
    if config.recorded:
        return _replayed(model, data, needed(trajectory, "retrain:recorded=true"), forgotten, context)
    reinitialise(model)
    return fit(model, data.retain, config.rule, context, config, label_smoothing=config.label_smoothing)


def _replayed(
    model: nn.Module, data: UnlearningData, trajectory: Trajectory, forgotten: ImageSet | None, context: Context
) -> nn.Module:
    """The recorded training without the forgotten examples."""
    trajectory.check_images(data.everything(forgotten))
    plan = trajectory.plan
    kept = torch.zeros(len(plan.ids), dtype=torch.bool)
    kept[plan.positions(data.retain.ids)] = True
    with flat_loss(model, data.retain) as loss:
        start = beginning(loss, trajectory)
        weights = Replay(loss, plan, start, kept=kept, on_step=context.on_step).finish()
        assign(model, loss.named(weights))
    return model
