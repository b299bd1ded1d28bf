"""Lists of ids and names in text or in a file: of a column of a table, too."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from expunge.core import files, registry
from expunge.core.errors import RequestError
from expunge.core.text import opened, split
from expunge.data import _npy
from expunge.data.image_files import SUFFIXES
from expunge.data.names import Listed
from expunge.data.subsets import some

CURE = "give a file of whole numbers, one per line, a JSON list, or .npy"
NAMES_CURE = "give a file of ids or names, one per line, a JSON list, .npy, or .csv with column=NAME"
TABLES = (".csv", ".tsv")
LISTS = (".txt", ".json", ".npy", ".lst", ".list")
NAME_COLUMNS = ("name", "filename", "file_name", "file", "image", "photo", "path", "id", "key")
"""The columns of names that are found without being given, the first of them that a table has."""


def read_ids(text: str) -> list[int]:
    """Parse ids (``3+17``), or read them from a file: ``.npy``, a JSON list, or one id per line (``#``: comment).

    Raises:
        RequestError: The file is missing or contains something else; the message names the line.
    """
    if re.fullmatch(r"[0-9]{1,19}(\+[0-9]{1,19})*", text):
        return [int(part) for part in text.split("+")]
    path = Path(text)
    if path.suffix == ".npy":
        with files.reading(path, _npy.CURE), files.opened(path) as file:
            return _integers(_npy.read(file, files.size(file), path).ravel().tolist(), path)
    if path.suffix == ".json":
        return _integers(files.read_json(path, CURE), path)
    found: list[int] = []
    for number, line in enumerate(files.text(path, CURE).splitlines(), 1):
        written = line.partition("#")[0].strip().rstrip(",")
        if written and not re.fullmatch(r"-?[0-9]{1,19}", written):
            cure = "write one whole number per line"
            raise RequestError(f"{path}, line {number}: {written[:40]!r} is not an id; {cure}")
        found += [int(written)] if written else []
    return _integers(found, path)


def read_examples(text: str) -> list[Listed]:
    """Parse ids and names (``3+17``, ``anna/1.png+anna/2.png``), or read them from a file.

    Files are ``.npy``, a JSON list, or one id or name per line (lines that begin with ``#`` are comments); of a table,
    ``.csv`` or ``.tsv``, this returns the path, since a column must be named (:func:`in_table`). Text is a file if one
    of that path exists and does not end like an image, or if it ends like a list.

    Raises:
        RequestError: The file is missing, empty or damaged.
    """
    path, end = Path(text), Path(text).suffix.lower()
    if end in TABLES or re.fullmatch(r"[0-9]{1,19}(\+[0-9]{1,19})*", text) or end == ".npy":
        return [text] if end in TABLES else [*read_ids(text)]
    if end == ".json":
        found = files.read_json(path, NAMES_CURE)
        if not isinstance(found, list) or not all(type(each) in (int, str) for each in found):
            raise RequestError(f"{path} must hold a plain list of whole numbers and names")
        return cast("list[Listed]", found)
    if end in LISTS or (path.is_file() and end not in SUFFIXES):
        lines = [line.strip() for line in files.text(path, NAMES_CURE).splitlines()]
        found = [_entry(line) for line in lines if line and not line.startswith("#")]
        if not found:
            raise RequestError(f"{path}: the list of ids to forget is empty: nothing would be forgotten")
        return found
    return [_entry(str(opened(part))) for part in split(text, "+")]


def in_table(path: Path, column: str) -> list[Listed]:
    """Read the ids or names in a column of a table, each once; by default in the first of :data:`NAME_COLUMNS`."""
    return list(dict.fromkeys(_entry(name) for name in table(path, (column,))[0]))


def of_people(path: Path, column: str, people: Sequence[str], name: str) -> list[Listed]:
    """Read the ids or names of the images in a table whose ``column`` is one of these people, each once.

    Raises:
        RequestError: The table lacks a column, or a person.
    """
    names, who = table(path, (name, column))
    known = set(who)
    for person in people:
        if person not in known:
            raise RequestError(f"{path}: {registry.unknown(column, person, known)}")
    wanted = set(people)
    return list(dict.fromkeys(_entry(each) for each, person in zip(names, who, strict=True) if person in wanted))


def table(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Read columns of a CSV or TSV file with a header; the first may be empty, one of :data:`NAME_COLUMNS` then.

    Raises:
        RequestError: It cannot be read, lacks a column or all rows, or a row lacks a value.
    """
    content, separator = files.text(path, NAMES_CURE), "\t" if path.suffix.lower() == ".tsv" else ","
    with files.reading(path, NAMES_CURE):
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
        header = [each.strip() for each in next(reader, [])]
        given = (columns[0] or next((each for each in NAME_COLUMNS if each in header), ""), *columns[1:])
        for column in given:
            if column not in header:
                what = registry.unknown("column", column, header) if column else f"its columns are {', '.join(header)}"
                raise RequestError(f"{path} has no such column: {what}"[:400])
        places = [header.index(column) for column in given]
        found: list[list[str]] = [[] for _ in given]
        for row in reader:
            if not any(row):
                continue
            for place, values in zip(places, found, strict=True):
                value = row[place].strip() if place < len(row) else ""
                if not value:
                    raise RequestError(f"{path}, line {reader.line_num}: no {header[place]} is given")
                values.append(value)
    if not found[0]:
        raise RequestError(f"{path} has no rows below its header: nothing would be forgotten")
    return found


def _entry(text: str) -> Listed:
    """An id if the text is a whole number, with a comment or comma after it if any, or a name."""
    number = re.fullmatch(r"(0|[1-9][0-9]{0,18})\s*,?\s*(#.*)?", text)
    return int(number[1]) if number else text


def check_listed(listed: Sequence[Listed], where: str) -> tuple[Listed, ...]:
    """Return the list with whole numbers as such; raise a RequestError if it is empty or an entry repeats."""
    found = tuple(_entry(each) if isinstance(each, str) else each for each in listed)
    if not found:
        raise RequestError("the list of ids to forget is empty: nothing would be forgotten")
    numbers = [each for each in found if isinstance(each, int)]
    if numbers:
        check_ids(numbers, where)
    if len(set(found)) < len(found):
        repeated = [name for name, count in Counter(found).items() if count > 1]
        raise RequestError(f"names repeat in {where}: {', '.join(map(str, repeated[:5]))}; give each once")
    return found


def check_ids(ids: Sequence[int], where: str) -> None:
    """Raise a RequestError unless the ids, of which there is at least one, fit 64 bits and none is there twice."""
    if not -(2**63) <= min(ids) <= max(ids) < 2**63:
        raise RequestError(f"ids must fit 64 bits, got {min(ids)} to {max(ids)}: no example has these")
    values, counts = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
    if (counts > 1).any():
        raise RequestError(f"ids repeat in {where}: {some(values[counts > 1].tolist())}; give each once")


def _integers(values: object, path: Path) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise RequestError(f"{path} must hold a plain list of whole numbers")
    with files.naming(path):
        if not values:
            raise RequestError("the list of ids to forget is empty: nothing would be forgotten")
        check_ids(values, "the list")
    return values
