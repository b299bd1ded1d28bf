"""Boundary shrink: train each forget image towards its nearest wrong class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core import checks, weights
from expunge.core.errors import RequestError
from expunge.core.registry import method
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.precision import fastest_layout
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class BoundaryShrinkConfig:
    """Hyperparameters of boundary shrink."""

    epochs: int = 3
    """Passes over the forget set."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    batch_size: int = 128
    """Examples per step."""
    bound: float = 0.1
    """Size of the step across the decision boundary: the change of each pixel, in [0, 1]."""
    as_released: bool = False
    """Keep the true label where that step does not change the prediction, as the released code does."""
    rule: Rule | PerRole = Rule(lr=1e-3)
    """The update rule; published rates lie in [1e-6, 1e-4]."""

    def __post_init__(self) -> None:
        duration.check(self)
        checks.between(0, 1, bound=self.bound)


@method(
    reference="Chen et al. 2023, arXiv:2303.11570",
    aliases=("BS",),
    search={"lr": (1e-6, 1e-2)},
    paper={"epochs": 10, "lr": 1e-4},
    reach=0.5,
    extend=64.0,
    roles=("forget",),
)
def unlearn(model: nn.Module, data: UnlearningData, config: BoundaryShrinkConfig, context: Context) -> nn.Module:
    """Train the forget set on the nearest wrong classes: ``min E_forget[CE(nearest wrong class)]``.

    The nearest classes are those of the original model, found once, before the first step.
    """
    _check(data, config.batch_size)
    nearest = nearest_labels(fastest_layout(weights.frozen_copy(model)), data.forget, config)
    forget = data.forget.with_labels(nearest)
    model.train()
    step = context.stepper(model, config.rule, duration.total_steps(config, forget.steps(config.batch_size)))
    for batch in duration.batches(forget, config, context.generator):
        step(forget=lambda b=batch: cross_entropy(model(b.inputs), b.labels))
    return model


def _check(data: UnlearningData, batch_size: int) -> None:
    """Raise a RequestError if there is no wrong class, or if pixels are not in [0, 1]."""
    if data.num_classes < 2:
        raise RequestError("with one class there is no wrong one: boundary_shrink needs at least two classes")
    if not len(data.forget) or not data.forget.dtype.is_floating_point:
        return
    pixels = (batch.inputs for batch in data.forget.batches(batch_size))
    seen = [(part.amin(), part.amax(), ((part < 0) | (part > 1)).any()) for part in pixels]
    low, high, outside = (torch.stack(values) for values in zip(*seen, strict=True))
    if bool(outside.any()):
        found = f"[{low.min():g}, {high.max():g}]"
        raise RequestError(
            f"boundary_shrink moves pixels within [0, 1], and those of the forget images lie in {found}: "
            "give uint8 images, or floats in [0, 1], and let the model normalise them"
        )


def nearest_labels(original: nn.Module, forget: ImageSet, config: BoundaryShrinkConfig) -> Tensor:
    """For each forget image (n,) without augmentation, the wrong class with the largest logit across the boundary.

    ``x' = round(255 clip(x + bound sign(grad_x CE(x, y)), 0, 1)) / 255``, and the class is that of the largest logit of
    x' among all but y; among all of them if ``as_released``. Cost: two forward passes and one backward pass.
    """
    found: list[Tensor] = []
    for batch in forget.batches(config.batch_size):
        inputs = batch.inputs.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(original(inputs), batch.labels), inputs)
        moved = (batch.inputs + config.bound * slope.sign()).clamp(0, 1)
        with torch.no_grad():
            logits = original((255 * moved).round() / 255).float()
        if not config.as_released:
            logits = logits.scatter(1, batch.labels[:, None], -torch.inf)
        found.append(logits.argmax(dim=1))
    return torch.cat(found)
