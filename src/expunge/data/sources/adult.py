"""Adult: does a person earn more than 50,000 dollars a year? (Kohavi 1996)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _named, _tables
from expunge.data._tables import Column, Table
from expunge.data.dataset import Dataset
from expunge.data.splits import check_numpy_seed

COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "educationNum", "maritalStatus", "occupation", "relationship", "race"),
    *("sex", "capitalGain", "capitalLoss", "hoursPerWeek", "nativeCountry", "income"),
)
UNUSED = ("fnlwgt", "educationNum")
BINS: Mapping[str, tuple[int, ...]] = {
    "age": (0, 23, 28, 33, 38, 43, 53, 63, 100),
    "capitalGain": (-1, 100, 1000, 5000, 10000, 30000, 50000, 100000, 150000),
    "capitalLoss": (-1, 1, 1500, 2000, 4000, 6000, 10000),
    "hoursPerWeek": (0, 10, 20, 30, 35, 40, 45, 50, 60, 70, 80, 100),
}
"""The edges of the intervals, open on the left and closed on the right, by whose number a value is replaced."""
WORDS = ("workclass", "education", "maritalStatus", "occupation", "nativeCountry")
INCOMES = {"<=50K": 0, ">50K": 1}
FILES = (("adult_train.txt", "adult.data"), ("adult_test.txt", "adult.test"))
CURE = "unpack the archive again"


@dataclass(frozen=True)
class AdultConfig:
    """Options of Adult."""

    root: str = ""
    """The parent of the data set's folder; by default the environment variable EXPUNGE_DATA."""
    seed: int = 42
    """The seed of the published split, scikit-learn's ``random_state``."""

    def __post_init__(self) -> None:
        check_numpy_seed(self.seed)


@source()
def load(config: AdultConfig) -> Dataset:
    """Adult: does a person earn more than 50,000 dollars a year? 88 features of a census (Kohavi 1996).

    The preprocessing of arXiv:2404.01712: duplicates and rows with a ? are left out, four columns become numbers of
    intervals, five become a 0/1 column for each value that is in both files; the test set is 40 % of the rows of the
    *training* file. Columns are in the order of their names here: the original's order changes from process to process.

    Raises:
        RequestError: A file is missing or damaged.
    """
    folder = _named.folder_of(("adult",), config.root)
    train, test = _rows(folder, FILES[0], 0), _rows(folder, FILES[1], 1)
    columns = [_binned(train[name], name, folder)[:, None] for name in BINS]
    for name in WORDS:
        shared = sorted({*train[name].tolist()} & {*test[name].tolist()})
        columns.append(_tables.indicators(train[name], shared))
    labels = _tables.ranks(train["income"], INCOMES, f"{folder}, column income")
    parts = _tables.divided(np.concatenate(columns, 1), labels, 0.4, config.seed)
    return _assemble.vectors(*parts, folder, class_names=tuple(INCOMES))


def _rows(folder: Path, names: Iterable[str], skip: int) -> Table:
    """The rows of a file, without duplicates and without those that lack a value."""
    there = [folder / name for name in names if (folder / name).is_file()]
    if not there:
        raise RequestError(f"{folder} holds no {' and no '.join(names)}: {CURE}")
    table = _tables.parse(files.text(there[0], CURE), there[0], COLUMNS, skip)
    used = [name for name in COLUMNS if name not in UNUSED]
    rows = dict.fromkeys(zip(*(table[name].tolist() for name in used), strict=True))
    whole = [row for row in rows if "?" not in row]
    if not whole:
        raise RequestError(f"{there[0]} holds no complete row: {CURE}")
    found: dict[str, Column] = {
        name: np.array(values) for name, values in zip(used, zip(*whole, strict=True), strict=True)
    }
    found["income"] = np.array([str(value).rstrip(".") for value in found["income"].tolist()])
    return found


def _binned(values: Column, name: str, where: Path) -> npt.NDArray[np.float64]:
    """The number of the interval of each value."""
    edges = BINS[name]
    if not np.issubdtype(values.dtype, np.number) or not ((values > edges[0]) & (values <= edges[-1])).all():  # pyright: ignore
        raise RequestError(f"{where}: {name} should be numbers above {edges[0]}, at most {edges[-1]}: {CURE}")
    return (np.searchsorted(edges, values.astype(np.float64), side="left") - 1).astype(np.float64)
