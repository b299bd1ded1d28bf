"""Discriminative adversarial unlearning: an attacker should not distinguish the forget set from unseen images."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import Stage, method
from expunge.curvature import heads
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.methods._attacker import (
    Attacker,
    Noisy,
    Pretraining,
    Probe,
    View,
    draws,
    learner,
    noisy,
    observe,
    pretrained,
    recognition,
    tapped,
)
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule
from expunge.training.stepper import Objective, Stepper

NEED = "adversarial unlearning aligns the inputs of the model's last layer"
EPSILON = 1e-5
"""A deviation that counts as none when features are standardised."""


@dataclass(frozen=True)
class AdversarialConfig:
    """Hyperparameters of discriminative adversarial unlearning."""

    epochs: int = 3
    """Passes over the retain set; the forget and the validation set are cycled."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    batch_size: int = 128
    """Retain examples per step, and as many of the forget and validation set, or all of the smaller one."""
    adversarial_weight: float = 0.9
    """Weight of the loss of an attacker made to take forget examples for unseen ones, and the reverse."""
    decorrelation_weight: float = 0.001
    """Weight of the loss that aligns the features of forget and validation examples, dimension by dimension."""
    off_diagonal: float = 5e-3
    """Weight, within that loss, of correlations between different dimensions."""
    unseen: Literal["retained", "all"] = "retained"
    """The validation examples that forget examples should resemble: of classes of which some are retained, or all."""
    stop_after: int | None = None
    """Steps after which only fine-tuning on the retain set goes on, best for whole classes (published: 30)."""
    stop_lr: float | None = None
    """Learning rate of the steps after these; by default that of the rule (published: 0.01 after 0.02)."""
    pretrain_steps: int | None = None
    """Steps of the attacker before the unlearning (published: 1000); by default three passes over all images."""
    attacker_lr: float = 1e-3
    """Learning rate of the attacker's Adam."""
    sensitivity: Literal["copies", "derivative"] = "copies"
    """How the reaction of logits to noise is measured: by noisy copies, or by derivatives, their limit."""
    directions: int = 10
    """Noisy copies, or directional derivatives, per image."""
    noise: float = 1e-3
    """Deviation of the noise in noisy copies, of images in [0, 1]."""
    rule: Rule | PerRole = Rule(lr=0.01)
    """The update rule."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        duration.check(self)
        checks.at_least(0, adversarial_weight=self.adversarial_weight, decorrelation_weight=self.decorrelation_weight)
        checks.at_least(0, off_diagonal=self.off_diagonal, attacker_lr=self.attacker_lr)
        checks.at_least(0, stop_after=self.stop_after, stop_lr=self.stop_lr, pretrain_steps=self.pretrain_steps)
        checks.at_least(1, directions=self.directions)
        checks.above(0, noise=self.noise)
        checks.one_of(("retained", "all"), unseen=self.unseen)
        checks.one_of(("copies", "derivative"), sensitivity=self.sensitivity)
        if self.stop_lr is not None and self.stop_after is None:
            raise RequestError("stop_lr is the learning rate after a stop: say when by stop_after")

    @property
    def probe(self) -> Probe:
        """How sensitivity is measured."""
        return Probe(self.sensitivity, self.directions, self.noise)


def attacker_before(
    model: nn.Module, data: UnlearningData, config: AdversarialConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """The state of the attacker after it has learned to tell all training images from all validation images."""
    model.train()
    steps = config.pretrain_steps
    if steps is None:
        steps = 3 * math.ceil((len(data.forget) + len(data.retain)) / config.batch_size)
    classifier, images = heads.classifier(model, data.retain, NEED), data.everything()
    plan = Pretraining(steps, config.batch_size, config.attacker_lr, config.probe)
    return pretrained(model, classifier, images, _validation(data), plan, generator)


ATTACKER = Stage(attacker_before, ("batch_size", "pretrain_steps", "attacker_lr", "sensitivity", "directions", "noise"))


@method(
    reference="Sharma et al. 2024, arXiv:2402.06864",
    aliases=("Gan", "DAU"),
    search={"lr": (1e-3, 1e-1), "adversarial_weight": (0.1, 10.0)},
    stages={"attacker": ATTACKER},
    validation=True,
)
def unlearn(
    model: nn.Module,
    data: UnlearningData,
    config: AdversarialConfig,
    context: Context,
    *,
    attacker: Mapping[str, Tensor],
) -> nn.Module:
    """``min E_retain[CE]`` and mislead an attacker, who learns meanwhile to tell the forget set from unseen images.

    The attacker starts from having told all training images from the validation images. In each step it learns to
    tell forget from validation images, and then the model is updated against it (:func:`defence`). Only the retain
    batches move the running statistics of batch normalisation. After ``stop_after`` steps only the retain set is
    trained on, at the learning rate ``stop_lr``. Cost of a step: three batches, and the noisy copies of two of them,
    forward and backward.
    """
    unseen = _unseen(data, config)
    model.train()
    classifier = heads.classifier(model, data.retain, NEED)
    opponent = Attacker(classifier.out_features).to(context.device)
    opponent.load_state_dict(attacker)
    total = duration.total_steps(config, data.retain.steps(config.batch_size))
    attacks = total if config.stop_after is None else min(config.stop_after, total)
    learn = learner(opponent, config.attacker_lr, attacks, context.device)
    step = context.stepper(model, config.rule, total)
    pairs = _pairs(data.forget, unseen, config, context.generator)
    with tapped(model, classifier) as forward:
        show = partial(observe, model, forward, config.probe)
        for batch in duration.batches(data.retain, config, context.generator):
            objectives: dict[str, Objective] = {}
            if step.taken < attacks:
                objectives["forget"] = duel(show, *next(pairs), opponent, learn, config)
            elif step.taken == attacks and config.stop_lr is not None:
                step.set_lr(config.stop_lr)
            step(**objectives, retain=lambda b=batch: cross_entropy(forward(b.inputs)[0], b.labels))
    return model


def _unseen(data: UnlearningData, config: AdversarialConfig) -> ImageSet:
    """The validation images that the forget set should resemble.

    Those of a class of which nothing is retained show what the model has learned of that class: a model whose
    forget examples resembled them would not have unlearned it.
    """
    unseen = _validation(data)
    if config.unseen == "retained":
        unseen = unseen.select(torch.isin(unseen.labels, data.retain.labels))
    if not len(unseen):
        raise RequestError("no validation image is of a class of which something is retained: add some, or unseen=all")
    return unseen


def _validation(data: UnlearningData) -> ImageSet:
    """The validation set with the augmentation of the training set, so that the attacker cannot learn augmentation."""
    if data.validation is None or not len(data.validation):
        raise RequestError("adversarial unlearning needs a validation set: images that the model was not trained on")
    return data.validation.with_augmentation(data.retain.augmentation)


def _pairs(
    forget: ImageSet, unseen: ImageSet, config: AdversarialConfig, generator: torch.Generator
) -> Iterator[tuple[Noisy, Noisy]]:
    """Batches of forget and of unseen images without end, of one size, with their noise."""
    size = min(config.batch_size, len(forget), len(unseen))
    for first, second in zip(draws(forget, size, generator), draws(unseen, size, generator), strict=False):
        yield noisy(first, config.probe, generator), noisy(second, config.probe, generator)


def duel(
    show: Callable[[Noisy], View],
    forget: Noisy,
    unseen: Noisy,
    attacker: Attacker,
    learn: Stepper,
    config: AdversarialConfig,
) -> Objective:
    """The objective of one step, in float32: when first asked for, the attacker learns from what the model shows.

    Sharpness-aware rules ask a second time, of perturbed weights: the attacker is then as it was.
    """
    learned = False

    def objective() -> Tensor:
        nonlocal learned
        with torch.autocast(forget.directions.device.type, enabled=False):
            forgotten, other = show(forget), show(unseen)
            if not learned:
                learn(attacker=lambda: recognition(attacker, forgotten.inputs.detach(), other.inputs.detach()))
                learned = True
            return defence(attacker, forgotten, other, config)

    return objective


def defence(attacker: Attacker, forgotten: View, other: View, config: AdversarialConfig) -> Tensor:
    """The loss of the model against the attacker: ``w_a CE(attacker; forget as 0, unseen as 1) + w_d L_d``.

    ``L_d`` is the :func:`decorrelation` of features. No gradient is taken for the attacker, which stays as it is.
    """
    fixed = {name: value.detach().clone() for name, value in attacker.state_dict().items()}
    mistaken = recognition(lambda inputs: functional_call(attacker, fixed, (inputs,)), other.inputs, forgotten.inputs)
    alike = decorrelation(other.features, forgotten.features, config.off_diagonal)
    return config.adversarial_weight * mistaken + config.decorrelation_weight * alike


def decorrelation(first: Tensor, second: Tensor, off_diagonal: float) -> Tensor:
    """``sum_d (K_dd - 1)^2 + off_diagonal sum_{d != e} K_de^2`` with ``K = H1' H2 / batch`` of standardised features.

    Features are (batch, d); row i of one is paired with row i of the other, whatever they are. O(batch d^2).
    """
    correlation = standardised(first).T @ standardised(second) / len(first)
    diagonal = correlation.diagonal()
    return (diagonal - 1).square().sum() + off_diagonal * (correlation - diagonal.diag()).square().sum()


def standardised(features: Tensor) -> Tensor:
    """``(h - mean) / deviation`` of each column of (batch, d), with the unbiased deviation over the batch.

    Constant columns, and those of a batch of one, become 0; gradients are finite there, too.
    """
    centred = features - features.mean(dim=0)
    variance = centred.square().sum(dim=0) / max(len(features) - 1, 1)
    return centred * (variance + EPSILON**2).rsqrt()
