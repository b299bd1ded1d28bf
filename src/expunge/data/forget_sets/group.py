"""A forget set of all images of some people, by a table with a row for each image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from expunge.core import files, registry
from expunge.core.config import ReadBy
from expunge.core.errors import RequestError
from expunge.core.text import opened, split
from expunge.data.id_lists import TABLES, check_listed, of_people, read_examples
from expunge.data.image_set import ImageSet
from expunge.data.names import Listed, Names, resolve


def read_people(text: str) -> list[str]:
    """Parse ``anna+ben``, or read one person per line from a file."""
    if Path(text).is_file():
        lines = files.text(Path(text), "give a text file with one person per line").splitlines()
        return [line.strip() for line in lines if line.strip()]
    return [str(opened(part)) for part in split(text, "+")]


@dataclass(frozen=True)
class GroupForget:
    """The people: ``group:photos.csv,column=person,people=anna+ben`` or ``people=FILE``, one person a line.

    Of a table, the names of their images are kept, so that it can change or move afterwards.
    """

    images: Annotated[tuple[Listed, ...], ReadBy(read_examples)]
    """The .csv or .tsv file with a row for each image, or what was read from it: the names of the images."""
    column: str = "person"
    """The column with the person."""
    people: Annotated[tuple[str, ...], ReadBy(read_people)] = ()
    """The people, or a file of them."""
    example: str = ""
    """The column with the names or ids of images; by default name, filename, photo or the like."""

    def __post_init__(self) -> None:
        """Find the images of the people in the table."""
        images = self.images
        if len(images) == 1 and isinstance(images[0], str) and Path(images[0]).suffix.lower() in TABLES:
            if not self.people:
                raise RequestError(
                    f"say whose images to forget: group:{images[0]},column={self.column},people=anna+ben"
                )
            images = tuple(of_people(Path(images[0]), self.column, self.people, self.example))
            object.__setattr__(self, "example", "")
        object.__setattr__(self, "images", check_listed(images, "the group"))


def _words(config: GroupForget) -> str:
    return f"all images of {len(config.people)} by {config.column}"


@registry.forget_set(words=_words, fixed=lambda _: True, aliases=["groups"])
def forget(train: ImageSet, config: GroupForget, generator: torch.Generator, *, names: Names) -> Tensor:
    """The training examples of some people: group:photos.csv,column=person,people=anna+ben."""
    return resolve(config.images, names, among=train.ids)
