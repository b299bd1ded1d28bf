"""Boundary expanding: train the forget set into a shadow class, and remove the shadow."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expunge.core import weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.core.registry import method
from expunge.curvature import heads
from expunge.data.unlearning_data import UnlearningData
from expunge.training import duration
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class BoundaryExpandingConfig:
    """Hyperparameters of boundary expanding."""

    epochs: int = 3
    """Passes over the forget set."""
    steps: duration.Steps = None
    """Steps in place of epochs; the last epoch may be cut short."""
    batch_size: int = 128
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=1e-3)
    """The update rule; published rates lie in [1e-6, 1e-4]."""

    def __post_init__(self) -> None:
        duration.check(self)


@method(
    reference="Chen et al. 2023, arXiv:2303.11570",
    aliases=("BE",),
    search={"lr": (1e-6, 1e-2)},
    paper={"epochs": 10, "lr": 1e-4},
    reach=0.5,
    extend=64.0,
    roles=("forget",),
)
def unlearn(model: nn.Module, data: UnlearningData, config: BoundaryExpandingConfig, context: Context) -> nn.Module:
    """Move the forget set out of all classes: ``min E_forget[CE(shadow class)]``, then drop the shadow class.

    The shadow class is one more output of the last linear layer, there only during training.
    """
    classifier = heads.classifier(model, data.forget, "boundary_expanding adds a class to the last layer")
    if parametrize.is_parametrized(classifier):
        raise RequestError("boundary_expanding cannot add a class to a layer with adapters: do without adapters here")
    shadow = torch.full_like(data.forget.labels, classifier.out_features)
    forget = data.forget.with_labels(shadow)
    total = duration.total_steps(config, forget.steps(config.batch_size))
    model.train()
    with _expanded(classifier, context):
        step = _widened(context, model, classifier).stepper(model, config.rule, total)
        for batch in duration.batches(forget, config, context.generator):
            step(forget=lambda b=batch: cross_entropy(model(b.inputs), b.labels))
    return model


@contextmanager
def _expanded(classifier: nn.Linear, context: Context) -> Iterator[None]:
    """Within the block the layer has one more output, initialised as that of a new layer.

    The old rows are copied in, trained, and copied back into the parameters of before.
    """
    with context.seeded():
        row = nn.Linear(classifier.in_features, 1, bias=cast("Tensor | None", classifier.bias) is not None)
    before = dict(classifier.named_parameters(recurse=False))
    for name, weight in before.items():
        new = row.get_parameter(name).detach().to(weight)
        setattr(classifier, name, nn.Parameter(torch.cat([weight.detach(), new]), weight.requires_grad))
    classifier.out_features += 1
    try:
        yield
    finally:
        classifier.out_features -= 1
        with torch.no_grad():
            for name, weight in before.items():
                weight.copy_(classifier.get_parameter(name)[:-1])
                setattr(classifier, name, weight)


def _widened(context: Context, model: nn.Module, classifier: nn.Linear) -> Context:
    """The context with masks that are true for the new output."""
    owned = {id(weight) for weight in classifier.parameters(recurse=False)}
    names = [name for name, weight in weights.trainable(model).items() if id(weight) in owned]
    masks = context.update_masks
    if isinstance(masks, Mapping) and not isinstance(masks, Mask):
        masks = {role: _with_row(mask, names) for role, mask in masks.items()}
    elif masks is not None:
        masks = _with_row(masks, names)
    sparsity = None if context.sparsity is None else _with_row(context.sparsity, names)
    return replace(context, update_masks=masks, sparsity=sparsity)


def _with_row(mask: Mask, names: list[str]) -> Mask:
    """The mask with a row of true appended to the tensors of these names."""
    wider = {n: torch.cat([mask[n], torch.ones_like(mask[n][:1])]) for n in names if n in mask}
    return Mask({**mask, **wider})
