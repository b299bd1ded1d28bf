"""Obesity: habits and body of 2,111 people, in 7 levels of weight (Palechor & de la Hoz Manotas 2019)."""

from dataclasses import dataclass

import numpy as np

from expunge.core.registry import source
from expunge.data import _assemble, _named, _tables, labelling
from expunge.data.dataset import Dataset
from expunge.data.splits import check_numpy_seed

FILE = "ObesityDataSet_raw_and_data_sinthetic.csv"
NUMBERS = ("Age", "Height", "Weight", "FCVC", "NCP", "CAEC", "CH2O", "FAF", "TUE", "CALC")
"""The columns of numbers, and the two of ordered words, in the order of the file."""
ORDERED = ("CAEC", "CALC")
ORDER = {"no": 0, "Sometimes": 1, "Frequently": 2, "Always": 3}
WORDS = ("Gender", "family_history_with_overweight", "FAVC", "SMOKE", "SCC", "MTRANS")
"""Those that become 0/1 columns, one for each value in sorted order but the first."""
LABEL = "NObeyesdad"


@dataclass(frozen=True)
class ObesityConfig:
    """Options of Obesity."""

    root: str = ""
    """The parent of the data set's folder; by default the environment variable EXPUNGE_DATA."""
    seed: int = 42
    """The seed of the published split, scikit-learn's ``random_state``."""

    def __post_init__(self) -> None:
        check_numpy_seed(self.seed)


@source()
def load(config: ObesityConfig) -> Dataset:
    """Obesity: habits and body of 2,111 people as 19 features, in 7 levels of weight (Palechor & Manotas 2019).

    The preprocessing of arXiv:2404.01712: two-valued columns become one 0/1 column, MTRANS four, CAEC and CALC an order
    from no to always; the test set is 30 % of the rows. Labels are numbered once, in sorted order.
    """
    path = _named.folder_of(("obesity",), config.root) / FILE
    table = dict(_tables.read(path))
    for name in ORDERED:
        table[name] = _tables.ranks(_tables.column(table, name, path), ORDER, f"{path}, column {name}").astype(float)
    columns = [_tables.numbers(table, NUMBERS, path)]
    for name in WORDS:
        values = _tables.column(table, name, path)
        columns.append(_tables.indicators(values, sorted(set(values.tolist()))[1:]))
    classes, (labels, _) = labelling.numbered(_tables.column(table, LABEL, path).tolist(), [], str(path))
    train, test = _tables.divided(np.concatenate(columns, 1), np.array(labels), 0.3, config.seed)
    return _assemble.vectors(train, test, path, class_names=classes)
