"""Lists of ids in text or in a file."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expunge.core.errors import RequestError
from expunge.data.subsets import some


def read_ids(text: str) -> list[int]:
    """Ids written ``3+17``, or from a file: ``.npy``, a JSON list, or text with one id a line (``#`` begins a comment).

    Raises:
        RequestError: The file is missing or holds something else; the message tells the line.
    """
    if re.fullmatch(r"[0-9]+(\+[0-9]+)*", text):
        return [int(part) for part in text.split("+")]
    path = Path(text)
    try:
        if path.suffix == ".npy":
            return _integers(np.load(path, allow_pickle=False).ravel().tolist(), path)
        if path.suffix == ".json":
            return _integers(json.loads(path.read_text()), path)
        lines = path.read_text().splitlines()
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"cannot read ids from {path}: {error}") from error
    found: list[int] = []
    for number, line in enumerate(lines, 1):
        written = line.partition("#")[0].strip().rstrip(",")
        if written and not re.fullmatch(r"-?[0-9]+", written):
            cure = "write one whole number per line"
            raise RequestError(f"{path}, line {number}: {written[:40]!r} is not an id; {cure}")
        found += [int(written)] if written else []
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
    return values
