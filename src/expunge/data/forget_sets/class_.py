"""A forget set of whole classes, or of a random part of their examples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet
from expunge.data.subsets import check_amount, draw, some


@dataclass(frozen=True)
class ClassForget:
    """The classes: ``class:3``, ``class:3+5``, ``class:3,count=50``."""

    classes: tuple[int, ...]
    """Class numbers, from 0."""
    count: int | None = None
    """The number of their examples, drawn at random; all by default."""
    share: float | None = None
    """Or the share of their examples, rounded down: 10% or 0.1."""

    def __post_init__(self) -> None:
        """Check that there is at least one class, that none repeats, and the amount."""
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise RequestError(f"give each class to forget once: class:3 or class:3+5; got {list(self.classes)}")
        check_amount(self.count, self.share)


def _fixed(config: ClassForget) -> bool:
    return config.count is None and config.share is None


def _words(config: ClassForget) -> str:
    return f"{'' if _fixed(config) else 'part of '}class {', '.join(map(str, config.classes))}"


@registry.forget_set(words=_words, fixed=_fixed, aliases=["classes"])
def forget(train: ImageSet, config: ClassForget, generator: torch.Generator, *, num_classes: int) -> Tensor:
    """The training examples of some classes, or a random part of them."""
    wrong = [label for label in config.classes if not 0 <= label < num_classes]
    if wrong:
        raise RequestError(f"there is no class {wrong[0]}: classes are 0..{num_classes - 1}")
    ids = train.ids[torch.isin(train.labels, torch.tensor(config.classes, device=train.device))]
    if not len(ids):
        raise RequestError(f"no training example has the class {some(config.classes)}: the forget set is empty")
    return draw(ids, config.count, config.share, generator)
