"""SCRUB: a student trained to agree with the original model on the retain set and to differ on the forget set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from expunge.core import checks, weights
from expunge.core.errors import RequestError
from expunge.core.registry import method
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import predict
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.losses import cross_entropy, distillation
from expunge.training.precision import fastest_layout
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class ScrubConfig:
    """Hyperparameters of SCRUB."""

    epochs: int = 3
    """Epochs: each one pass over the forget set (the first ``maximise_epochs`` only), then one over the retain set."""
    steps: duration.Steps = None
    """Steps on retain batches in place of epochs; the last epoch may be cut short."""
    maximise_epochs: int = 3
    """The first epochs, in which the divergence on the forget set is maximised."""
    temperature: float = 4.0
    """Temperature T of the distillation loss."""
    alpha: float = 0.05
    """Weight of the distillation loss on the retain set."""
    gamma: float = 0.99
    """Weight of the cross-entropy on the retain set."""
    batch_size: int = 128
    """Retain examples per step."""
    forget_batch_size: int | None = 32
    """Forget examples per step; with none as many as retain examples."""
    rewind: bool = False
    """Rewind to the epoch whose error on the forget set is nearest to that on unseen examples (SCRUB+R)."""
    rule: Rule | PerRole = Rule(lr=0.05, schedule="linear", clip=5.0)
    """The update rule."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.at_least(0, maximise_epochs=self.maximise_epochs)
        checks.at_least(1, forget_batch_size=self.forget_batch_size)
        checks.above(0, temperature=self.temperature)
        checks.at_least(0, alpha=self.alpha, gamma=self.gamma)


def _rewinds(config: ScrubConfig) -> bool:
    return config.rewind


@method(
    reference="Kurmanji et al. 2023, arXiv:2302.09880",
    aliases=("SCRUB",),
    search={"lr": (1e-3, 1e-1), "alpha": (1e-2, 2.0)},
    stronger=2.0,
    paper={
        "maximise_epochs": 2,
        "alpha": 0.001,
        "forget_batch_size": None,
        "lr": 5e-4,
        "schedule": "constant",
        "clip": None,
    },
    reach=0.75,
    validation=_rewinds,
)
def unlearn(model: nn.Module, data: UnlearningData, config: ScrubConfig, context: Context) -> nn.Module:
    """``max E_forget[KL_T]`` in the first epochs, and in all epochs ``min E_retain[gamma CE + alpha KL_T]``.

    ``KL_T = T^2 KL(teacher || student)`` at temperature T, the teacher being the original model in evaluation mode.
    With ``rewind`` (SCRUB+R) the result is the checkpoint whose error on the forget set is nearest to the error of the
    last student on validation examples of the forgotten classes; of several, the last. There is a checkpoint before
    the first epoch and after each, kept on the CPU: (epochs + 1) times the model, and a forward pass over the forget
    set for each. The chosen epoch and the errors are noted.

    Raises:
        RequestError: ``rewind``, and there is no validation example of a forgotten class.
    """
    unseen = of_forgotten_classes(data) if config.rewind else None
    checkpoints: list[Checkpoint] = []
    teacher = fastest_layout(weights.frozen_copy(model))
    model.train()
    temperature, generator = config.temperature, context.generator
    forget_size = config.forget_batch_size or config.batch_size
    per_epoch = data.retain.steps(config.batch_size)
    maximised = min(config.maximise_epochs, duration.count_epochs(config, per_epoch))
    total = maximised * data.forget.steps(forget_size) + duration.total_steps(config, per_epoch)
    step = context.stepper(model, config.rule, total)
    for epoch, retain_batches in enumerate(duration.passes(data.retain, config, generator)):
        if config.rewind:
            checkpoints.append(checkpoint(model, data.forget, context))
        if epoch < maximised:
            for batch in data.forget.batches(forget_size, generator):
                step(forget=lambda b=batch: -distillation(model(b.inputs), teacher(b.inputs), temperature))
        for batch in retain_batches:
            step(retain=lambda b=batch: _retain_loss(model(b.inputs), teacher(b.inputs), b.labels, config))
    if unseen is not None:
        checkpoints.append(checkpoint(model, data.forget, context))
        errors, wanted = [reached.error for reached in checkpoints], error(model, unseen, context)
        chosen = nearest(errors, wanted)
        model.load_state_dict(checkpoints[chosen].state)
        context.notes["rewind"] = {"epoch": chosen, "forget_errors": list(map(float, errors)), "wanted": float(wanted)}
    return model


def _retain_loss(student: Tensor, teacher: Tensor, labels: Tensor, config: ScrubConfig) -> Tensor:
    """``gamma CE + alpha KL_T``."""
    divergence = distillation(student, teacher, config.temperature)
    return config.gamma * cross_entropy(student, labels) + config.alpha * divergence


@dataclass(frozen=True)
class Checkpoint:
    """A student: its state on the CPU, and its error on the forget set."""

    state: Mapping[str, Tensor]
    error: Fraction


def checkpoint(model: nn.Module, forget: ImageSet, context: Context) -> Checkpoint:
    """The present student; one forward pass over the forget set."""
    state = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    return Checkpoint(state, error(model, forget, context))


def error(model: nn.Module, images: ImageSet, context: Context) -> Fraction:
    """The error of the model in evaluation mode, as an exact fraction, so that ties are exact."""
    correct = predict(model, images, context.device).correct()
    return Fraction(int((~correct).sum()), len(correct))


def nearest(errors: Sequence[Fraction], wanted: Fraction) -> int:
    """The index of the error nearest to the one wanted; the last of several."""
    return min(range(len(errors)), key=lambda index: (abs(errors[index] - wanted), -index))


def of_forgotten_classes(data: UnlearningData) -> ImageSet:
    """The validation examples of the classes in the forget set.

    Raises:
        RequestError: There are none.
    """
    if data.validation is None:
        raise RequestError("rewind compares with unseen examples: give a validation set, or leave rewind off")
    kept = torch.isin(data.validation.labels, data.forget.labels.unique())
    if not bool(kept.any()):
        raise RequestError(
            "rewind compares with unseen examples of the forgotten classes, and the validation set has none: "
            "give it some, or leave rewind off"
        )
    return data.validation.select(kept)
