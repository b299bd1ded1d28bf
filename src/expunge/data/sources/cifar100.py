"""CIFAR-100: 50,000 and 10,000 colour images of 32 x 32 in 100 classes (Krizhevsky 2009)."""

from dataclasses import dataclass

from expunge.core.registry import source
from expunge.data import _named
from expunge.data._named import NamedConfig
from expunge.data._pictures import Reading
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


@dataclass(frozen=True)
class Cifar100Config(NamedConfig):
    """Options of CIFAR-100."""

    augment: bool = True
    superclasses: bool = False
    """Use the 20 superclasses (coarse labels) in place of the 100 classes."""


@source()
def load(config: Cifar100Config, *, limits: Limits | None = None) -> Dataset:
    """CIFAR-100: 50,000 and 10,000 colour images of 32 x 32 in 100 classes, or 20 superclasses (Krizhevsky 2009)."""
    statistics = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
    label = "coarse_label" if config.superclasses else ""
    return _named.load(("cifar100",), config, statistics, limits, options=Reading(label=label))
