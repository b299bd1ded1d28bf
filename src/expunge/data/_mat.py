"""Arrays of numbers in MATLAB 5 files (MathWorks, "MAT-File Format", level 5), which is what SVHN is published in."""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data._assemble import Array

CURE = "it may be cut short; fetch it again"
HEADER = 128
MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""The types of stored numbers."""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""The types of arrays, whose numbers may be stored in a smaller type."""
COMPLEX = 0x0800
MOST = 2**33


def read(path: Path) -> Mapping[str, Array]:
    """The arrays of numbers in a file, by name; its cells, structures, texts and sparse arrays are left out.

    Raises:
        RequestError: The file is missing, damaged, or no MATLAB file of version 5.
    """
    with files.reading(path, CURE):
        content = memoryview(files.content(path, CURE, most=MOST))
        order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:HEADER]))
        if order is None or struct.unpack(f"{order}H", content[124:126])[0] != 0x0100:
            raise RequestError(f"{path} is no MATLAB file of version 5 (7.3 is another format): {CURE}")
        found: dict[str, Array] = {}
        for kind, part in _elements(content[HEADER:], order):
            if kind == COMPRESSED:
                kind, part = _inflated(part, order, path)  # noqa: PLW2901
            if kind == MATRIX and (named := _array(part, order)) is not None:
                found[named[0]] = named[1]
        return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The type and the bytes of each element; four bytes or fewer may stand in the tag."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack(f"{order}II", content[at : at + 8])
        small = kind >> 16
        start = at + 4 if small else at + 8
        kind, size = (kind & 0xFFFF, small) if small else (kind, size)
        if start + size > len(content) or small > 4:
            raise ValueError("an element is longer than the file")
        yield kind, content[start : start + size]
        at = at + 8 if small else start + size + (0 if kind == COMPRESSED else -size % 8)


def _inflated(content: memoryview, order: str, path: Path) -> tuple[int, memoryview]:
    """The element within a compressed one."""
    inflate = zlib.decompressobj()
    kind, size = struct.unpack(f"{order}II", inflate.decompress(content, 8))
    if size > files.DEFLATE * len(content):
        raise ValueError("an element says that it is larger than it can be")
    files.check_room(size, path)
    inner = inflate.decompress(inflate.unconsumed_tail, size) if size else b""
    if len(inner) != size:
        raise ValueError("an element is shorter than it says")
    return kind, memoryview(inner)


def _array(content: memoryview, order: str) -> tuple[str, Array] | None:
    """The name and the numbers of a matrix; None if it is of another class."""
    parts = _elements(content, order)
    flags = struct.unpack(f"{order}I", next(parts)[1][:4])[0]
    if flags & 0xFF not in CLASSES or flags & COMPLEX:
        return None
    shape = np.frombuffer(next(parts)[1], f"{order}i4").tolist()
    name = bytes(next(parts)[1]).decode("ascii")
    kind, numbers = next(parts)
    stored = np.frombuffer(numbers, f"{order}{STORED[kind]}")
    if len(shape) > 8 or min(shape, default=-1) < 0 or math.prod(shape) != stored.size:
        raise ValueError(f"{name} has another number of values than its shape {shape} says")
    return name, stored.astype(CLASSES[flags & 0xFF], copy=False).reshape(shape, order="F")
