"""The IDX format of MNIST (LeCun), plain or gzip."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from expunge.core.errors import RequestError
from expunge.data._assemble import Array, Arrays


def present(folder: Path) -> bool:
    """Whether the folder holds IDX files."""
    return any(folder.glob("train-images*idx3-ubyte*"))


def read_folder(folder: Path) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    """Read images uint8 (n, height, width) and labels for training and test; IDX files have no class names."""
    train, test = (
        (read(_find(folder, f"{stem}-images", 3), 3), read(_find(folder, f"{stem}-labels", 1), 1))
        for stem in ("train", "t10k")
    )
    return train, test, ()


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
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{path} cannot be read ({error}): it may be cut short; fetch it again") from error
    if len(content) < 4 + 4 * dimensions or content[:4] != bytes((0, 0, 8, dimensions)):
        raise RequestError(f"{path} is no IDX file of unsigned bytes with {dimensions} dimensions")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    wanted = 4 + 4 * dimensions + int(np.prod(shape, dtype=np.int64))
    if len(content) != wanted:
        raise RequestError(f"{path} holds {len(content)} bytes where its header says {wanted}: fetch it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
