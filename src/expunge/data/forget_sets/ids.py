"""A forget set given by the ids of its examples."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.config import ReadBy
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet
from expunge.data.subsets import some


def read_ids(text: str) -> list[int]:
    """Parse ids (``3+17``), or read them from a file: ``.npy``, a JSON list, or one id per line (``#``: comment).

    Raises:
        RequestError: The file is missing or contains something else; the message names the line.
    """
    if re.fullmatch(r"\d+(\+\d+)*", text):
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
        try:
            found += [int(written)] if written else []
        except ValueError:
            cure = "write one whole number per line"
            raise RequestError(f"{path}, line {number}: {written[:40]!r} is not an id; {cure}") from None
    return found


def _integers(values: object, path: Path) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise RequestError(f"{path} must hold a plain list of whole numbers")
    return values


@dataclass(frozen=True)
class ListedForget:
    """The examples: ``ids:FILE`` or ``ids:3+17``."""

    ids: Annotated[tuple[int, ...], ReadBy(read_ids)]
    """Ids, in the numbering of the data source."""

    def __post_init__(self) -> None:
        """Check that there is at least one id, and that none repeats."""
        if not self.ids:
            raise RequestError("the list of ids to forget is empty: nothing would be forgotten")
        if not -(2**63) <= min(self.ids) <= max(self.ids) < 2**63:
            raise RequestError(f"ids must fit 64 bits, got {min(self.ids)} to {max(self.ids)}: no example has these")
        values, counts = np.unique(np.asarray(self.ids, dtype=np.int64), return_counts=True)
        if (counts > 1).any():
            raise RequestError(f"ids repeat in the forget set: {some(values[counts > 1].tolist())}; give each once")


@registry.forget_set(words=lambda _: "a list of ids", fixed=lambda _: True)
def forget(train: ImageSet, config: ListedForget, generator: torch.Generator) -> Tensor:
    """The training examples with these ids."""
    return torch.tensor(config.ids, dtype=torch.int64)
