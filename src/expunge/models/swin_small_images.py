"""The Swin transformer for images of 32 pixels that is called ``swin_t`` in the code of Unlearn-Sparse."""

from dataclasses import dataclass

from torch import Tensor, nn

from expunge.core import checks
from expunge.core.registry import architecture
from expunge.models._check import Shape, image_shape
from expunge.models._swin import ChannelsLast, Plan, SwinConfig, stages


@dataclass(frozen=True)
class SwinSmallImagesConfig(SwinConfig):
    """Options of swin_small_images."""

    head_size: int = 32
    """Channels of each attention head."""
    window: int = 4
    """Pixels of a window on each side."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        checks.at_least(1, head_size=self.head_size)
        checks.at_least(2, window=self.window)


class Partition(nn.Module):
    """Squares of ``side`` pixels as one, by a linear layer; what is left of odd sizes is dropped."""

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.side, self.reduction = side, nn.Linear(channels * side * side, width)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, height / side, width / side, channels) of a batch."""
        height, width = (size // self.side * self.side for size in features.shape[1:3])
        parts = features[:, :height, :width].unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side))
        return self.reduction(parts.permute(0, 1, 3, 5, 2, 4).flatten(3))


class SmallSwin(nn.Module):
    """Patches of 2x2, stages that halve the image but for the last, an average over it, LayerNorm, and ``head``."""

    def __init__(self, config: SwinSmallImagesConfig, shape: Shape, num_classes: int) -> None:
        super().__init__()
        count = len(config.depths)
        channels, *_ = image_shape(shape, least=2 ** (count - 1))
        first = nn.Sequential(ChannelsLast(), Partition(channels, config.width, 2))
        plan = Plan(config.window, config.head_size, shared=True, single=True)

        def merging(stage: int, width: int) -> nn.Module:
            return Partition(width // 2, width, 1 if stage + 1 == count else 2)

        self.features = stages(config, plan, first, merging)
        last = config.width * 2 ** (count - 1)
        self.norm = nn.LayerNorm(last)
        self.head = nn.Linear(last, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return self.head(self.norm(self.features(images).mean(dim=(1, 2))))


@architecture(reference="Jia et al. 2023, arXiv:2304.04934")
def build(config: SwinSmallImagesConfig, shape: Shape, num_classes: int) -> nn.Module:
    """Swin for small images: no convolution, one table of position biases for all heads of a block."""
    return SmallSwin(config, shape, num_classes)
