"""Swin-T, with torchvision's names and layers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks
from expunge.core.registry import architecture
from expunge.models import _start
from expunge.models._check import Shape, image_shape
from expunge.models._start import StartConfig
from expunge.models._swin import ChannelsLast, Plan, SwinConfig, stages


@dataclass(frozen=True)
class SwinTConfig(StartConfig, SwinConfig):
    """Options of swin_t."""

    window: int = 7
    """Pixels of a window on each side."""
    stochastic_depth: float = 0.2
    """Chance that the last block is skipped in training; it grows from 0 at the first block."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        SwinConfig.__post_init__(self)
        StartConfig.__post_init__(self)
        checks.at_least(2, window=self.window)
        checks.between(0, 0.999, stochastic_depth=self.stochastic_depth)


class Merging(nn.Module):
    """Four neighbouring pixels as one, with twice the channels; odd sizes are padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(2 * width, width, bias=False)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, height / 2, width / 2, channels) of a batch."""
        height, width = features.shape[1:3]
        padded = functional.pad(features, (0, 0, 0, width % 2, 0, height % 2))
        columns = [padded[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.reduction(self.norm(torch.cat(columns, dim=-1)))


class Swin(nn.Module):
    """4x4 patches, stages of blocks, LayerNorm, an average over the image, and ``head``."""

    def __init__(self, config: SwinTConfig, shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, *_ = image_shape(shape, least=4)
        self._config = config
        first = nn.Sequential(nn.Conv2d(channels, config.width, 4, 4), ChannelsLast(), nn.LayerNorm(config.width))
        plan = Plan(config.window, head_size=None, shared=False, single=False)
        self.features = stages(config, plan, first, lambda _, width: Merging(width), config.stochastic_depth)
        last = config.width * 2 ** (len(config.depths) - 1)
        self.norm = nn.LayerNorm(last)
        self.head = _start.head(last, config, num_classes)
        self.reset_parameters()
        _start.freeze(self, config, "head")

    def reset_parameters(self) -> None:
        """Linear weights from Normal(0, 0.02), their biases zero; the other layers as torch does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for name, weight in module.named_parameters():
                    nn.init.normal_(weight, std=0.02) if name == "weight" else nn.init.zeros_(weight)

    def load_pretrained(self) -> str:
        """Start from the file of the configuration, if there is one; what to tell the user."""
        return _start.load(self, self._config, "head")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return self.head(self.norm(self.features(images)).mean(dim=(1, 2)))


@architecture(reference="Liu et al. 2021, arXiv:2103.14030")
def build(config: SwinTConfig, shape: Shape, num_classes: int) -> nn.Module:
    """Swin-T for images of 224 pixels or any other size.

    Swin-S is ``depths=2+2+18+2,stochastic_depth=0.3``; Swin-B is ``width=128,depths=2+2+18+2,stochastic_depth=0.5``.
    """
    return Swin(config, shape, num_classes)
