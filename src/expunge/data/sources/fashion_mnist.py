"""Fashion-MNIST: pictures of clothes, 28 x 28, grey (Xiao et al. 2017)."""

from expunge.core.registry import source
from expunge.data import _named
from expunge.data._named import NamedConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


class FashionMnistConfig(NamedConfig):
    """Options of Fashion-MNIST."""


@source()
def load(config: FashionMnistConfig, *, limits: Limits | None = None) -> Dataset:
    """Fashion-MNIST: pictures of clothes, 28 x 28, grey (Xiao et al. 2017)."""
    statistics = ((0.2860,), (0.3530,))
    return _named.load(("fashion_mnist",), config, statistics, limits)
