"""Fine-tuning on the retain set."""

from dataclasses import dataclass

from torch import nn

from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.fit import fit
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class FinetuneConfig:
    """Hyperparameters of fine-tuning."""

    epochs: int = 3
    """Passes over the retain set."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=0.1, schedule="linear", clip=5.0)
    """The update rule."""

    def __post_init__(self) -> None:
        duration.check(self)


@method(
    reference="Warnecke et al. 2023, arXiv:2108.11577; Golatkar et al. 2020, arXiv:1911.04933",
    aliases=("FT",),
    search={"lr": (1e-3, 1e-1)},
    stronger=2.0,
    paper={"epochs": 10, "lr": 0.01, "schedule": "constant", "clip": None},
    roles=("retain",),
)
def unlearn(model: nn.Module, data: UnlearningData, config: FinetuneConfig, context: Context) -> nn.Module:
    """Continue training on the retain set alone: ``min E_retain[CE]``."""
    return fit(model, data.retain, config.rule, context, config)
