"""The forget set and the retain set of a training set."""

from typing import cast

import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet
from expunge.data.names import Names
from expunge.data.subsets import some


def forget_ids(
    forget: object,
    train: ImageSet,
    generator: torch.Generator,
    num_classes: int,
    poisoned: Tensor | None = None,
    names: Names = Names(),  # noqa: B008 - frozen
) -> Tensor:
    """Return the ids of a forget set: int64, ascending. ``poisoned`` are the ids of the poisoned examples, if any.

    Raises:
        RequestError: The set is empty, is the whole training set, or contains ids that are not in the training set.
    """
    plugin = registry.of_config("forget_sets", forget)
    chosen = plugin.call(train, forget, generator, num_classes=num_classes, poisoned=poisoned, names=names)
    ids = cast("Tensor", chosen).to(train.device)
    unknown = ids[~torch.isin(ids, train.ids)]
    if len(unknown):
        raise RequestError(
            f"not in the training set: {some(unknown.tolist())}; its ids are {int(train.ids.min())} to "
            f"{int(train.ids.max())}, without those set aside for validation or left out by a limit"
        )
    if not len(ids):
        raise RequestError(f"the forget set {plugin.name} is empty: nothing would be forgotten")
    if len(ids) >= len(train):
        raise RequestError(f"the forget set is all {len(train)} training examples: nothing would be retained")
    return ids.sort().values


def is_fixed(forget: object) -> bool:
    """Whether a forget set is independent of the seed and of earlier deletions (which it leaves out)."""
    return registry.of_config("forget_sets", forget).mark.fixed(forget)


def partition(train: ImageSet, ids: Tensor) -> tuple[ImageSet, ImageSet]:
    """Divide the training set into the forget set and the retain set."""
    forgotten = train.contains(ids)
    return train.select(forgotten), train.select(~forgotten)
