"""SCRUB: a student that obeys the original model on the retain set and disobeys it on the forget set."""

from dataclasses import dataclass

from torch import Tensor, nn

from expunge import parameters, training
from expunge.context import Context, UnlearningData
from expunge.errors import RequestError
from expunge.losses import cross_entropy, distillation
from expunge.registry import method
from expunge.updates import PerRole, Rule


@dataclass(frozen=True)
class ScrubConfig:
    """Hyperparameters of SCRUB."""

    epochs: int = 5
    """Epochs: each one pass over the forget set (the first ``maximise_epochs`` only), then one over the retain set."""
    maximise_epochs: int = 2
    """The first epochs, in which the divergence on the forget set is maximised."""
    temperature: float = 4.0
    """Temperature T of the distillation loss."""
    alpha: float = 0.5
    """Weight of the distillation loss on the retain set."""
    gamma: float = 0.99
    """Weight of the cross-entropy on the retain set."""
    batch_size: int = 128
    """Retain examples per step."""
    forget_batch_size: int | None = None
    """Forget examples per step; by default as many as retain examples."""
    rule: Rule | PerRole = Rule(lr=0.01)
    """The update rule."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        training.check_schedule(self.epochs, self.batch_size)
        training.check_schedule(self.maximise_epochs, 1 if self.forget_batch_size is None else self.forget_batch_size)
        if not self.temperature > 0:
            raise RequestError(f"temperature must be above 0, got {self.temperature}")
        if self.alpha < 0 or self.gamma < 0:
            raise RequestError(f"alpha and gamma must be at least 0, got {self.alpha} and {self.gamma}")


@method(reference="Kurmanji et al. 2023, arXiv:2302.09880", aliases=("SCRUB",))
def unlearn(model: nn.Module, data: UnlearningData, config: ScrubConfig, context: Context) -> nn.Module:
    """``max E_forget[KL_T]`` in the first epochs, and always ``min E_retain[gamma CE + alpha KL_T]``.

    ``KL_T = T^2 KL(teacher || student)`` at temperature T, the teacher being the original model, in
    evaluation mode throughout.
    """
    teacher = parameters.frozen_copy(model)
    model.train()
    temperature, generator = config.temperature, context.generator
    forget_size = config.forget_batch_size or config.batch_size
    maximised = min(config.maximise_epochs, config.epochs)
    total = maximised * data.forget.steps(forget_size) + config.epochs * data.retain.steps(config.batch_size)
    step = context.stepper(model, config.rule, total)
    for epoch in range(config.epochs):
        if epoch < maximised:
            for batch in data.forget.batches(forget_size, generator):
                step(forget=lambda b=batch: -distillation(model(b.inputs), teacher(b.inputs), temperature))
        for batch in data.retain.batches(config.batch_size, generator):
            step(retain=lambda b=batch: _obey(model(b.inputs), teacher(b.inputs), b.labels, config))
    return model


def _obey(student: Tensor, teacher: Tensor, labels: Tensor, config: ScrubConfig) -> Tensor:
    """The loss on the retain set: ``gamma CE + alpha KL_T``."""
    return config.gamma * cross_entropy(student, labels) + config.alpha * distillation(
        student, teacher, config.temperature
    )
