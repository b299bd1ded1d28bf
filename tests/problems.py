"""Tiny problems that all tests share."""

import torch
from torch import Tensor, nn

from expunge.core import masks, weights
from expunge.core.masks import Mask
from expunge.data.image_set import ImageSet, make
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.trajectory import record
from expunge.trajectory.plan import Trajectory


def images(count: int, classes: int = 3, first_id: int = 0, seed: int = 0) -> ImageSet:
    """Images of 1 x 4 x 4 that a linear model can tell apart: class c is bright in row c."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    pixels[torch.arange(count), 0, labels] += 120
    return make(pixels, labels, first_id=first_id)


def data(classes: int = 3, forget: int = 10, retain: int = 30) -> UnlearningData:
    """A forget, a retain and a validation set."""
    return UnlearningData(
        images(forget, classes, seed=1), images(retain, classes, 100, seed=2), images(12, classes, 500, seed=3), classes
    )


def model(classes: int = 3, batch_norm: bool = True, seed: int = 0) -> nn.Module:
    """A small network, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        norm: nn.Module = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        convolution = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        return nn.Sequential(convolution, norm, nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, classes))


def context(seed: int = 0, **more: object) -> Context:
    """The circumstances of a test."""
    return Context(torch.Generator().manual_seed(seed), **more)  # type: ignore[arg-type]


def recorded(network: nn.Module, seen: UnlearningData) -> Trajectory:
    """Train ``network`` in place on all that a method sees; what was kept of it."""
    rule = Rule(lr=0.05, momentum=0.5, clip=1.0)
    return record.recorded(network, seen.everything(), Training(1, 8, rule, record=True), context())


def full(network: nn.Module) -> Mask:
    """The mask that is true everywhere."""
    return Mask(masks.over(None, weights.trainable(network)))


def vector(network: nn.Module) -> Tensor:
    """All parameters as one float64 vector (p,)."""
    return torch.cat([weight.detach().flatten().double() for weight in network.parameters()])
