"""Wine: 13 chemical measurements of 178 Italian wines of 3 growers (Aeberhard & Forina 1992)."""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_wine

from expunge.core.registry import source
from expunge.data import _assemble, _tables
from expunge.data.dataset import Dataset
from expunge.data.splits import check_numpy_seed


@dataclass(frozen=True)
class WineConfig:
    """Options of Wine."""

    seed: int = 42
    """The seed of the published split, scikit-learn's ``random_state``."""

    def __post_init__(self) -> None:
        check_numpy_seed(self.seed)


@source()
def load(config: WineConfig) -> Dataset:
    """Wine: 13 chemical measurements of 178 Italian wines of 3 growers, which scikit-learn carries; needs no file.

    The test set is a fifth of the rows, as in the experiments of arXiv:2404.01712.
    """
    features, labels = load_wine(return_X_y=True)
    train, test = _tables.divided(np.asarray(features), np.asarray(labels), 0.2, config.seed)
    return _assemble.vectors(train, test, "wine", class_names=("class_0", "class_1", "class_2"))
