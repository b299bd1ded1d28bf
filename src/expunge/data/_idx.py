"""The IDX format of MNIST (LeCun), plain or gzip."""

import gzip
import math
import struct
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data._assemble import Array, Arrays

CURE = "it may be cut short; fetch it again"


def present(folder: Path) -> bool:
    """Whether the folder holds IDX files."""
    return any(folder.glob("train-images*idx3-ubyte*"))


def read_folder(folder: Path, stems: tuple[str, str] = ("train", "t10k")) -> tuple[Arrays, Arrays]:
    """Read images uint8 (n, height, width) and labels for training and test; IDX files have no class names."""
    train, test = (
        (read(_find(folder, f"{stem}-images", 3), 3), read(_find(folder, f"{stem}-labels", 1), 1)) for stem in stems
    )
    return train, test


def _find(folder: Path, stem: str, dimensions: int) -> Path:
    names = [f"{stem}{dash}idx{dimensions}-ubyte{end}" for dash in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise RequestError(f"{folder} holds no {names[0]} (or {names[1]}): is it the folder of an MNIST-style set?")


def read(path: Path, dimensions: int) -> Array:
    """Read the uint8 array of one IDX file.

    Raises:
        RequestError: The file is no IDX file of that many dimensions, or is truncated.
    """
    start = 4 + 4 * dimensions
    with files.reading(path, CURE), files.opened(path, CURE) as file, _plain(file, path) as source:
        head = source.read(start)
        if len(head) < start or head[:4] != bytes((0, 0, 8, dimensions)):
            raise RequestError(f"{path} is no IDX file of unsigned bytes with {dimensions} dimensions")
        shape = struct.unpack_from(f">{dimensions}I", head, 4)
        wanted, most = start + math.prod(shape), files.size(file) * (files.DEFLATE if source is not file else 1)
        if wanted <= most:
            files.check_room(wanted, path)
            found = np.empty(shape, np.uint8)
            if files.fill(source, found) == found.nbytes and not source.read(1):
                return found
        raise RequestError(f"{path} holds another number of bytes than {wanted}, where its header says: {CURE}")


def _plain(file: BinaryIO, path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
