"""Tables of numbers and text (CSV, Parquet, .npz), and their columns as features."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data import _npz, _parquet
from expunge.data._assemble import Arrays

CURE = "write a table with a header, commas between, and a value in every place"
Column = npt.NDArray[np.float64] | npt.NDArray[np.str_]
"""The values of a column: float64 (n,) if all are numbers, else text without blanks around it."""
Table = Mapping[str, Column]


def read(path: Path) -> Table:
    """The columns of a table, in order.

    Raises:
        RequestError: The file is missing or damaged, a row is too long or short, or a value is missing.
    """
    if path.suffix == ".npz":
        return _arrays(path)
    if path.suffix == ".parquet":
        return parse(_parquet.table(path), path)
    return parse(files.text(path, CURE), path)


def parse(text: str, where: object, names: Sequence[str] = (), skip: int = 0) -> Table:
    """The columns of CSV, whose header are the names unless these are given; the first ``skip`` lines are left out."""
    with files.reading(where, CURE):
        rows = [(number, row) for number, row in enumerate(csv.reader(io.StringIO(text)), 1) if any(row)][skip:]
    header = [name.strip() for name in names or (rows.pop(0)[1] if rows else ())]
    if not rows or len(set(header)) != len(header):
        raise RequestError(f"{where} holds no rows, or two columns of one name: {CURE}")
    for number, row in rows:
        if len(row) != len(header) or not all(value.strip() for value in row):
            raise RequestError(f"{where}, line {number} should hold {len(header)} values: {CURE}")
    columns = zip(*(row for _, row in rows), strict=True)
    return {name: _column([value.strip() for value in values]) for name, values in zip(header, columns, strict=True)}


def numbers(table: Table, names: Sequence[str], where: object) -> npt.NDArray[np.float64]:
    """Columns of numbers: float64 (n, columns).

    Raises:
        RequestError: A column is missing, or holds text.
    """
    for name in names:
        if is_text(column(table, name, where)):
            raise RequestError(f"{where}: the column {name} should hold numbers")
    return np.stack([table[name].astype(np.float64) for name in names], 1)


def column(table: Table, name: str, where: object) -> Column:
    """One column; raise a RequestError if it is missing."""
    if name not in table:
        raise RequestError(f"{where} has no column {name}, only {', '.join([*table][:20])[:400]}")
    return table[name]


def is_text(values: Column) -> bool:
    """Whether a column holds text."""
    return not np.issubdtype(values.dtype, np.floating)


def words(values: Column) -> list[str]:
    """The values of a column as text."""
    return [each if isinstance(each, str) else f"{each:g}" for each in values.tolist()]


def indicators(values: Column, known: Sequence[str]) -> npt.NDArray[np.float64]:
    """A 0/1 column for each known value."""
    return (values[:, None] == np.array(known)[None]).astype(np.float64)


def ranks(values: Column, order: Mapping[str, int], where: object) -> npt.NDArray[np.int64]:
    """The number of each value.

    Raises:
        RequestError: A value has none.
    """
    unknown = sorted({*values.tolist()} - {*order})
    if unknown:
        raise RequestError(f"{where}: {unknown[0]!r} is none of {', '.join(order)}")
    return np.array([order[value] for value in values.tolist()], np.int64)


def divided(
    features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[Arrays, Arrays]:
    """Training and test rows as scikit-learn's ``train_test_split`` with ``random_state`` chooses them."""
    train, test = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed)
    return (features[train], labels[train]), (features[test], labels[test])


def _arrays(path: Path) -> Table:
    """The arrays (n,) or (n, k) of an .npz file; the latter give columns NAME_0, NAME_1, ..."""
    found: dict[str, Column] = {}
    for name, array in zip(_npz.names(path), _npz.read(path), strict=True):
        values = array.astype(np.float64)
        if values.ndim == 2:
            found |= {f"{name}_{index}": values[:, index] for index in range(values.shape[1])}
        elif values.ndim == 1:
            found[name] = values
        else:
            raise RequestError(f"{path}: {name} should be an array (n,) or (n, k), not {values.shape}")
    if not found or len({len(values) for values in found.values()}) != 1:
        raise RequestError(f"{path} should hold arrays of one length: {_npz.CURE}")
    return found


def _column(values: list[str]) -> Column:
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        return np.array(values)
