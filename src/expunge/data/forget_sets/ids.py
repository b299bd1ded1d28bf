"""A forget set given by the ids of its examples."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from expunge.core import files, registry
from expunge.core.config import ReadBy
from expunge.core.errors import RequestError
from expunge.data import _npy
from expunge.data.image_set import ImageSet
from expunge.data.subsets import some

CURE = "give a file of whole numbers, one a line, a JSON list, or .npy"


def read_ids(text: str) -> list[int]:
    """Ids written ``3+17``, or from a file: ``.npy``, a JSON list, or text with one id a line (``#`` begins a comment).

    Raises:
        RequestError: The file is missing or holds something else; the message tells the line.
    """
    if re.fullmatch(r"\d{1,19}(\+\d{1,19})*", text):
        return [int(part) for part in text.split("+")]
    path = Path(text)
    if path.suffix == ".npy":
        with files.reading(path, _npy.CURE), files.opened(path) as file:
            return _integers(_npy.read(file, files.size(file), path).ravel().tolist(), path)
    if path.suffix == ".json":
        return _integers(files.read_json(path, CURE), path)
    lines = files.text(path, CURE).splitlines()
    found: list[int] = []
    for number, line in enumerate(lines, 1):
        written = line.partition("#")[0].strip().rstrip(",")
        try:
            found += [int(written)] if written else []
        except ValueError:
            raise RequestError(
                f"{path}, line {number}: {written[:40]!r} is no id; write one whole number a line"
            ) from None
    return _integers(found, path)


def _integers(values: object, path: Path) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise RequestError(f"{path} must hold a plain list of whole numbers")
    with files.naming(path):
        _check(values)
    return values


def _check(ids: Sequence[int]) -> None:
    """Raise a RequestError unless there is at least one id, each fits 64 bits, and none comes twice."""
    if not ids:
        raise RequestError("the list of ids to forget is empty: nothing would be forgotten")
    if not -(2**63) <= min(ids) <= max(ids) < 2**63:
        raise RequestError(f"ids must fit 64 bits, got {min(ids)} to {max(ids)}: no example has these")
    values, counts = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
    if (counts > 1).any():
        raise RequestError(f"ids repeat in the forget set: {some(values[counts > 1].tolist())}; give each once")


@dataclass(frozen=True)
class ListedForget:
    """Which examples: ``ids:FILE`` or ``ids:3+17``."""

    ids: Annotated[tuple[int, ...], ReadBy(read_ids)]
    """Ids, as the data source counts them."""

    def __post_init__(self) -> None:
        """At least one id, none twice."""
        _check(self.ids)


@registry.forget_set(words=lambda _: "a list of ids", fixed=lambda _: True)
def forget(train: ImageSet, config: ListedForget, generator: torch.Generator) -> Tensor:
    """The training examples with these ids."""
    return torch.tensor(config.ids, dtype=torch.int64)
