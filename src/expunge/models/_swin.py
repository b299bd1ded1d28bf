"""Swin transformers (Liu et al. 2021, arXiv:2103.14030), whose features are (batch, height, width, channels)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.models._attention import attention, heads_of, perceptron


@dataclass(frozen=True)
class Plan:
    """How the blocks of a Swin transformer are made."""

    window: int
    """Pixels of a window on each side."""
    head_size: int | None
    """Channels of a head; by default the width divided by the heads."""
    shared: bool
    """Whether the heads of a block share one table of position biases, and queries, keys and values have no bias."""
    single: bool
    """Whether windows are also shifted in a direction that one window covers."""


@dataclass(frozen=True)
class SwinConfig:
    """Options of every Swin transformer."""

    width: int = 96
    """Channels of the first stage; each further stage has twice as many."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage; windows are shifted in every second one."""
    heads: tuple[int, ...] = ()
    """Attention heads of each stage; by default one for each 32 channels."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks.at_least(1, width=self.width)
        for name in ("depths", "heads"):
            for value in getattr(self, name):
                checks.at_least(1, **{name: value})


def relative_positions(window: int) -> Tensor:
    """The row of the table of biases for each pair of pixels (query, key) of a window: int64 (w^2, w^2).

    It is that of the difference (query - key), row-major, which starts at 1 - w on both axes.
    """
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    difference = places[:, None] - places[None] + window - 1
    return difference[..., 0] * (2 * window - 1) + difference[..., 1]


def windows(features: Tensor, window: int) -> Tensor:
    """The windows of (batch, height, width, ...): (batch, windows, w^2, ...), in row-major order."""
    parts = features.unflatten(1, (-1, window)).unflatten(3, (-1, window)).transpose(2, 3)
    return parts.flatten(3, 4).flatten(1, 2)


def shift_mask(sizes: tuple[int, int], window: int, shift: tuple[int, int]) -> Tensor:
    """-inf for pairs of pixels of a window that were no neighbours before the shift, else 0: (windows, w^2, w^2)."""
    rows, columns = (_regions(size, window, moved) for size, moved in zip(sizes, shift, strict=True))
    regions = windows(3 * rows[None, :, None] + columns, window)[0]
    return torch.zeros(()).masked_fill(regions[:, :, None] != regions[:, None], -torch.inf)


def _regions(size: int, window: int, moved: int) -> Tensor:
    """0 before the last window, 1 in it, 2 in the part that was moved there from the other side: (size,)."""
    place = torch.arange(size)
    return (place >= size - window).long() + (place >= size - moved) if moved else torch.zeros_like(place)


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each difference of positions."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, plan: Plan, shifted: bool) -> None:
        super().__init__()
        self.heads, self.plan, self.shift = heads, plan, plan.window // 2 if shifted else 0
        inner = width if plan.head_size is None else heads * plan.head_size
        side, index = 2 * plan.window - 1, relative_positions(plan.window)
        table = torch.empty((side, side) if plan.shared else (side * side, heads))
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("relative_position_index", (index.T if plan.shared else index).flatten(), persistent=False)
        self.qkv = nn.Linear(width, 3 * inner, bias=not plan.shared)
        self.proj = nn.Linear(inner, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table: Normal(0, 1) where heads share it, else Normal(0, 0.02)."""
        nn.init.normal_(self.relative_position_bias_table, std=1.0 if self.plan.shared else 0.02)

    def forward(self, features: Tensor) -> Tensor:
        """The new features; they are padded with zeros to whole windows for the while."""
        w, (height, width) = self.plan.window, features.shape[1:3]
        padded = functional.pad(features, (0, 0, 0, -width % w, 0, -height % w))
        sizes = (padded.shape[1], padded.shape[2])
        shift = tuple(self.shift if self.plan.single or w < size else 0 for size in sizes)
        moved = padded.roll([-each for each in shift], (1, 2))
        bias = self._bias((shift[0], shift[1]), sizes)
        found = self.proj(attention(self.qkv(windows(moved, w)), self.heads, bias))
        found = found.unflatten(2, (w, w)).unflatten(1, (sizes[0] // w, -1)).transpose(2, 3)
        found = found.flatten(3, 4).flatten(1, 2)
        return found.roll(shift, (1, 2))[:, :height, :width]

    def _bias(self, shift: tuple[int, int], sizes: tuple[int, int]) -> Tensor:
        """The biases (1 or windows, heads or 1, w^2, w^2)."""
        tokens = self.plan.window**2
        table = self.relative_position_bias_table.view((2 * self.plan.window - 1) ** 2, -1)
        bias = table[self.relative_position_index].view(1, tokens, tokens, -1).permute(0, 3, 1, 2)
        if not any(shift):
            return bias
        return bias + shift_mask(sizes, self.plan.window, shift).to(bias)[:, None]


class StochasticDepth(nn.Module):
    """In training, the output of a branch is zero for this share of the examples (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """The branch, divided by the share that is left."""
        return branch * functional.dropout(branch.new_ones(len(branch), 1, 1, 1), self.rate, self.training)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + perceptron(norm(x))``."""

    def __init__(self, width: int, heads: int, plan: Plan, shifted: bool, rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, plan, shifted)
        self.depth = StochasticDepth(rate)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = perceptron(width, "0", "3")

    def forward(self, features: Tensor) -> Tensor:
        """The block's output."""
        features = features + self.depth(self.attn(self.norm1(features)))
        return features + self.depth(self.mlp(self.norm2(features)))


class ChannelsLast(nn.Module):
    """(batch, channels, height, width) as (batch, height, width, channels)."""

    def forward(self, images: Tensor) -> Tensor:
        """The permuted batch."""
        return images.permute(0, 2, 3, 1)


def stages(
    config: SwinConfig, plan: Plan, first: nn.Module, merging: Callable[[int, int], nn.Module], rate: float = 0.0
) -> nn.Sequential:
    """Patches, blocks, merging, blocks, ...; ``merging`` is a function of the stage and its width.

    ``rate`` is the stochastic depth of the last block, which grows from 0 at the first.

    Raises:
        RequestError: The heads are not one number for each stage, or do not divide its width.
    """
    given: Sequence[int | None] = config.heads or (None,) * len(config.depths)
    if len(given) != len(config.depths):
        raise RequestError(f"heads and depths need a number for each stage, got {len(given)} and {len(config.depths)}")
    layers, before = [first], 0
    for stage, (depth, heads) in enumerate(zip(config.depths, given, strict=True)):
        width = config.width * 2**stage
        count = heads_of(width, heads, 32) if plan.head_size is None else heads or max(1, width // 32)
        rates = [rate * number / max(1, sum(config.depths) - 1) for number in range(before, before + depth)]
        layers += [merging(stage, width)] if stage else []
        layers.append(nn.Sequential(*(Block(width, count, plan, at % 2 == 1, each) for at, each in enumerate(rates))))
        before += depth
    return nn.Sequential(*layers)
