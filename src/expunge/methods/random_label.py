"""Random labels: train the forget set on wrong labels and the retain set on true ones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge import training
from expunge.context import Context, UnlearningData
from expunge.errors import RequestError
from expunge.losses import cross_entropy
from expunge.registry import method
from expunge.updates import PerRole, Rule


@dataclass(frozen=True)
class RandomLabelConfig:
    """Hyperparameters of random labels."""

    epochs: int = 10
    """Epochs: each one pass over the forget set, then one over the retain set."""
    batch_size: int = 128
    """Examples per step."""
    true_label: bool = False
    """Let the random label be the true one, with chance 1/classes, as the released code does."""
    rule: Rule | PerRole = Rule(lr=0.01)
    """The update rule."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        training.check_schedule(self.epochs, self.batch_size)


@method(reference="Golatkar et al. 2020, arXiv:1911.04933; Fan et al. 2024, arXiv:2310.12508", aliases=("RL",))
def unlearn(model: nn.Module, data: UnlearningData, config: RandomLabelConfig, context: Context) -> nn.Module:
    """Each epoch, ``min E_forget[CE(random label)]``, then ``min E_retain[CE]``; labels are drawn anew."""
    if data.num_classes < 2 and not config.true_label:
        raise RequestError("with one class there is no wrong label to draw: random_label needs at least two classes")
    model.train()
    size, generator = config.batch_size, context.generator
    step = context.stepper(model, config.rule, config.epochs * (data.forget.steps(size) + data.retain.steps(size)))
    for _ in range(config.epochs):
        for batch in data.forget.batches(size, generator):
            labels = draw_labels(batch.labels, data.num_classes, config.true_label, generator)
            step(forget=lambda b=batch, y=labels: cross_entropy(model(b.inputs), y))
        for batch in data.retain.batches(size, generator):
            step(retain=lambda b=batch: cross_entropy(model(b.inputs), b.labels))
    return model


def draw_labels(labels: Tensor, num_classes: int, true_label: bool, generator: torch.Generator) -> Tensor:
    """Labels (batch,) uniform over all classes, or over all but each example's own."""
    if true_label:
        drawn = torch.randint(num_classes, labels.shape, generator=generator, device=generator.device)
        return drawn.to(labels.device)
    shift = torch.randint(1, num_classes, labels.shape, generator=generator, device=generator.device)
    return (labels + shift.to(labels.device)) % num_classes
