"""Residual networks for small images (He et al. 2016, arXiv:1512.03385)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks
from expunge.models._check import Shape, image_shape

Block = Callable[[int, int, int], nn.Module]


@dataclass(frozen=True)
class ResnetConfig:
    """Options of every residual network."""

    width: int = 64
    """Channels of the first stage; each further stage has twice as many."""

    def __post_init__(self) -> None:
        checks.at_least(1, width=self.width)


@dataclass(frozen=True)
class CifarResnetConfig(ResnetConfig):
    """Options of the residual networks of three stages, which are narrower."""

    width: int = 16


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


def bottleneck(inputs: int, width: int, stride: int) -> nn.Module:
    """1x1, 3x3 and 1x1 convolutions to four times the width, with a projection shortcut."""
    body = nn.Sequential(
        convolution(inputs, width, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        convolution(width, width, 3, stride),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        convolution(width, 4 * width, 1),
        nn.BatchNorm2d(4 * width),
    )
    return Residual(body, projection(inputs, 4 * width, stride))


class ResNet(nn.Module):
    """A 3x3 stem without pooling, stages of blocks, an average over the image, one linear layer ``fc``."""

    def __init__(
        self,
        block: Block,
        width: int,
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
        self.stem = nn.Sequential(convolution(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        stages: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            wide = width * 2**stage
            for index in range(depth):
                stages.append(block(inputs, wide, 2 if stage > 0 and index == 0 else 1))
                inputs = wide * expansion
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, num_classes)
        self._kaiming_head = kaiming_head
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal convolutions (fan out); the other layers as torch does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self._kaiming_head:
            nn.init.kaiming_normal_(self.fc.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        features = self.stages(self.stem(inputs))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))
