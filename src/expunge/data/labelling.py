"""Labels that are text or any numbers, as numbers of classes."""

from collections.abc import Sequence
from typing import TypeVar

from expunge.core.errors import RequestError
from expunge.data.subsets import some

Label = TypeVar("Label", str, float)


def numbered(
    train: Sequence[Label], test: Sequence[Label], where: object
) -> tuple[tuple[str, ...], tuple[list[int], list[int]]]:
    """The class names, those of the training labels in sorted order, and both lists as numbers of classes.

    A class may be missing in the test set.

    Raises:
        RequestError: The test set has a class that the training set lacks.
    """
    known = sorted(set(train))
    unknown = sorted(set(test) - set(known))
    if unknown:
        raise RequestError(f"{where}: the test set has labels that the training set lacks: {some(unknown)}")
    number = {label: index for index, label in enumerate(known)}
    names = tuple(label if isinstance(label, str) else f"{label:g}" for label in known)
    return names, ([number[label] for label in train], [number[label] for label in test])
