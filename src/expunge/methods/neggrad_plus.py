"""NegGrad+: descend on the retain set and ascend on the forget set in the same step."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.batches import cycle
from expunge.training.context import Context
from expunge.training.fit import fit
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class NegGradPlusConfig:
    """Hyperparameters of NegGrad+."""

    alpha: float = 0.7
    """Weight of the retain loss, in [0, 1]; the forget loss has the weight alpha - 1."""
    epochs: int = 3
    """Passes over the retain set; the forget set is cycled."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    batch_size: int = 128
    """Examples of each set per step."""
    rule: Rule | PerRole = Rule(lr=0.05, schedule="linear", clip=1.0)
    """The update rule."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.between(0, 1, alpha=self.alpha)


@method(
    reference="Kurmanji et al. 2023, arXiv:2302.09880",
    aliases=("NG",),
    search={"lr": (1e-3, 1e-1), "alpha": (0.5, 0.999)},
    stronger=2.0,
    paper={"alpha": 0.99, "epochs": 5, "lr": 0.01, "schedule": "constant", "clip": None},
    reach=0.75,
)
def unlearn(model: nn.Module, data: UnlearningData, config: NegGradPlusConfig, context: Context) -> nn.Module:
    """Descend on retain, ascend on forget: ``min alpha E_retain[CE] - (1 - alpha) E_forget[CE]``.

    With alpha = 1 this is fine-tuning, without any use of the forget set.
    """
    alpha, size = config.alpha, config.batch_size
    if alpha == 1:
        return fit(model, data.retain, config.rule, context, config)
    model.train()
    step = context.stepper(model, config.rule, duration.total_steps(config, data.retain.steps(size)))
    for retain_batches in duration.passes(data.retain, config, context.generator):
        for retain, forget in zip(retain_batches, cycle(data.forget, size, context.generator), strict=False):
            step(
                retain=lambda b=retain: alpha * cross_entropy(model(b.inputs), b.labels),
                forget=lambda b=forget: (alpha - 1) * cross_entropy(model(b.inputs), b.labels),
            )
    return model
