"""Names of examples, such as relative paths, and the ids that they mean."""

import difflib
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from expunge.core.errors import RequestError

Listed = int | str
"""An example in a list: its id or its name."""
By = Literal["any", "id", "name"]
"""How whole numbers in a list are read."""


COMPARED = 3000
"""Names that an unknown one is compared with, those in its folder if there are any."""


@dataclass(frozen=True)
class Names:
    """The names of the examples of a data source; where it has none, the name of an example is its id as text."""

    train: tuple[str, ...] = ()
    """By id: those of the training and the validation examples, and of those that a limit leaves out."""
    test: tuple[str, ...] = ()
    """By id: those of the test examples, which are never forgotten."""

    def of(self, example: int) -> str:
        """Return the name of a training example."""
        return self.train[example] if self.train else str(example)

    def few(self, ids: Tensor, most: int = 5) -> str:
        """Return the names of at most ``most`` training examples as text, and how many more there are."""
        shown = ", ".join(self.of(each) for each in ids[:most].tolist())
        return f"{shown} and {len(ids) - most} more" if len(ids) > most else shown

    def unknown(self, texts: Sequence[str]) -> str:
        """Return the message for texts that mean no example, with similar names."""
        if not self.train:
            return f"the images of this data source have only ids, no names, so there is no {_some(texts)}: give ids"
        near: list[str] = []
        for each in texts[:3]:
            folder = each.rpartition("/")[0]
            beside = [name for name in self.by_name if name.rpartition("/")[0] == folder] or [*self.by_name]
            near += difflib.get_close_matches(each, beside[:COMPARED], n=1, cutoff=0.7)
        cure = f"did you mean {_some(near)}?" if near else f"names are such as {self.train[0]};"
        return f"there is no image called {_some(texts)}; {cure} `expunge list ids RUN` shows all"

    @cached_property
    def by_name(self) -> Mapping[str, tuple[bool, int]]:
        """Whether each name is that of a test example, and its id; a training example comes first."""
        sides = ((True, self.test), (False, self.train))
        return {name: (side, example) for side, names in sides for example, name in enumerate(names)}

    def find(self, text: str) -> str | None:
        """Return the name that a text means (see :func:`resolve`); None if there is none.

        Raises:
            RequestError: It may mean several.
        """
        wanted = unicodedata.normalize("NFC", text)
        if wanted in self.by_name:
            return wanted
        wanted = wanted.replace("\\", "/")
        ending = f"/{wanted.removeprefix('./').lstrip('/')}"
        same_base = self.by_base.get(wanted.rpartition("/")[2], ())
        found = [name for name in same_base if f"/{name}".endswith(ending) or ending.endswith(f"/{name}")]
        if len(found) > 1:
            raise RequestError(f"{text!r} may be {_some(found)}: write more of the path")
        return found[0] if found else None

    @cached_property
    def by_base(self) -> Mapping[str, tuple[str, ...]]:
        """The names whose last part, after the last slash, is this."""
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys((*self.train, *self.test)):
            found.setdefault(name.rpartition("/")[2], []).append(name)
        return {base: tuple(names) for base, names in found.items()}


def resolve(listed: Sequence[Listed], names: Names, by: By = "any", among: Tensor | None = None) -> Tensor:
    """Return the ids of the listed training examples: int64, ascending, each once. O(n + listed).

    A text means the example of that name, or else the one whose path ends with it, or which it ends with: ``1.png``
    and ``photos/anna/1.png`` both mean ``anna/1.png``. Those that the model was not trained on are left out: test
    examples and, with ``among``, named ones that are not among these ids. A number is an id, or with ``by="name"`` a
    name.

    Raises:
        RequestError: A name is unknown, means several examples, or is a number that is the id of one example and the
            name of another; or no training example is listed.
    """
    found, unknown = set[int](), list[str]()
    kept = None if among is None else set(among.tolist())
    for each in listed:
        number = isinstance(each, int)
        if number and (by == "id" or (by == "any" and str(each) not in names.by_name)):
            found.add(int(each))
            continue
        if by == "id":
            raise RequestError(f"{each!r} is no id, which by=id asks for: ids are whole numbers")
        name = str(each) if number and str(each) in names.by_name else names.find(str(each))
        if name is None:
            unknown.append(str(each))
            continue
        test, example = names.by_name[name]
        if number and by == "any" and int(each) != example and int(each) < len(names.train):
            raise RequestError(
                f"{each} is the id of {names.of(int(each))} and the name of the example with the id {example}: add "
                "by=id or by=name"
            )
        if not test and (kept is None or example in kept):
            found.add(example)
    if unknown:
        raise RequestError(names.unknown(unknown))
    if not found:
        raise RequestError(
            f"the model was trained on none of the {len(listed)} listed images: they are in the validation or the test "
            "set, left out by a limit, or forgotten before"
        )
    return torch.tensor(sorted(found), dtype=torch.int64)


def _some(texts: Sequence[str], most: int = 5) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def held_out(name: str, share: float) -> bool:
    """Whether an example is in the test set of a split by name: by the SHA-256 of its name, and nothing else."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < share * 2**64
