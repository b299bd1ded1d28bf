"""The list files of CelebA, as .txt or .csv: the attributes and the partition of each image."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from expunge.core import registry
from expunge.core.errors import RequestError

T = TypeVar("T")

ATTRIBUTES, PARTITIONS = "list_attr_celeba", "list_eval_partition"
TRAINING, TEST = "0", "2"
"""The partitions; 1 (validation) is not used."""


@dataclass(frozen=True)
class Listed:
    """The images of one partition in file order, and whether each has the attribute."""

    images: tuple[str, ...]
    has: tuple[bool, ...]

    def first(self, count: int | None) -> "Listed":
        """Return the first ``count`` images; all by default."""
        return Listed(self.images[:count], self.has[:count])


def read(folder: Path, attribute: str) -> tuple[Listed, Listed]:
    """Read the training and the test images.

    Raises:
        RequestError: A list is missing or damaged, the lists name different images, or there is no such attribute.
    """
    has, partition = _attribute(_find(folder, ATTRIBUTES), attribute), _partitions(_find(folder, PARTITIONS))
    for given, found, missing_in in ((has, partition, PARTITIONS), (partition, has, ATTRIBUTES)):
        missing = [image for image in given if image not in found]
        if missing:
            raise RequestError(
                f"{folder}: {missing_in} lacks {len(missing)} images of the other list, the first being {missing[0]}; "
                "fetch both lists again"
            )
    parts = [[image for image, found in partition.items() if found == part] for part in (TRAINING, TEST)]
    train, test = (Listed(tuple(images), tuple(has[image] for image in images)) for images in parts)
    return train, test


def _find(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.txt", folder / f"{stem}.csv"):
        if path.is_file():
            return path
    raise RequestError(f"{folder} holds no {stem}.txt and no {stem}.csv: put the file of CelebA there")


def _attribute(path: Path, attribute: str) -> dict[str, bool]:
    """Read whether each image has the attribute.

    The header is two lines in the .txt (number of images, attributes), and the names of the columns in the .csv.
    """
    rows = _rows(path)
    wanted = None if path.suffix == ".csv" else _header(rows)
    names = _header(rows) if wanted is not None else _header(rows)[1:]
    if not names:
        raise RequestError(f"{path} names no attributes: fetch it again")
    if attribute not in names:
        raise RequestError(f"{path}: {registry.unknown('attribute', attribute, names)}")
    column = 1 + names.index(attribute)
    found: dict[str, bool] = {}
    for where, fields in rows:
        if len(fields) != 1 + len(names) or fields[column] not in ("-1", "1"):
            raise RequestError(f"{where} should hold an image and {len(names)} values, each -1 or 1: fetch it again")
        _add(found, fields[0], fields[column] == "1", where)
    if wanted is not None and wanted != [str(len(found))]:
        raise RequestError(f"{path} says {' '.join(wanted)} images and holds {len(found)}: fetch it again")
    return found


def _header(rows: Iterator[tuple[str, list[str]]]) -> list[str]:
    """The fields of the next line; empty at the end of the file."""
    return next(rows, ("", []))[1]


def _partitions(path: Path) -> dict[str, str]:
    """Read the partition of each image; only the .csv has a header."""
    rows = _rows(path)
    if path.suffix == ".csv":
        _header(rows)
    found: dict[str, str] = {}
    for where, fields in rows:
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise RequestError(f"{where} should hold an image and its partition, 0, 1 or 2: fetch it again")
        _add(found, fields[0], fields[1], where)
    return found


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the location and the fields of each line that is not blank."""
    separator = "," if path.suffix == ".csv" else None
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", [field.strip() for field in line.split(separator)]
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text: fetch it again") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error


def _add(found: dict[str, T], image: str, value: T, where: str) -> None:
    if image in found:
        raise RequestError(f"{where}: {image} is listed twice; fetch it again")
    found[image] = value
