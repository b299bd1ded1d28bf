"""Which examples to forget: by chance, by class, by a list of ids, or those that are poisoned."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.core.registry import unknown
from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class RandomForget:
    """So many training examples, uniformly at random, without regard to class."""

    count: int | None = None
    """How many examples."""
    percent: float | None = None
    """Or how many percent of the training set, rounded down."""

    def __post_init__(self) -> None:
        """Exactly one of the two, within its range."""
        if (self.count is None) == (self.percent is None):
            raise RequestError("a random forget set needs a count or a percentage: random:4500 or random:10%")
        if self.count is not None and self.count < 1:
            raise RequestError(f"the forget set would be empty: random:{self.count}; give a count of at least 1")
        if self.percent is not None and not 0 < self.percent < 100:
            raise RequestError(f"a random forget set needs a percentage above 0 and below 100, got {self.percent:g}%")


@dataclass(frozen=True)
class ClassForget:
    """Every training example of these classes."""

    classes: tuple[int, ...]
    """Class numbers, from 0."""

    def __post_init__(self) -> None:
        """At least one class, none twice."""
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise RequestError(f"give each class to forget once: class:3 or class:3,5; got {list(self.classes)}")


@dataclass(frozen=True)
class ListedForget:
    """The training examples with these ids."""

    ids: tuple[int, ...]
    """Ids, as the data source counts them."""

    def __post_init__(self) -> None:
        """At least one id, none twice."""
        if not self.ids:
            raise RequestError("the list of ids to forget is empty: nothing would be forgotten")
        if not -(2**63) <= min(self.ids) <= max(self.ids) < 2**63:
            raise RequestError(f"ids must fit 64 bits, got {min(self.ids)} to {max(self.ids)}: no example has these")
        values, counts = np.unique(np.asarray(self.ids, dtype=np.int64), return_counts=True)
        if (counts > 1).any():
            raise RequestError(f"ids repeat in the forget set: {_some(values[counts > 1].tolist())}; give each once")


@dataclass(frozen=True)
class PoisonedForget:
    """The training examples that were poisoned (:mod:`expunge.data.poisoning`)."""


Forget: TypeAlias = RandomForget | ClassForget | ListedForget | PoisonedForget


def parse_forget(text: str) -> Forget:
    """The forget set written ``random:N``, ``random:P%``, ``class:C,...``, ``ids:FILE`` or ``poisoned``.

    Raises:
        RequestError: The text is none of these; the message gives the nearest.
    """
    kind, _, rest = text.partition(":")
    readers = {"random": _random, "class": _classes, "ids": _listed, "poisoned": _poisoned}
    if kind not in readers:
        cure = "write random:4500, random:10%, class:3, class:3,5, ids:FILE or poisoned"
        raise RequestError(f"{unknown('kind of forget set', kind, readers)}; {cure}")
    return readers[kind](rest)


def _random(text: str) -> Forget:
    try:
        return RandomForget(percent=float(text[:-1])) if text.endswith("%") else RandomForget(count=int(text))
    except RequestError:
        raise
    except ValueError:
        raise RequestError(f"random:{text} needs a whole number or a percentage: random:4500 or random:10%") from None


def _classes(text: str) -> Forget:
    try:
        return ClassForget(tuple(int(part) for part in text.split(",")))
    except RequestError:
        raise
    except ValueError:
        raise RequestError(f"class:{text} needs class numbers with commas between: class:3 or class:3,5") from None


def _listed(text: str) -> Forget:
    return ListedForget(tuple(read_ids(Path(text))))


def _poisoned(text: str) -> Forget:
    if text:
        raise RequestError(
            f"poisoned takes no value, got poisoned:{text}: write poisoned, which means every poisoned example"
        )
    return PoisonedForget()


def read_ids(path: Path) -> list[int]:
    """Ids from a file: ``.npy``, a JSON list, or text with one id a line (``#`` begins a comment).

    Raises:
        RequestError: The file is missing or holds something else; the message tells the line.
    """
    try:
        if path.suffix == ".npy":
            return _whole(np.load(path, allow_pickle=False).ravel().tolist(), path)
        if path.suffix == ".json":
            return _whole(json.loads(path.read_text()), path)
        return [
            number for line, text in enumerate(path.read_text().splitlines(), 1) for number in _line(text, line, path)
        ]
    except RequestError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"cannot read ids from {path}: {error}") from error


def _line(text: str, line: int, path: Path) -> list[int]:
    text = text.partition("#")[0].strip().rstrip(",")
    if not text:
        return []
    try:
        return [int(text)]
    except ValueError:
        raise RequestError(f"{path}, line {line}: {text[:40]!r} is no id; write one whole number a line") from None


def _whole(values: object, path: Path) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise RequestError(f"{path} must hold a plain list of whole numbers")
    return values


def forget_ids(
    forget: Forget,
    train: ImageSet,
    generator: torch.Generator,
    num_classes: int,
    poisoned: Tensor | None = None,
) -> Tensor:
    """The ids of the forget set: int64, ascending. ``poisoned`` are those of the poisoned examples, if there are any.

    Raises:
        RequestError: It would be empty or everything, or names what the training set does not have.
    """
    if isinstance(forget, RandomForget):
        ids = _draw(forget, train, generator)
    elif isinstance(forget, ClassForget):
        ids = _of_classes(forget, train, num_classes)
    elif isinstance(forget, ListedForget):
        ids = _known(torch.tensor(forget.ids, dtype=torch.int64), train)
    else:
        if poisoned is None or not len(poisoned):
            raise RequestError(
                "nothing is poisoned to be forgotten: the model was not trained on poisoned data; begin with "
                "expunge train --poison patch:share=10%"
            )
        ids = _known(poisoned, train)
    if len(ids) >= len(train):
        raise RequestError(f"the forget set is all {len(train)} training examples: nothing would be retained")
    return ids.sort().values


def _draw(forget: RandomForget, train: ImageSet, generator: torch.Generator) -> Tensor:
    percent = forget.percent or 0.0
    count = int(len(train) * percent / 100 + 1e-9) if forget.count is None else forget.count
    if count < 1:
        raise RequestError(f"{percent:g}% of {len(train)} training examples is less than one: the forget set is empty")
    if count > len(train):
        raise RequestError(f"cannot forget {count} of {len(train)} training examples")
    chosen = torch.randperm(len(train), generator=generator, device=generator.device)[:count]
    return train.ids[chosen.to(train.device)]


def _of_classes(forget: ClassForget, train: ImageSet, num_classes: int) -> Tensor:
    wrong = [label for label in forget.classes if not 0 <= label < num_classes]
    if wrong:
        raise RequestError(f"there is no class {wrong[0]}: classes are 0..{num_classes - 1}")
    ids = train.ids[torch.isin(train.labels, torch.tensor(forget.classes, device=train.device))]
    if not len(ids):
        raise RequestError(f"no training example has the class {_some(list(forget.classes))}: the forget set is empty")
    return ids


def _known(ids: Tensor, train: ImageSet) -> Tensor:
    ids = ids.to(train.device)
    foreign = ids[~torch.isin(ids, train.ids)]
    if len(foreign):
        raise RequestError(
            f"not in the training set: {_some(foreign.tolist())}; ids there are {int(train.ids.min())} to "
            f"{int(train.ids.max())}, without those set aside for validation or left out by a limit"
        )
    return ids


def _some(values: list[int]) -> str:
    """At most five of these numbers."""
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more


def partition(train: ImageSet, ids: Tensor) -> tuple[ImageSet, ImageSet]:
    """The forget set and the retain set: together the training set, with nothing in both."""
    forgotten = train.contains(ids)
    return train.select(forgotten), train.select(~forgotten)
