"""ViT-S with 4x4 patches, for small images, with timm's names and layers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import architecture
from expunge.models import _start
from expunge.models._attention import attention, heads_of, perceptron
from expunge.models._check import Shape, image_shape
from expunge.models._start import StartConfig


@dataclass(frozen=True)
class _Size:
    width: int = 384
    """Channels."""
    depth: int = 12
    """Blocks."""
    heads: int | None = None
    """Attention heads; by default one for each 64 channels."""
    patch: int = 4
    """Pixels of a patch on each side."""


@dataclass(frozen=True)
class VitSConfig(StartConfig, _Size):
    """Options of vit_s."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        checks.at_least(1, width=self.width, depth=self.depth, heads=self.heads, patch=self.patch)


class Attention(nn.Module):
    """Attention between all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """The new tokens."""
        return self.proj(attention(self.qkv(tokens), self.heads))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + perceptron(norm(x))``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = perceptron(width, "fc1", "fc2")

    def forward(self, tokens: Tensor) -> Tensor:
        """The block's output."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ViT(nn.Module):
    """A class token and patches with learned positions, blocks, LayerNorm, and ``head`` on the class token."""

    def __init__(self, config: VitSConfig, shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, *sizes = image_shape(shape, least=config.patch)
        if any(size % config.patch for size in sizes):
            raise RequestError(f"patches of {config.patch} pixels do not divide images of {sizes[0]} x {sizes[1]}")
        self._config, width = config, config.width
        count = sizes[0] // config.patch * (sizes[1] // config.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + count, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, width, config.patch, config.patch)})
        heads = heads_of(width, config.heads, 64)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = _start.head(width, config, num_classes)
        self.reset_parameters()
        _start.freeze(self, config, "head")

    def reset_parameters(self) -> None:
        """Linear weights and positions from Normal(0, 0.02), biases zero, the class token almost zero."""
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def load_pretrained(self) -> str:
        """Start from the file of the configuration, if there is one; what to tell the user."""
        return _start.load(self, self._config, "head")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        patches = self.patch_embed["proj"](images).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


@architecture(reference="Dosovitskiy et al. 2021, arXiv:2010.11929", aliases=("vit_small",))
def build(config: VitSConfig, shape: Shape, num_classes: int) -> nn.Module:
    """ViT-S with 4x4 patches, for small images."""
    return ViT(config, shape, num_classes)
