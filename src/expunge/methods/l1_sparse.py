"""l1-sparse unlearning: fine-tuning on the retain set with an l1 penalty on all weights."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core import checks
from expunge.core.registry import method
from expunge.core.weights import check_plain, trainable
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration, sparsity
from expunge.training.context import Context
from expunge.training.losses import cross_entropy, l1_penalty
from expunge.training.rules import PerRole, Rule


class AccuracyCollapseWarning(UserWarning):
    """The model no longer classifies the retain set: the l1 penalty is too large."""


@dataclass(frozen=True)
class L1SparseConfig:
    """Hyperparameters of l1-sparse unlearning."""

    epochs: int = 3
    """Passes over the retain set."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    alpha: float = 1e-4
    """Weight of the l1 norm in the first epoch, which decreases linearly; the released 0.2 is far too large."""
    final_epochs: int = 0
    """Number of last epochs without penalty; as many as there are, or more, for no penalty at all."""
    threshold: float = 1e-3
    """Absolute value below which a weight is small: the share of small weights is noted."""
    prune: bool = False
    """Prune the small weights at the end."""
    linear: bool = False
    """Prune linear layers too; by default, convolutions alone."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=0.1, schedule="linear", clip=5.0)
    """The update rule."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.at_least(0, alpha=self.alpha, final_epochs=self.final_epochs, threshold=self.threshold)

    def alpha_of(self, epoch: int, epochs: int) -> float:
        """The weight of the l1 norm in an epoch of ``epochs``, counted from 0."""
        decaying = epochs - self.final_epochs
        return self.alpha * (1 - epoch / decaying) if epoch < decaying else 0.0


@method(
    reference="Jia et al. 2023, arXiv:2304.04934",
    aliases=("FT_prune", "FT_l1"),
    search={"lr": (1e-3, 1e-1), "alpha": (1e-6, 1e-3)},
    stronger=2.0,
    paper={"epochs": 10, "alpha": 5e-4, "lr": 0.01, "schedule": "constant", "clip": None},
    roles=("retain",),
)
def unlearn(model: nn.Module, data: UnlearningData, config: L1SparseConfig, context: Context) -> nn.Module:
    """Fine-tune towards sparse weights: ``min E_retain[CE] + alpha_e ||w||_1`` over all trainable weights.

    In epoch e of E, counted from 0, with K final ones: ``alpha_e = alpha (1 - e / (E - K))``, and 0 from
    e = E - K on. The gradient of the norm makes weights small but not zero; ``prune`` prunes those below ``threshold``
    that are not frozen. Warns if the accuracy on the retain set collapses.

    Raises:
        RequestError: ``prune``, and the model has no prunable weights.
    """
    check_plain(model, "an l1 norm")
    if config.prune:
        sparsity.required(model, config.linear)
    model.train()
    weights = list(trainable(model).values())
    per_epoch = data.retain.steps(config.batch_size)
    epochs = duration.count_epochs(config, per_epoch)
    step = context.stepper(model, config.rule, duration.total_steps(config, per_epoch))
    accuracies: list[Tensor] = []
    before_last_epoch = 0
    for epoch, batches in enumerate(duration.passes(data.retain, config, context.generator)):
        alpha, before_last_epoch = config.alpha_of(epoch, epochs), len(accuracies)
        for batch in batches:
            step(retain=lambda b=batch, a=alpha: _objective(model(b.inputs), b.labels, weights, a, accuracies))
    if config.alpha > 0 and accuracies:
        last = torch.stack(accuracies[before_last_epoch:]).mean()
        if collapse := _collapse(accuracies[0], last, data.retain.labels, config):
            context.notes["collapse"] = collapse
            warnings.warn(collapse, AccuracyCollapseWarning, stacklevel=2)
    context.notes["below_threshold"] = below(model, config)
    if config.prune:
        prune(model, config, context)
    return model


def below(model: nn.Module, config: L1SparseConfig) -> dict[str, float]:
    """The threshold, and the share of weights below it: of all trainable ones, and of the prunable ones, if any."""
    of = {"all": trainable(model), "prunable": sparsity.weights(model, config.linear)}
    small = {key: [weight.detach().abs() < config.threshold for weight in of[key].values()] for key in of if of[key]}
    shares = {key: float(torch.cat([each.flatten() for each in found]).double().mean()) for key, found in small.items()}
    return {"threshold": config.threshold} | shares


@torch.no_grad()
def prune(model: nn.Module, config: L1SparseConfig, context: Context) -> None:
    """Prune the weights below the threshold, also in the sparsity mask of ``context``."""
    weights = sparsity.required(model, config.linear)
    candidates = sparsity.candidates(weights, context, "retain")
    pruned = {name: candidates[name] & (weight.abs() < config.threshold) for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.masked_fill_(pruned[name], 0.0)
    context.sparsity = sparsity.without(context.sparsity, pruned)
    context.notes["sparsity"] = sparsity.sparsity(weights, context.sparsity)


def _objective(logits: Tensor, labels: Tensor, weights: list[nn.Parameter], alpha: float, seen: list[Tensor]) -> Tensor:
    """``CE + alpha ||w||_1``; the accuracy on the batch is appended to ``seen``, on the device."""
    seen.append((logits.detach().argmax(dim=1) == labels).float().mean())
    return cross_entropy(logits, labels) + l1_penalty(weights, alpha)


def _collapse(first: Tensor, last: Tensor, labels: Tensor, config: L1SparseConfig) -> str:
    """The warning if the accuracy above chance began above half of its maximum and lost more than half of that.

    ``first`` is the accuracy of the first step, ``last`` the mean of the last epoch; chance is the share of the most
    frequent class.
    """
    share = labels.bincount().max() / len(labels)
    began, ended, chance = torch.stack([first, last, share.to(first)]).tolist()
    if began - chance > 0.5 * (1 - chance) and ended - chance < 0.5 * (began - chance):
        return (
            f"accuracy on the retain set fell from {began:.0%} in the first step to {ended:.0%} in the last epoch "
            f"(chance is {chance:.0%}): alpha = {config.alpha:g} is too large for this lr: try a tenth of it, or less"
        )
    return ""
