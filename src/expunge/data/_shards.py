"""WebDataset shards: tar files in which the files of one example share their name up to the first dot.

Nothing is unpacked: members are read where they lie in the shard.
"""

import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from expunge.core import files
from expunge.core.errors import RequestError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff")
LABELS = ("cls", "json")
CURE = "write the shard anew, as a plain tar of regular files"
MOST = 2**20
"""The most bytes of a label."""


@dataclass(frozen=True)
class Example:
    """One example: where its image lies, and its label as written."""

    key: str
    name: str
    """The shard and the member, for messages."""
    shard: Path
    start: int
    size: int
    label: str | int

    def opened(self) -> BinaryIO:
        """The bytes of its image."""
        with files.reading(self.shard, CURE), files.opened(self.shard, CURE) as file:
            file.seek(self.start)
            return io.BytesIO(file.read(self.size))


def read(shards: Sequence[Path], label: str) -> list[Example]:
    """The examples of these shards, in the order of shards and then of members; ``label`` is a key of the JSON files.

    Raises:
        RequestError: A shard is damaged, holds links, devices or names outside of it, or an example lacks its image or
            its label, or has two.
    """
    return [example for shard in shards for example in _shard(shard, label)]


def _shard(path: Path, label: str) -> Iterable[Example]:
    with files.reading(path, CURE), files.opened(path, CURE) as file:
        found: dict[str, dict[str, tarfile.TarInfo]] = {}
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                key, kind = _parts(member, path, files.size(file))
                if kind not in (*IMAGES, *LABELS):
                    continue
                example = found.setdefault(key, {})
                role = "image" if kind in IMAGES else kind
                if role in example:
                    raise RequestError(f"{path}: the example {key} has two files for its {role}: {CURE}")
                example[role] = member
        for key, parts in found.items():
            if "image" not in parts or not {*parts} & {*LABELS}:
                lacks = "an image" if "image" not in parts else "a label (.cls, or .json)"
                raise RequestError(f"{path}: the example {key} lacks {lacks}: {CURE}")
            image, written = parts["image"], _label(file, parts, label, f"{path}, {key}")
            yield Example(key, f"{path}, {image.name}", path, image.offset_data, image.size, written)


def _parts(member: tarfile.TarInfo, path: Path, size: int) -> tuple[str, str]:
    """The key and the kind of a member; empty ones for a folder.

    Raises:
        RequestError: It is no regular file, or its name leads out of the shard.
    """
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts or "\\" in member.name or "\0" in member.name:
        raise RequestError(f"{path} is refused: the name {member.name[:80]!r} leads out of it; {CURE}")
    if member.isdir():
        return "", ""
    if not member.isreg() or member.issparse():
        raise RequestError(f"{path} is refused: {member.name[:80]!r} is a link, a device or a sparse file; {CURE}")
    if member.offset_data + member.size > size:
        raise ValueError("it ends within a file")
    stem, _, kind = place.name.partition(".")
    return (place.parent / stem).as_posix(), kind.lower()


def _label(file: BinaryIO, parts: dict[str, tarfile.TarInfo], label: str, where: str) -> str | int:
    """The label of an example: the text of its .cls file, or a value of its .json file."""
    kind = "cls" if "cls" in parts else "json"
    if parts[kind].size > MOST:
        raise RequestError(f"{where}.{kind} has {parts[kind].size} bytes, more than a label may have: {CURE}")
    file.seek(parts[kind].offset_data)
    text = file.read(parts[kind].size).decode()
    if kind == "cls":
        value: object = text.strip()
    else:
        values = files.parse_json(text, f"{where}.json", CURE)
        value = cast("dict[str, object]", values).get(label) if isinstance(values, dict) else None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise RequestError(
            f"{where}.{kind} should hold a label, a number or text{'' if kind == 'cls' else f' under {label}'}"
        )
    return value


def picture(example: Example) -> tuple[str, partial[BinaryIO]]:
    """The image of an example, to be decoded."""
    return example.name, partial(example.opened)
