"""Parquet files in the Hugging Face schema: an image column of encoded bytes and a label column.

They are read in another process (``_parquet_child.py``): some damaged files end the process that reads them.
"""

import io
import json
import os
import re
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
from expunge.data import _pictures, labelling
from expunge.data._assemble import Array, Found, Part
from expunge.data._pictures import USUAL, Reading

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
    words: tuple[str, ...] | None = None
    """The labels, where they are text; ``labels`` are then 0."""
    examples: tuple[str, ...] = ()
    """The name of each image, empty if the file has none."""


def present(folder: Path) -> bool:
    """Whether the folder holds Parquet files."""
    return bool(_files(folder, ("train",)))


def read_folder(folder: Path, options: Reading) -> Found:
    """Read labels and encoded images for training and test, and names of classes and images, empty if there are none.

    The test set is the first of ``options.tests`` that is there. Files may be in the folder, in one
    within it (``data/``, ``plain_text/``, ``cifar100/``), in ``NAME/SPLIT/``, or in a folder per split.
    """
    found = {"train": _files(folder, ("train",)), "test": _files(folder, options.tests)}
    for split, paths in found.items():
        if not paths:
            raise RequestError(f"{folder} holds no {split}*.parquet, as files or in a folder of that name")
        for path in paths:
            files.check_regular(path)
    train, test = (_tables(paths, options) for paths in found.values())
    for table in (*train, *test):
        if table.names != train[0].names:
            raise RequestError(
                f"{table.path} has other class names than {train[0].path}: they belong to different sets"
            )
    examples = tuple(tuple(name for table in tables for name in table.examples) for tables in (train, test))
    complete = all(len(table.examples) == len(table.labels) for table in (*train, *test))
    names = (examples[0], examples[1]) if complete else ((), ())
    if train[0].words is not None:
        return (*_by_words(train, test, options), names)
    return _part(train, options), _part(test, options), train[0].names, names


def _files(folder: Path, splits: Sequence[str]) -> list[Path]:
    """The files of the first of these splits that has any, in the nearest place."""
    for split in splits:
        for place in (f"{split}*.parquet", f"{split}/*.parquet", f"*/{split}*.parquet", f"*/{split}/*.parquet"):
            found = sorted(path for path in folder.glob(place) if _is_split(path, split))
            folders = sorted({path.parent for path in found})
            if len(folders) > 1:
                names = " and ".join(str(each) for each in folders[:2])
                raise RequestError(f"{folder} holds {split}*.parquet in {names}: name one of these folders")
            if found:
                return found
    return []


def _is_split(path: Path, split: str) -> bool:
    """Whether a file is of the split and not of another whose name begins alike (``train_extra``, ``validation``)."""
    return path.parent.name == split or re.fullmatch(rf"{split}(-\d.*|\d*|\.\d+|_\d+)\.parquet", path.name) is not None


def _part(tables: Sequence[Table], options: Reading, labels: Sequence[int] | None = None) -> Part:
    """The images and labels of these files, in order."""
    pictures = [
        (f"{table.path}, image {index}", partial(_opened, table, start, end))
        for table in tables
        for index, (start, end) in enumerate(zip([0, *table.ends.tolist()], table.ends.tolist(), strict=False))
    ]
    given = np.concatenate([table.labels for table in tables]) if labels is None else labels
    return _pictures.part(pictures, given, str(tables[0].path.parent), options.decoding)


def _by_words(train: Sequence[Table], test: Sequence[Table], options: Reading) -> tuple[Part, Part, tuple[str, ...]]:
    """Labels that are text, numbered in sorted order."""
    words = [[word for table in tables for word in table.words or ()] for tables in (train, test)]
    names, numbered = labelling.numbered(words[0], words[1], str(test[0].path.parent))
    return _part(train, options, numbered[0]), _part(test, options, numbered[1]), names


def _opened(table: Table, start: int, end: int) -> BinaryIO:
    return io.BytesIO(table.content[start:end].tobytes())


def _tables(paths: Sequence[Path], options: Reading = USUAL) -> list[Table]:
    """The content of these files.

    Raises:
        RequestError: A file is damaged, or lacks a column.
    """
    with _child(paths, options) as pipe:
        found: list[Table] = []
        for path in paths:
            said = _answer(pipe, path)
            rows = cast("int", said["rows"])
            labels, sizes = _array(pipe, rows, np.int64, path), _array(pipe, rows, np.int64, path)
            content = _array(pipe, int(sizes.sum()), np.uint8, path)
            names = tuple(cast("list[str]", said["names"]))
            examples = tuple(cast("list[str]", said["examples"]))
            words = None if said["words"] is None else tuple(cast("list[str]", said["words"]))
            found.append(Table(path, labels, content.view(np.uint8), np.cumsum(sizes), names, words, examples))
        return found


def table(path: Path) -> str:
    """A table of numbers and text, as CSV with a header.

    Raises:
        RequestError: The file is damaged, or a column holds something else.
    """
    files.check_regular(path)
    with _child([path], USUAL, whole=True) as pipe:
        content = _array(pipe, cast("int", _answer(pipe, path)["bytes"]), np.uint8, path)
        return content.tobytes().decode()


def _answer(pipe: BinaryIO, path: Path) -> dict[str, object]:
    """What the process says about a file."""
    _line(pipe, path)
    said = _line(pipe, path)
    if "error" in said:
        reason = str(said["error"])
        raise RequestError(f"{path}{'' if reason.startswith(':') else ' '}{reason}")
    return said


@contextmanager
def _child(paths: Sequence[Path], options: Reading, *, whole: bool = False) -> Iterator[BinaryIO]:
    """The output of the process that reads these files; it is ended when it takes too long, or with the block."""
    program = str(Path(__file__).with_name("_parquet_child.py"))
    columns = json.dumps([sys.path, options.image, options.label, whole])
    command = [sys.executable, "-I", program, columns, *(str(path.absolute()) for path in paths)]
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
