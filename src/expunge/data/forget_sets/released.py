"""A forget set as the original repositories choose it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet
from expunge.data.splits import check_numpy_seed
from expunge.data.subsets import amount, check_amount, some


@dataclass(frozen=True)
class ReleasedForget:
    """How many examples, and the ``--seed`` of their programs: ``released:4500,seed=2``, ``released:classes=3``."""

    count: int | None = None
    """How many examples (``--num_indexes_to_replace``)."""
    share: float | None = None
    """Or which share of the candidates, rounded down; by default 10%, and all where classes are given."""
    classes: tuple[int, ...] = ()
    """The classes of the candidates (``--class_to_replace``); all by default."""
    seed: int = 1
    """Their seed, from which they take one; at 1 their forget set is drawn from the split of their models."""

    def __post_init__(self) -> None:
        """An amount in its range, a seed from 1, no class twice."""
        check_amount(self.count, self.share)
        if self.seed < 1:
            raise RequestError(f"the seed of a released forget set must be at least 1, got {self.seed}")
        check_numpy_seed(self.seed - 1)
        if len(set(self.classes)) < len(self.classes):
            raise RequestError(f"give each class to forget once, got {list(self.classes)}")


def _fixed(config: ReleasedForget) -> bool:
    return bool(config.classes) and config.count is None and config.share is None


def _words(config: ReleasedForget) -> str:
    return f"class {', '.join(map(str, config.classes))}, as released" if config.classes else "at random, as released"


@registry.forget_set(words=_words, fixed=_fixed)
def forget(train: ImageSet, config: ReleasedForget, generator: torch.Generator) -> Tensor:
    """The examples that the original repositories choose: by ``numpy.random.RandomState(seed - 1)``.

    The candidates are all positions in the training set, or those of some classes, ascending; so many of them are
    drawn without replacement and without regard to class.
    """
    labels = train.labels.cpu().numpy()
    candidates = np.flatnonzero(np.isin(labels, config.classes) if config.classes else np.ones_like(labels))
    if not len(candidates):
        raise RequestError(f"no training example has the class {some(config.classes)}: the forget set is empty")
    count = amount(len(candidates), config.count, config.share, default=1.0 if config.classes else 0.1)
    chosen = np.random.RandomState(config.seed - 1).choice(candidates, count, replace=False)
    return train.ids[torch.from_numpy(chosen).to(train.device)]
