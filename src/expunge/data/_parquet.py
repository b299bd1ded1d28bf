"""Parquet files in the Hugging Face schema: an image column of encoded bytes and a label column.

They are read in another process (``_parquet_child.py``): some damaged files end the process that reads them.
"""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data import _pictures
from expunge.data._assemble import Array, Arrays, Found

CURE = "it may be cut short; fetch it again"
SECONDS, BYTES_A_SECOND = 60.0, 2e6
"""How long reading may take: so many seconds, and more by the size of the files."""


@dataclass(frozen=True)
class Table:
    """The encoded images and labels of one file."""

    path: Path
    labels: Array
    content: npt.NDArray[np.uint8]
    """The bytes of all images, one after the other."""
    ends: Array
    """Where each image ends."""
    names: tuple[str, ...]
    """The class names in the file's metadata, empty if it has none in the Hugging Face schema."""
    examples: tuple[str, ...]
    """The name of each image, empty if the file has none."""


def present(folder: Path) -> bool:
    """Whether the folder holds Parquet files."""
    return bool(_files(folder, "train"))


def read_folder(folder: Path) -> Found:
    """Read images and labels for training and test, and names of classes and images, empty if the files lack them."""
    train, test = _files(folder, "train"), _files(folder, "test")
    for split, found in (("train", train), ("test", test)):
        if not found:
            raise RequestError(f"{folder} holds no {split}*.parquet")
    for path in (*train, *test):
        files.check_regular(path)
    tables, tests = _tables(train), _tables(test)
    names = (
        tuple(name for table in tables for name in table.examples),
        tuple(name for table in tests for name in table.examples),
    )
    complete = all(len(table.examples) == len(table.labels) for table in (*tables, *tests))
    return _images(tables), _images(tests), tables[0].names, names if complete else ((), ())


def _files(folder: Path, split: str) -> list[Path]:
    return sorted([*folder.glob(f"{split}*.parquet"), *folder.glob(f"data/{split}*.parquet")])


def _images(tables: Sequence[Table]) -> Arrays:
    """Images (n, height, width[, 3]) uint8 and labels of these files, in order."""
    pictures = [
        (f"{table.path}, image {index}", partial(_opened, table, start, end))
        for table in tables
        for index, (start, end) in enumerate(zip([0, *table.ends.tolist()], table.ends.tolist(), strict=False))
    ]
    return _pictures.read(pictures, str(tables[0].path.parent)), np.concatenate([table.labels for table in tables])


def _opened(table: Table, start: int, end: int) -> BinaryIO:
    return io.BytesIO(table.content[start:end].tobytes())


def _tables(paths: Sequence[Path]) -> list[Table]:
    """The content of these files.

    Raises:
        RequestError: A file is damaged, or lacks a column.
    """
    with _child(paths) as pipe:
        found: list[Table] = []
        for path in paths:
            _line(pipe, path)
            said = _line(pipe, path)
            if "error" in said:
                reason = str(said["error"])
                raise RequestError(f"{path}{'' if reason.startswith(':') else ' '}{reason}")
            rows = cast("int", said["rows"])
            labels, sizes = _array(pipe, rows, np.int64, path), _array(pipe, rows, np.int64, path)
            content = _array(pipe, int(sizes.sum()), np.uint8, path)
            names = tuple(cast("list[str]", said["names"]))
            examples = tuple(cast("list[str]", said["examples"]))
            found.append(Table(path, labels, content.view(np.uint8), np.cumsum(sizes), names, examples))
        return found


@contextmanager
def _child(paths: Sequence[Path]) -> Iterator[BinaryIO]:
    """The output of the process that reads these files; it is ended when it takes too long, or with the block."""
    program = str(Path(__file__).with_name("_parquet_child.py"))
    command = [sys.executable, "-I", program, json.dumps(sys.path), *(str(path.absolute()) for path in paths)]
    few = {**os.environ, "POLARS_MAX_THREADS": str(min(4, os.cpu_count() or 1))}
    limit = SECONDS + sum(path.stat().st_size for path in paths) / BYTES_A_SECOND
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=few
    ) as child:
        clock = threading.Timer(limit, child.kill)
        clock.start()
        try:
            yield cast("BinaryIO", child.stdout)
        finally:
            clock.cancel()
            child.kill()


def _line(pipe: BinaryIO, path: Path) -> dict[str, object]:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise _ended(path)
    return cast("dict[str, object]", json.loads(line))


def _array(pipe: BinaryIO, count: int, kind: npt.DTypeLike, path: Path) -> Array:
    found = np.empty(count, kind)
    if files.fill(pipe, found) != found.nbytes:
        raise _ended(path)
    return found


def _ended(path: Path) -> RequestError:
    return RequestError(f"{path} cannot be read (it ended the process that read it, or took too long): {CURE}")
