"""Residual networks for small images (He et al. 2016, arXiv:1512.03385)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks
from expunge.models import _start
from expunge.models._check import Shape, image_shape
from expunge.models._start import StartConfig

Block = Callable[[int, int, int], nn.Module]
Stem = Literal["small", "imagenet"]


@dataclass(frozen=True)
class _Width:
    width: int = 64
    """Channels of the first stage; each further stage has twice as many."""

    def __post_init__(self) -> None:
        checks.at_least(1, width=self.width)


@dataclass(frozen=True)
class AnyResnetConfig(StartConfig, _Width):
    """Options of every residual network."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _Width.__post_init__(self)
        StartConfig.__post_init__(self)


@dataclass(frozen=True)
class CifarResnetConfig(AnyResnetConfig):
    """Options of the residual networks of three stages, which are narrower."""

    width: int = 16


@dataclass(frozen=True)
class ResnetConfig(AnyResnetConfig):
    """Options of the residual networks of four stages."""

    stem: Stem = "small"
    """small: a 3x3 convolution. imagenet: a 7x7 convolution and max pooling, which each halve the image, as torchvision
    and the weights trained on ImageNet have it."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        checks.one_of(get_args(Stem), stem=self.stem)


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size of the image for stride 1."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut: a 1x1 convolution where the shape changes, else the identity."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ZeroPadded(nn.Module):
    """The shortcut without weights (option A): every second pixel, and zero channels before and after."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, inputs: Tensor) -> Tensor:
        """The padded batch."""
        return functional.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Residual(nn.Module):
    """``relu(body(x) + shortcut(x))``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        """The block's output."""
        return functional.relu(self.body(inputs) + self.shortcut(inputs))


def basic(inputs: int, width: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions, with a projection shortcut."""
    return Residual(_two(inputs, width, stride), projection(inputs, width, stride))


def basic_zero_padded(inputs: int, width: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions, with the shortcut without weights."""
    shortcut = nn.Identity() if stride == 1 and inputs == width else ZeroPadded(inputs, width, stride)
    return Residual(_two(inputs, width, stride), shortcut)


def _two(inputs: int, width: int, stride: int) -> nn.Module:
    return nn.Sequential(
        convolution(inputs, width, 3, stride),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        convolution(width, width, 3),
        nn.BatchNorm2d(width),
    )


def bottleneck(inputs: int, width: int, stride: int, widening: int = 1) -> nn.Module:
    """1x1, 3x3 (``widening`` times as wide) and 1x1 convolutions to four times the width; a projection shortcut."""
    inner = widening * width
    body = nn.Sequential(
        convolution(inputs, inner, 1),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        convolution(inner, inner, 3, stride),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        convolution(inner, 4 * width, 1),
        nn.BatchNorm2d(4 * width),
    )
    return Residual(body, projection(inputs, 4 * width, stride))


def wide_bottleneck(inputs: int, width: int, stride: int) -> nn.Module:
    """A bottleneck whose inner convolutions are twice as wide (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""
    return bottleneck(inputs, width, stride, widening=2)


class ResNet(nn.Module):
    """A stem, stages of blocks, an average over the image, and the head ``fc``: one linear layer by default."""

    def __init__(
        self,
        block: Block,
        config: AnyResnetConfig,
        depths: Sequence[int],
        shape: Shape,
        num_classes: int,
        *,
        expansion: int = 1,
        kaiming_head: bool = False,
    ) -> None:
        """Stages of ``depths`` blocks; each but the first doubles the width and halves the image.

        ``block`` is a function of input channels, width and stride, whose output has ``expansion`` times the width.
        ``kaiming_head`` initialises the last layer like the convolutions.
        """
        super().__init__()
        channels, *_ = image_shape(shape, least=2 ** (len(depths) - 1))
        width, large = config.width, isinstance(config, ResnetConfig) and config.stem == "imagenet"
        stem = [convolution(channels, width, *((7, 2) if large else (3,))), nn.BatchNorm2d(width), nn.ReLU()]
        self.stem = nn.Sequential(*stem, *[nn.MaxPool2d(3, 2, 1)] * large)
        stages: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            wide = width * 2**stage
            for index in range(depth):
                stages.append(block(inputs, wide, 2 if stage > 0 and index == 0 else 1))
                inputs = wide * expansion
        self.stages = nn.Sequential(*stages)
        self.fc = _start.head(inputs, config, num_classes)
        self._config, self._kaiming_head = config, kaiming_head
        self.reset_parameters()
        _start.freeze(self, config, "fc")

    def reset_parameters(self) -> None:
        """Kaiming-normal convolutions (fan out); the other layers as torch does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self._kaiming_head and isinstance(self.fc, nn.Linear):
            nn.init.kaiming_normal_(self.fc.weight)

    def load_pretrained(self) -> str:
        """Start from the file of the configuration, if there is one; what to tell the user."""
        return _start.load(self, self._config, "fc")

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        features = self.stages(self.stem(inputs))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))
