"""Plain training: epochs of cross-entropy on one set."""

import math
from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.duration import Duration, Steps
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule, differentiable


def fit(
    model: nn.Module,
    images: ImageSet,
    rule: Rule | PerRole,
    context: Context,
    length: Duration,
    *,
    label_smoothing: float = 0.0,
    first: int = 0,
    last: int | None = None,
) -> nn.Module:
    """Train ``model`` in place by cross-entropy on ``images``, as the role ``retain``.

    The schedule of the rule spans the whole ``length``; training goes from epoch ``first`` to epoch ``last`` of it, by
    default from the beginning to the end. Cost: n forward and backward passes an epoch.

    Raises:
        RequestError: There is no epoch ``last``.
    """
    per_epoch = images.steps(length.batch_size)
    checks.between(0, duration.count_epochs(length, per_epoch), stop_after=last)
    model.train()
    step = context.stepper(model, rule, duration.total_steps(length, per_epoch), first=first * per_epoch)
    for batches in duration.passes(images, length, context.generator, first, last):
        for batch in batches:
            step(retain=lambda b=batch: cross_entropy(model(b.inputs), b.labels, label_smoothing))
    return model


@dataclass(frozen=True)
class Training:
    """The training of the original model."""

    epochs: int = 30
    """Passes over the training set."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule = Rule(lr=0.1, schedule="cosine", warmup=0.05)
    """The update rule."""
    steps: Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    record: bool = False
    """Record the training so that it can be replayed, as hessian_free and trajectory_influence need. Its steps are of
    SGD in evaluation mode, without augmentation, with the L2 term in the loss."""
    fixed_order: bool = False
    """With record: the same order of examples in every epoch, as published; else a new order in each."""
    stop_after: int | None = None
    """Stop after this many epochs of the schedule: a checkpoint to rewind pruned models to."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.between(0, self.epochs if self.steps is None else math.inf, stop_after=self.stop_after)
        if self.record:
            differentiable(self.rule)
        if self.record and self.stop_after is not None:
            raise RequestError("a recorded training must be complete: leave out stop_after; prune it without rewind")
        if self.fixed_order and not self.record:
            raise RequestError("fixed_order is for recorded trainings: add record, or leave it out")
