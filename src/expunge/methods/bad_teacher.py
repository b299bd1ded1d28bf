"""Bad teacher: a student that follows a competent teacher, and on the forget set an incompetent one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core import checks, weights
from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.batches import by_role, joined
from expunge.training.context import Context
from expunge.training.losses import divergence
from expunge.training.precision import fastest_layout
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class BadTeacherConfig:
    """Hyperparameters of the bad teacher."""

    epochs: int = 3
    """Passes over the forget set and a fraction of the retain set, shuffled together."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    batch_size: int = 256
    """Examples of both sets per step."""
    retain_fraction: float = 0.3
    """Fraction of the retain set, drawn once."""
    temperature: float = 1.0
    """Temperature T of the divergence."""
    rule: Rule | PerRole = Rule(optimizer="adamw", lr=1e-3, weight_decay=0.0)
    """The update rule."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.between(0, 1, retain_fraction=self.retain_fraction)
        checks.above(0, temperature=self.temperature)


@method(
    reference="Chundawat et al. 2023, arXiv:2205.08096",
    aliases=("BadT", "blindspot"),
    search={"lr": (1e-3, 1.0)},
    paper={"epochs": 1, "lr": 1e-4},
    reach=0.75,
)
def unlearn(model: nn.Module, data: UnlearningData, config: BadTeacherConfig, context: Context) -> nn.Module:
    """``min E[u KL_T(incompetent || student) + (1 - u) KL_T(competent || student)]``, u = 1 on the forget set.

    ``KL_T(teacher || student) = T^2 KL(softmax(teacher/T) || softmax(student/T))``. The competent teacher is the
    original model, the incompetent one the same network with new random weights; both are in evaluation mode. A step is
    on the mean over a batch of both sets.
    """
    competent, incompetent = (fastest_layout(weights.frozen_copy(model)) for _ in range(2))
    with context.seeded():
        weights.reinitialise(incompetent)
    generator, count = context.generator, int(config.retain_fraction * len(data.retain) + 1e-9)
    drawn = torch.randperm(len(data.retain), generator=generator, device=generator.device)[:count]
    images = joined(data.forget, data.retain.select(drawn))
    model.train()
    step = context.stepper(model, config.rule, duration.total_steps(config, images.steps(config.batch_size)))
    for batch in duration.batches(images, config, generator):
        x, of_forget = batch.inputs, batch.ids < len(data.forget)

        def divergences(x: Tensor = x, of_forget: Tensor = of_forget) -> Tensor:
            teacher = torch.where(of_forget[:, None], incompetent(x), competent(x))
            return divergence(model(x), teacher, config.temperature)

        step(**by_role(divergences, of_forget, step))
    return model
