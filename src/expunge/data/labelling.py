"""Labels that are text, numbered."""

from collections.abc import Sequence

from expunge.core.errors import RequestError
from expunge.data.subsets import some


def numbered(
    train: Sequence[str], test: Sequence[str], where: str
) -> tuple[tuple[str, ...], tuple[list[int], list[int]]]:
    """The class names, those of the training labels in sorted order, and both lists as numbers of classes.

    A class may be missing in the test set.

    Raises:
        RequestError: The test set has a class that the training set lacks.
    """
    names = tuple(sorted(set(train)))
    unknown = sorted(set(test) - set(names))
    if unknown:
        raise RequestError(f"{where}: the test set has labels that the training set lacks: {some(unknown)}")
    number = {name: index for index, name in enumerate(names)}
    return names, ([number[word] for word in train], [number[word] for word in test])
