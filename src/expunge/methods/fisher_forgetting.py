"""Fisher forgetting: noise on every weight, larger where the Fisher information of the retain set is smaller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import method
from expunge.curvature import moving
from expunge.curvature.fisher import empirical_fisher, true_fisher
from expunge.curvature.network import Network, Vector, add, check_finite, frozen
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context

Labels = Literal["model", "true"]

TINY = 1e-8
"""Added to the curvature before it is inverted."""
LARGEST, LARGEST_OF_HEAD = 1e3, 1e2
"""The largest inverse curvature, of any weight and of the last layer's."""
CLEARED = 1e-4
"""Variance of the noise on the last layer's rows of classes without retained examples, before ``FACTOR``."""
FACTOR = 10.0
"""Factor on the variance of the last layer and of tensors of one dimension."""


@dataclass(frozen=True)
class FisherForgettingConfig:
    """Hyperparameters of Fisher forgetting."""

    alpha: float = 1e-7
    """Scale of the variance of the noise; 0 changes nothing. With ``reach``, the noise is scaled by the accuracy on the
    forget set that it leaves."""
    labels: Labels = "model"
    """Labels of the Fisher information. model: the expectation over labels of the model. true: those of the data."""
    as_released: bool = False
    """As the released code: squares of gradients averaged over a batch, means that include pruned weights, and as last
    layer every tensor with a row for each class."""
    batch_size: int = 32
    """With as_released: examples whose gradients are averaged before they are squared."""
    memory: float = 1.0
    """Gigabytes that gradients of single examples may take."""

    def __post_init__(self) -> None:
        checks.at_least(0, alpha=self.alpha)
        checks.one_of(get_args(Labels), labels=self.labels)
        checks.at_least(1, batch_size=self.batch_size)
        checks.above(0, memory=self.memory)
        if self.as_released and self.labels == "true":
            raise RequestError("as released, Fisher forgetting takes labels=model")


@method(
    reference="Golatkar et al. 2020, arXiv:1911.04933; as in Jia et al. 2023, arXiv:2304.04934",
    aliases=("fisher_new", "FF"),
    search={"alpha": (1e-10, 1e-5)},
    stronger=100.0,
    paper={"alpha": 1e-8},
    reach=0.1,
    extend=1e6,
    roles=(),
)
def unlearn(model: nn.Module, data: UnlearningData, config: FisherForgettingConfig, context: Context) -> nn.Module:
    """``theta <- theta + sqrt(v) n``, n standard normal and v about alpha / F, F the retain set's Fisher diagonal.

    v is :func:`variance`. A class with forgotten and without retained examples has no curvature in its row of the last
    layer: the row is set to zero, and its noise has a fixed variance. These classes are noted. Pruned weights do not
    count and stay zero; frozen weights keep their values.
    """
    mask, kept = moving.movable(model, context), moving.sparsity_mask(model, context)
    if config.alpha == 0:
        return model
    with frozen(model) as network:
        found = curvature(network, data.retain, config)
        found = {name: each * kept[name] for name, each in found.items()}
        last = head(network.weights, data.num_classes, config.as_released)
        v = variance(found, config.alpha, last, None if config.as_released else kept)
        gone = forgotten_classes(data)
        if last and gone:
            context.notes["cleared_classes"] = gone
        for name in last if gone else ():
            v[name][gone] = CLEARED * FACTOR
        generator = context.generator
        change: Vector = {}
        for name, weight in network.weights.items():
            noise = torch.randn(weight.shape, generator=generator, device=generator.device)
            change[name] = v[name].sqrt() * noise.to(weight.device, weight.dtype)
        for name in last if gone else ():
            change[name][gone] -= network.weights[name][gone]
    moving.move(model, change, mask)
    return model


def curvature(network: Network, retain: ImageSet, config: FisherForgettingConfig) -> Vector:
    """The Fisher diagonal A of the retain set; a forward and backward pass over it per class of labels.

    Raises:
        RunError: It is not finite.
    """
    memory = int(config.memory * 1e9)
    if config.as_released:
        found = released_curvature(network, retain, config.batch_size)
    elif config.labels == "model":
        found = true_fisher(network, retain, memory)
    else:
        found = empirical_fisher(network, retain, memory)
    check_finite("the Fisher information is", *found.values())
    return found


def released_curvature(network: Network, retain: ImageSet, batch_size: int) -> Vector:
    """``A = (1/b) sum over b batches and classes c of mean_i p_i(c) (grad of the batch's mean CE to c)^2``.

    The square of a mean over B examples is up to B times smaller than the mean of squares, so that the published values
    of alpha are for this form. With batches of one it is the true Fisher diagonal.
    """
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    count = 0
    for batch in network.batches(retain, batch_size):
        weights = network.leaves()
        logits = network.logits(weights, batch.inputs)
        p = torch.softmax(logits.detach(), dim=1).mean(dim=0)
        for label in range(logits.shape[1]):
            loss = functional.cross_entropy(logits, torch.full_like(batch.labels, label))
            found = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, materialize_grads=True)
            add(total, tuple(p[label] * each.square() for each in found))
        count += 1
    return {name: sum_of / count for name, sum_of in total.items()}


def variance(
    found: Mapping[str, Tensor], alpha: float, last: tuple[str, ...], sparsity: Mapping[str, Tensor] | None = None
) -> Vector:
    """The variance v of the noise from the curvature A.

    ``v = alpha min(1 / (A + 1e-8), 1e3)``, at most 1e2 alpha in the last layer; then, for tensors (out, in, ...), its
    mean over the input dimension; then ten times that for the last layer and for tensors of one dimension. Where
    ``sparsity`` (a sparsity mask) is given, means are over the weights that are kept, and pruned weights have none.
    """
    result: Vector = {}
    for name, each in found.items():
        v = alpha * (1 / (each + TINY)).clamp(max=LARGEST_OF_HEAD if name in last else LARGEST)
        kept = torch.ones_like(v) if sparsity is None else sparsity[name].to(v.dtype)
        if v.ndim > 1:
            v = ((v * kept).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(v)
        result[name] = v * kept * (FACTOR if name in last or v.ndim == 1 else 1.0)
    return result


def head(weights: Mapping[str, Tensor], num_classes: int, as_released: bool) -> tuple[str, ...]:
    """The tensors of the last layer: of the last module that has a weight with a row for each class.

    As released: every tensor whose first dimension is the number of classes.
    """
    rows = [name for name, weight in weights.items() if weight.ndim and weight.shape[0] == num_classes]
    if as_released:
        return tuple(rows)
    modules = [name.rpartition(".")[0] for name in rows if weights[name].ndim > 1]
    return tuple(name for name in rows if name.rpartition(".")[0] == modules[-1]) if modules else ()


def forgotten_classes(data: UnlearningData) -> list[int]:
    """The classes that have an example in the forget set and none in the retain set, in order."""
    forgotten = data.forget.labels.unique()
    return forgotten[~torch.isin(forgotten, data.retain.labels)].tolist()
