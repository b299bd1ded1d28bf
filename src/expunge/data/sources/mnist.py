"""MNIST: handwritten digits, 28 x 28, grey (LeCun et al. 1998)."""

from expunge.core.registry import source
from expunge.data import _named
from expunge.data._named import NamedConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


class MnistConfig(NamedConfig):
    """Options of MNIST."""


@source()
def load(config: MnistConfig, *, limits: Limits | None = None) -> Dataset:
    """MNIST: handwritten digits, 28 x 28, grey (LeCun et al. 1998)."""
    statistics = ((0.1307,), (0.3081,))
    return _named.load(("mnist",), config, statistics, limits)
