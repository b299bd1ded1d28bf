"""A forget set given by the ids of its examples."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.config import ReadBy
from expunge.core.errors import RequestError
from expunge.data.id_lists import check_ids, read_ids
from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class ListedForget:
    """The examples: ``ids:FILE`` or ``ids:3+17``."""

    ids: Annotated[tuple[int, ...], ReadBy(read_ids)]
    """Ids, in the numbering of the data source."""

    def __post_init__(self) -> None:
        """Check that there is at least one id, and that none repeats."""
        if not self.ids:
            raise RequestError("the list of ids to forget is empty: nothing would be forgotten")
        check_ids(self.ids, "the forget set")


@registry.forget_set(words=lambda _: "a list of ids", fixed=lambda _: True)
def forget(train: ImageSet, config: ListedForget, generator: torch.Generator) -> Tensor:
    """The training examples with these ids."""
    return torch.tensor(config.ids, dtype=torch.int64)
