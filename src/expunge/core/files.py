"""Files that users give: only regular ones are opened, sizes are checked first, and every failure is a RequestError."""

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from expunge.core.errors import RequestError

DEFLATE = 1040
"""Most bytes that deflate makes of one, and a little more."""
DEPTH = 40
"""Most levels of objects and lists in JSON."""
MOST_TEXT = 2**28
"""Most bytes of text and JSON that are read into memory."""
BLOCK = 2**20
ANOTHER = "give another file"


@contextmanager
def reading(path: object, cure: str) -> Iterator[None]:
    """Whatever reading a file raises within the block becomes one RequestError that names the file and the cure.

    A lack of memory is not the file's fault and stays a MemoryError.
    """
    try:
        yield
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, struct, Pillow and torch each raise their own
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        first = (reason.strip().partition("\n")[0] or type(error).__name__)[:200]
        raise RequestError(f"{path} cannot be read ({first}): {cure}") from error


@contextmanager
def naming(path: object) -> Iterator[None]:
    """A RequestError that is raised within the block begins with the file, if it does not name it already."""
    try:
        yield
    except RequestError as error:
        if str(path) in str(error):
            raise
        raise RequestError(f"{path}: {error}") from error


def check_regular(path: Path, cure: str = ANOTHER) -> None:
    """Raise a RequestError unless this is a file; pipes and devices, which may never end, are none."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path} cannot be read: {reason}; {cure}") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise RequestError(f"{path} cannot be read: it is {what}; {cure}")


def opened(path: Path, cure: str = ANOTHER) -> BinaryIO:
    """The file, open for reading.

    Raises:
        RequestError: It is missing, cannot be opened, or is not a regular file.
    """
    check_regular(path, cure)
    try:
        # Another program may put a pipe in its place meanwhile: opening that does not wait either.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}; {cure}") from error
    return io.open(handle, "rb")  # noqa: UP020 - of a descriptor


def size(file: BinaryIO) -> int:
    """The bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def content(path: Path, cure: str, most: int = MOST_TEXT) -> bytes:
    """All bytes of a file.

    Raises:
        RequestError: It cannot be read, or has more than ``most`` bytes.
    """
    with reading(path, cure), opened(path, cure) as file:
        if size(file) > most:
            raise RequestError(f"{path} has {size(file)} bytes, more than the {most} that such a file may have: {cure}")
        return file.read(size(file))


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with reading(path, ANOTHER), opened(path) as file:
        found = hashlib.sha256()
        while block := file.read(BLOCK):
            found.update(block)
        return found.hexdigest()


def text(path: Path, cure: str) -> str:
    """A text file in UTF-8, with or without a byte order mark."""
    found = content(path, cure)
    with reading(path, cure):
        return found.decode("utf-8-sig")


def read_json(path: Path, cure: str, *, constants: bool = True) -> object:
    """The JSON value in a file (see :func:`parse_json`)."""
    return parse_json(text(path, cure), path, cure, constants=constants)


def parse_json(written: str, where: object, cure: str, *, constants: bool = True) -> object:
    """A JSON value of at most :data:`DEPTH` levels; without ``constants``, None in place of NaN and infinities.

    Raises:
        RequestError: It is not JSON, or nested more deeply.
    """
    try:
        found: object = json.loads(written) if constants else json.loads(written, parse_constant=lambda _: None)
    except RecursionError:
        found = None
        deep = True
    except ValueError as error:
        raise RequestError(f"{where} cannot be read as JSON ({error}): {cure}") from error
    else:
        deep = _deep(found)
    if deep:
        raise RequestError(f"{where} cannot be read as JSON: it is nested more than {DEPTH} levels deep; {cure}")
    return found


def _deep(value: object) -> bool:
    """Whether objects and lists are nested more than :data:`DEPTH` levels deep."""
    level = [value]
    for _ in range(DEPTH + 1):
        parts = [_parts(each) for each in level]
        level = [each for group in parts for each in group if isinstance(each, list | dict)]
        if not level:
            return False
    return True


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("Mapping[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def check_room(nbytes: int, what: object, cure: str = "give fewer or smaller images") -> None:
    """Raise a RequestError if so many bytes are more than the machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**46
    if nbytes > memory:
        raise RequestError(
            f"{what} would take {nbytes / 1e9:.1f} GB of memory, and this machine has {memory / 1e9:.1f} GB: {cure}"
        )


def fill(file: BinaryIO, array: npt.NDArray[np.generic]) -> int:
    """Read bytes into an array until it is full or the file ends; how many there were."""
    memory, start = array.reshape(-1).view(np.uint8).data, 0
    while start < len(memory):
        block = file.read(min(BLOCK, len(memory) - start))
        if not block:
            break
        memory[start : start + len(block)] = block
        start += len(block)
    return start
