"""A table of your own, CSV, Parquet or .npz, with a column of labels: table:FILE."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.randomness import generator
from expunge.core.registry import source
from expunge.data import _assemble, _tables, labelling, splits
from expunge.data._tables import Table
from expunge.data.dataset import Dataset


@dataclass(frozen=True)
class TableConfig:
    """A table, and its test set."""

    path: str
    """The file: .csv with a header, .parquet, or .npz with arrays (n,) or (n, k)."""
    label: str = "label"
    """The column of labels, numbers or text."""
    test: str = ""
    """Another such file as the test set; by default a share of the rows."""
    share: float = 0.2
    """The share of each class that is the test set, if there is no other file."""
    seed: int = 0
    """The seed of that choice."""

    def __post_init__(self) -> None:
        checks.between(0, 1, share=self.share)


@source()
def load(config: TableConfig) -> Dataset:
    """A table of your own, CSV, Parquet or .npz, with a column of labels: table:FILE.

    Columns of numbers are features; a column of text becomes a 0/1 column for each of its values, in sorted order.
    Labels are numbered in sorted order. The model standardises features by their mean and deviation in training.

    Raises:
        RequestError: A file is damaged, a value is missing, a column is missing, or the files have other columns.
    """
    path, other = Path(config.path).expanduser(), Path(config.test).expanduser()
    tables = [_tables.read(path), *([_tables.read(other)] if config.test else [])]
    names = [name for name in tables[0] if name != config.label]
    if not names:
        raise RequestError(f"{path} has no column beside {config.label}")
    if config.test and set(tables[0]) != set(tables[1]):
        raise RequestError(
            f"{other} has other columns than {path}: {', '.join(sorted(set(tables[0]) ^ set(tables[1])))}"
        )
    features = _features(tables, names, path)
    columns = [_tables.column(table, config.label, path) for table in tables]
    text = any(map(_tables.is_text, columns))
    words = [_tables.words(values) if text else values.tolist() for values in columns]
    classes, (labels, others) = labelling.numbered(words[0], words[1] if config.test else [], path)
    if config.test:
        train, test = (features[0], np.array(labels)), (features[1], np.array(others))
        return _assemble.vectors(train, test, path, class_names=classes)
    numbers = np.array(labels)
    kept, aside = splits.class_balanced(
        torch.from_numpy(numbers), config.share, generator(config.seed, "table", "test")
    )
    train, test = ((features[0][rows], numbers[rows]) for rows in (kept.numpy(), aside.numpy()))
    if not len(test[1]):
        raise RequestError(f"{path}: a share of {config.share:g} of each class is no row: give a larger share")
    return _assemble.vectors(train, test, path, class_names=classes)


def _features(tables: list[Table], names: list[str], path: Path) -> list[npt.NDArray[np.float64]]:
    """The columns as numbers (n, features), of each table."""
    parts: list[list[npt.NDArray[np.float64]]] = [[] for _ in tables]
    for name in names:
        text = any(_tables.is_text(table[name]) for table in tables)
        known = sorted({value for table in tables for value in _tables.words(table[name])}) if text else []
        for part, table in zip(parts, tables, strict=True):
            values = np.array(_tables.words(table[name])) if text else table[name]
            part.append(_tables.indicators(values, known) if text else _tables.numbers(table, [name], path))
    return [np.concatenate(part, 1) for part in parts]
