"""The union of several forget sets, chosen one after the other."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from expunge.core import randomness, registry
from expunge.core.config import Choice, read_texts
from expunge.core.errors import RequestError
from expunge.data.forgetting import forget_ids, is_fixed
from expunge.data.image_set import ImageSet
from expunge.data.names import Names


@dataclass(frozen=True)
class UnionForget:
    """The sets: ``union:(class:3)+(random:50)``."""

    sets: tuple[Annotated[object, Choice("forget_sets")], ...]
    """The forget sets; each chooses among the examples that are not in earlier ones."""
    seeds: tuple[int, ...] = ()
    """A seed for each; by default they draw from one generator."""

    def __post_init__(self) -> None:
        """Check that there is at least one set, and as many seeds as sets, if any."""
        read_texts(self)
        if not self.sets:
            raise RequestError("a union needs forget sets: union:(class:3)+(random:50)")
        if self.seeds and len(self.seeds) != len(self.sets):
            raise RequestError(f"a union of {len(self.sets)} forget sets needs as many seeds, got {len(self.seeds)}")


@registry.forget_set()
def forget(
    train: ImageSet,
    config: UnionForget,
    generator: torch.Generator,
    *,
    num_classes: int,
    poisoned: Tensor | None,
    names: Names,
) -> Tensor:
    """The union of several forget sets, each of which chooses among the examples that are not in earlier ones."""
    chosen = train.ids[:0]
    for position, each in enumerate(config.sets):
        drawn = randomness.generator(config.seeds[position], "forget") if config.seeds else generator
        left = train if is_fixed(each) else train.select(~train.contains(chosen))
        chosen = torch.cat([chosen, forget_ids(each, left, drawn, num_classes, poisoned, names)]).unique()
    return chosen
