"""Lists of ids in text or in a file."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data import _npy
from expunge.data.subsets import some

CURE = "give a file of whole numbers, one per line, a JSON list, or .npy"


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
