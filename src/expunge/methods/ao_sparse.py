"""AO-sparse unlearning: prune the smallest weights and fine-tune on the retain set, in turn."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training import sparsity as prunable
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class AoSparseConfig:
    """Hyperparameters of AO-sparse unlearning."""

    epochs: int = 10
    """Passes over the retain set."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    rate: float = 0.95
    """Share of the remaining prunable weights that is pruned at the end."""
    interval: int = 2
    """Epochs from one pruning to the next."""
    linear: bool = False
    """Prune linear layers too; by default, convolutions alone."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=0.01)
    """The update rule."""
    as_released: bool = False
    """Prune where the number of remaining epochs is a multiple of the interval, so that one pruning may be missing, and
    rank the weights of the last forward pass. For comparisons with published numbers only."""

    def __post_init__(self) -> None:
        duration.check(self)
        prunable.check(self.rate)
        checks.at_least(1, interval=self.interval)

    def portions(self, total: int, epochs: int) -> dict[int, int]:
        """Of ``total`` weights, the number to prune at the start of each of ``epochs``, counted from 0."""
        events = -(-epochs // self.interval)
        first = epochs % self.interval if self.as_released else 0
        at = range(first, epochs, self.interval)
        numbers = prunable.portions(total, self.rate, events, as_released=self.as_released)
        return dict(zip(at, numbers, strict=False))


@method(
    reference="Jia et al. 2023, arXiv:2304.04934",
    aliases=("FT_prune_bi",),
    search={"lr": (1e-3, 1e-1)},
    roles=("retain",),
)
def unlearn(model: nn.Module, data: UnlearningData, config: AoSparseConfig, context: Context) -> nn.Module:
    """Every ``interval`` epochs, prune the smallest ``|w|``; in every epoch, ``min E_retain[CE]`` over the others.

    With J prunings, each prunes the share ``1 - (1 - rate)^(1/J)`` of the remaining weights, all layers ranked
    together, so that the last reaches ``rate``. Frozen weights are not pruned, and do not count. The sparsity mask of
    the result replaces that of ``context``.
    """
    model.train()
    weights = prunable.required(model, config.linear)
    per_epoch = data.retain.steps(config.batch_size)
    step = context.stepper(model, config.rule, duration.total_steps(config, per_epoch))
    candidates = prunable.candidates(weights, context, "retain")
    portions = config.portions(prunable.count(candidates), duration.count_epochs(config, per_epoch))
    sparsity = context.sparsity
    magnitudes = prunable.magnitudes(weights)
    for epoch, batches in enumerate(duration.passes(data.retain, config, context.generator)):
        if epoch in portions:
            step.check()
            magnitudes = magnitudes if config.as_released else prunable.magnitudes(weights)
            pruned = prunable.smallest(magnitudes, candidates, portions[epoch])
            candidates = {name: kept & ~pruned[name] for name, kept in candidates.items()}
            sparsity = prunable.without(sparsity, pruned)
            step.sparsify(sparsity)
        for batch in batches:
            if config.as_released:
                magnitudes = prunable.magnitudes(weights)
            step(retain=lambda b=batch: cross_entropy(model(b.inputs), b.labels))
    context.sparsity = sparsity
    context.notes["sparsity"] = prunable.sparsity(weights, sparsity)
    return model
