"""CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 in 10 classes (Krizhevsky 2009)."""

from dataclasses import dataclass

from expunge.core.registry import source
from expunge.data import _named
from expunge.data._named import NamedConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


@dataclass(frozen=True)
class Cifar10Config(NamedConfig):
    """Options of CIFAR-10."""

    augment: bool = True


@source()
def load(config: Cifar10Config, *, limits: Limits | None = None) -> Dataset:
    """CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 in 10 classes (Krizhevsky 2009)."""
    statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return _named.load(("cifar10",), config, statistics, limits)
