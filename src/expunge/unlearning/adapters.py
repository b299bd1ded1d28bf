"""Low-rank adapters: unlearn with few trainable weights, and merge them into the model afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expunge.core import checks, weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.training.context import Context


@dataclass(frozen=True)
class LowRank:
    """Train U and V in ``W + scale U V`` for each matrix or convolution W: LoRA (Hu et al. 2022, arXiv:2106.09685)."""

    rank: int = 4
    """Rank of U V, limited to that of the matrix."""
    scale: float = 1.0
    """The factor of U V (alpha / rank in the paper)."""
    vectors: bool = False
    """Also train biases, scales and shifts of normalisation layers, and tables of one row (a ViT's positions)."""
    layers: tuple[str, ...] = ()
    """Only weights with these names, where * matches anything, also those of an inner network (fc is network.fc);
    a rank of their own may follow, and the first pattern that matches counts: fc:8+stages.*:2"""

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks.at_least(1, rank=self.rank)
        checks.above(0, scale=self.scale)
        for each in self.layers:
            _, _, rank = each.partition(":")
            if rank and not (rank.isdecimal() and int(rank)):
                raise RequestError(f"the rank after a pattern of layers must be a number of at least 1, got {each}")

    def rank_of(self, name: str) -> int | None:
        """The rank for the weight of that name; None if no pattern matches it."""
        if not self.layers:
            return self.rank
        matched = (each for each in self.layers if _matches(name, each.partition(":")[0]))
        found = next(matched, None)
        return None if found is None else int(found.partition(":")[2] or self.rank)


def _matches(name: str, pattern: str) -> bool:
    """Whether a weight, its layer, or what contains it has this name, or does so within the network."""
    name = name.removeprefix("network.")
    places = name.split(".")
    return any(
        fnmatchcase(".".join(places[:end]), pattern.removeprefix("network.")) for end in range(1, len(places) + 1)
    )


class _Delta(nn.Module):
    """``W -> W + mask * (scale U V)``, with U initialised to zero, so that the model does not change at first."""

    def __init__(
        self, weight: Tensor, rank: int, scale: float, mask: Tensor | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        drawn = torch.randn(rank, columns, generator=generator, device=generator.device) / columns**0.5
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device, dtype=weight.dtype))
        self.down = nn.Parameter(drawn.to(weight))
        self.scale = scale
        self.mask = mask

    def forward(self, weight: Tensor) -> Tensor:
        """Add the low-rank change to the weight."""
        change = (self.scale * self.up @ self.down).view_as(weight)
        return weight + (change if self.mask is None else change * self.mask)


@contextmanager
def adapted(model: nn.Module, plan: LowRank | None, context: Context) -> Iterator[None]:
    """Train only low-rank adapters of ``model`` within the block, and merge them after it; None does nothing.

    The masks of ``context`` apply to the merged weights: where they are false, the change is zero.

    Raises:
        RequestError: There is no weight to adapt, or there is an update mask for each role.
    """
    if plan is None:
        yield
        return
    if not (context.update_masks is None or isinstance(context.update_masks, Mask)):
        raise RequestError("low-rank adapters cannot have an update mask for each role: use mask.roles=both")
    found = _matrices(model, plan)
    if not found:
        raise RequestError("the model has no trainable matrix or convolution for a low-rank adapter")
    _check_untied(model)
    given, trained = (context.update_masks, context.sparsity), weights.trainable(model)
    for name, weight in trained.items():
        weight.requires_grad_(plan.vectors and name not in found and plan.rank_of(name) is not None)
    orders = {module: list(module._parameters) for module, _ in found.values()}  # pyright: ignore[reportPrivateUsage]
    try:
        _attach(found, plan, context)
        context.update_masks, context.sparsity = (_for_the_rest(mask, weights.trainable(model)) for mask in given)
        yield
    finally:
        context.update_masks, context.sparsity = given
        for module, tensor in found.values():
            if parametrize.is_parametrized(module, tensor):
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
        for module, order in orders.items():
            for name in order:  # restore the order: parametrize puts a weight back in the last place
                module._parameters[name] = module._parameters.pop(name)  # pyright: ignore[reportPrivateUsage]
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in trained)


def _check_untied(model: nn.Module) -> None:
    """Raise a RequestError if two modules share a weight, since each would get an adapter of its own."""
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            first = names.setdefault(id(weight), f"{prefix}.{name}")
            if first != f"{prefix}.{name}":
                raise RequestError(f"{first} and {prefix}.{name} are one weight, which low-rank adapters cannot train")


def _matrices(model: nn.Module, plan: LowRank) -> dict[str, tuple[nn.Module, str]]:
    """The trainable weights of two or more dimensions and rows, of the layers: module and name in it, by full name.

    Raises:
        RequestError: A pattern matches none of them.
    """
    found = {
        f"{prefix}.{name}" if prefix else name: (module, name)
        for prefix, module in model.named_modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.requires_grad and weight.ndim > 1 and len(weight) > 1
    }
    for pattern in (each.partition(":")[0] for each in plan.layers):
        if not any(_matches(name, pattern) for name in found):
            layers = dict.fromkeys(name.rpartition(".")[0] for name in found)
            raise RequestError(f"adapters.layers: no matrix has the name {pattern}; there are: {', '.join(layers)}")
    return {name: place for name, place in found.items() if plan.rank_of(name) is not None}


def _attach(found: dict[str, tuple[nn.Module, str]], plan: LowRank, context: Context) -> None:
    for name, (module, tensor) in found.items():
        weight = getattr(module, tensor)
        given = (context.update_masks, context.sparsity)
        masks = [mask[name].to(weight.device) for mask in given if isinstance(mask, Mask) and name in mask]
        mask = torch.stack(masks).all(dim=0) if masks else None
        delta = _Delta(weight, plan.rank_of(name) or plan.rank, plan.scale, mask, context.generator)
        parametrize.register_parametrization(module, tensor, delta)


def _for_the_rest(mask: object, trainable: Mapping[str, nn.Parameter]) -> Mask | None:
    """The part of a mask for the weights that are trained without an adapter."""
    return Mask({n: tensor for n, tensor in mask.items() if n in trainable}) if isinstance(mask, Mask) else None
