"""Plain training: epochs of cross-entropy on one set."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule, differentiable


def fit(
    model: nn.Module,
    images: ImageSet,
    rule: Rule | PerRole,
    context: Context,
    *,
    epochs: int,
    batch_size: int,
    label_smoothing: float = 0.0,
    first: int = 0,
    last: int | None = None,
) -> nn.Module:
    """Train ``model`` in place by cross-entropy on ``images``, as the role ``retain``.

    The schedule of the rule spans ``epochs``; training goes from epoch ``first`` to epoch ``last`` of it, by default
    from the beginning to the end. Cost: n forward and backward passes an epoch.
    """
    model.train()
    steps = images.steps(batch_size)
    step = context.stepper(model, rule, epochs * steps, first=first * steps)
    for _ in range(first, epochs if last is None else last):
        for batch in images.batches(batch_size, context.generator):
            step(retain=lambda b=batch: cross_entropy(model(b.inputs), b.labels, label_smoothing))
    return model


def check_schedule(epochs: int, batch_size: int) -> None:
    """Raise a RequestError unless there can be ``epochs`` passes in batches of ``batch_size``."""
    if epochs < 0:
        raise RequestError(f"epochs must be at least 0, got {epochs}")
    if batch_size < 1:
        raise RequestError(f"batch_size must be at least 1, got {batch_size}")


@dataclass(frozen=True)
class Training:
    """The training of the original model."""

    epochs: int = 30
    """Passes over the training set."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule = Rule(lr=0.1, schedule="cosine", warmup=0.05)
    """The update rule."""
    record: bool = False
    """Record the training so that it can be replayed, as hessian_free and trajectory_influence need. Its steps are of
    SGD in evaluation mode, without augmentation, with the L2 term in the loss."""
    fixed_order: bool = False
    """With record: the same order of examples in every epoch, as published; else a new order in each."""
    stop_after: int | None = None
    """Stop after this many epochs of the schedule: a checkpoint to rewind pruned models to."""

    def __post_init__(self) -> None:
        check_schedule(self.epochs, self.batch_size)
        checks.between(0, self.epochs, stop_after=self.stop_after)
        if self.record:
            differentiable(self.rule)
        if self.record and self.stop_after is not None:
            raise RequestError("a recorded training must be complete: leave out stop_after; prune it without rewind")
        if self.fixed_order and not self.record:
            raise RequestError("fixed_order is for recorded trainings: add record, or leave it out")
