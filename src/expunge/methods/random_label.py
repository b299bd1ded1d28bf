"""Random labels: train the forget set on wrong labels and the retain set on true ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks, masks
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.core.registry import method
from expunge.core.weights import trainable
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.batches import by_role, joined
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule
from expunge.training.stepper import Objective, Stepper


@dataclass(frozen=True)
class RandomLabelConfig:
    """Hyperparameters of random labels."""

    epochs: int = 3
    """Epochs: each one pass over the forget set and one over the retain set."""
    steps: duration.Steps = None
    """Steps, of either set or of both mixed, in place of epochs; the last epoch may be cut short."""
    batch_size: int = 128
    """Examples per step."""
    order: Literal["alternate", "mixed"] = "alternate"
    """Whether an epoch is a pass over the forget set, then the retain set, or over both shuffled together."""
    true_label: bool = False
    """Include the true label in the random ones, as the released code does."""
    proximal: float = 0.0
    """Fraction of weights that are reset to their original values after the first step, decreasing to 0: SalUn-soft."""
    rule: Rule | PerRole = Rule(lr=0.03, schedule="linear")
    """The update rule."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.between(0, 1, proximal=self.proximal)
        checks.one_of(("alternate", "mixed"), order=self.order)


@method(
    reference="Golatkar et al. 2020, arXiv:1911.04933; Fan et al. 2024, arXiv:2310.12508",
    aliases=("RL",),
    search={"lr": (1e-3, 1e-1)},
    stronger=2.0,
    paper={"epochs": 10, "lr": 0.01, "schedule": "constant"},
    reach=0.75,
)
def unlearn(model: nn.Module, data: UnlearningData, config: RandomLabelConfig, context: Context) -> nn.Module:
    """Each epoch, ``min E_forget[CE(random label)]``, then ``min E_retain[CE]``, with new random labels.

    In mixed order a step minimises the mean over a batch of both. With ``proximal``, each step ends with the
    soft threshold that solves ``min ||w - w'||^2 / 2 + t ||w - w_0||_1``, w' being the weights after the step and
    w_0 the original ones (:func:`soft_threshold`).
    """
    if data.num_classes < 2 and not config.true_label:
        raise RequestError("with one class there is no wrong label to draw: random_label needs at least two classes")
    model.train()
    size, generator = config.batch_size, context.generator
    if config.order == "mixed":
        both = joined(data.forget, data.retain)
        per_epoch, epoch = both.steps(size), partial(_mixed, model, both, data, config)
    else:
        per_epoch = data.forget.steps(size) + data.retain.steps(size)
        epoch = partial(_alternate, model, data, config)
    total = duration.total_steps(config, per_epoch)
    step = context.stepper(model, config.rule, total)
    original = _copies(model, context) if config.proximal > 0 else []
    for begun in range(0, total, per_epoch):
        for objectives in islice(epoch(step, generator), total - begun):
            step(**objectives)
            soft_threshold(original, config.proximal * (1 - (step.taken - 1) / step.steps))
    return model


def draw_labels(labels: Tensor, num_classes: int, true_label: bool, generator: torch.Generator) -> Tensor:
    """Labels (batch,) uniform over all classes, or over all but each example's own."""
    if true_label:
        drawn = torch.randint(num_classes, labels.shape, generator=generator, device=generator.device)
        return drawn.to(labels.device)
    shift = torch.randint(1, num_classes, labels.shape, generator=generator, device=generator.device)
    return (labels + shift.to(labels.device)) % num_classes


def _alternate(
    model: nn.Module, data: UnlearningData, config: RandomLabelConfig, _: Stepper, generator: torch.Generator
) -> Iterator[dict[str, Objective]]:
    """The objectives of each step of an epoch: first those of the forget set, then those of the retain set."""
    for batch in data.forget.batches(config.batch_size, generator):
        labels = draw_labels(batch.labels, data.num_classes, config.true_label, generator)
        yield {"forget": lambda b=batch, y=labels: cross_entropy(model(b.inputs), y)}
    for batch in data.retain.batches(config.batch_size, generator):
        yield {"retain": lambda b=batch: cross_entropy(model(b.inputs), b.labels)}


def _mixed(
    model: nn.Module,
    both: ImageSet,
    data: UnlearningData,
    config: RandomLabelConfig,
    step: Stepper,
    generator: torch.Generator,
) -> Iterator[dict[str, Objective]]:
    """The objectives of each step of an epoch over both sets: they sum to the mean cross-entropy of the batch."""
    for batch in both.batches(config.batch_size, generator):
        of_forget = batch.ids < len(data.forget)
        drawn = draw_labels(batch.labels, data.num_classes, config.true_label, generator)
        labels = torch.where(of_forget, drawn, batch.labels)
        yield by_role(
            lambda x=batch.inputs, y=labels: functional.cross_entropy(model(x).float(), y, reduction="none"),
            of_forget,
            step,
        )


@dataclass(frozen=True)
class Start:
    """A weight, its original value, and the 1-D indices of its entries that are neither pruned nor frozen."""

    weight: nn.Parameter
    first: Tensor
    entries: Tensor


def _copies(model: nn.Module, context: Context) -> list[Start]:
    weights = trainable(model)
    kept = masks.over(context.sparsity, weights)
    updated = masks.over(context.update_masks if isinstance(context.update_masks, Mask) else None, weights)
    return [
        Start(weight, weight.detach() * kept[name], (kept[name] & updated[name]).flatten().nonzero().flatten())
        for name, weight in weights.items()
    ]


@torch.no_grad()
def soft_threshold(weights: list[Start], share: float) -> None:
    """Shrink the distance d of each weight from its original value by t: ``d <- sign(d) max(|d| - t, 0)``.

    t is the floor(share p)-th smallest ``|d|`` of the p entries, so that this share of them is reset exactly. O(p),
    without synchronising with the device.
    """
    count = int(share * sum(len(each.entries) for each in weights) + 1e-9)
    if count == 0:
        return
    changes = [each.weight - each.first for each in weights]
    candidates = [d.abs().flatten()[each.entries] for d, each in zip(changes, weights, strict=True)]
    threshold = torch.kthvalue(torch.cat(candidates), count).values
    for each, d in zip(weights, changes, strict=True):
        each.weight.copy_(each.first + d.sign() * (d.abs() - threshold).clamp(min=0))
