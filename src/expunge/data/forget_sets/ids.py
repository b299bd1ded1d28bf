"""A forget set given by the ids or the names of its examples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.config import ReadBy
from expunge.data.id_lists import TABLES, check_listed, in_table, read_examples
from expunge.data.image_set import ImageSet
from expunge.data.names import By, Listed, Names, resolve


@dataclass(frozen=True)
class ListedForget:
    """The examples: ``ids:FILE``, ``ids:3+17``, ``ids:anna/1.png``, ``ids:FILE.csv,column=photo``."""

    ids: Annotated[tuple[Listed, ...], ReadBy(read_examples)]
    """Ids in the numbering of the data source, or names: relative paths, file names; or a file of them."""
    column: str = ""
    """The column of a .csv or .tsv file with the ids or names; by default name, filename, photo or the like."""
    by: By = "any"
    """How whole numbers are read, where the names of examples are such, too: any, id or name."""

    def __post_init__(self) -> None:
        """Read the column of a table; check that there is at least one example, and that none repeats."""
        ids = self.ids
        if len(ids) == 1 and isinstance(ids[0], str) and Path(ids[0]).suffix.lower() in TABLES:
            ids = tuple(in_table(Path(ids[0]), self.column))
            object.__setattr__(self, "column", "")
        object.__setattr__(self, "ids", check_listed(ids, "the forget set"))


@registry.forget_set(words=lambda _: "a list of ids", fixed=lambda _: True)
def forget(train: ImageSet, config: ListedForget, generator: torch.Generator, *, names: Names) -> Tensor:
    """The training examples with these ids or names; images that the model was not trained on are left out."""
    return resolve(config.ids, names, config.by, train.ids)
