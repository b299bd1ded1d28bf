"""A file of vectors, one for each example or group; the change of the weights for a deletion is a sum of them.

``vectors.bin`` holds the rows in order and is mapped into memory; ``vectors.json`` holds the layout and the list of
written chunks, so that an interrupted precomputation can be resumed.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from expunge.core import checks, files
from expunge.core.checks import all_finite
from expunge.core.errors import RequestError, RunError
from expunge.trajectory.plan import located

StoreType = Literal["float32", "bfloat16", "float16"]
DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(StoreType)}

AT_ONCE = 64_000_000
"""Bytes of the rows of a deletion that are summed at a time."""


@dataclass(frozen=True)
class Layout:
    """The contents of a store."""

    size: int
    """The length p of a vector, in the order of the names of the trainable weights."""
    ids: tuple[int, ...]
    """The examples that have a vector, ascending."""
    rows: tuple[int, ...]
    """The row of each; examples of one group share theirs."""
    dtype: StoreType
    chunk: int
    """Rows that are computed and written together."""
    trajectory: str
    """The digest of the recorded training."""
    as_released: bool = False
    """Whether the vectors are those of the released recursion."""

    def __post_init__(self) -> None:
        checks.one_of(get_args(StoreType), dtype=self.dtype)
        checks.at_least(1, size=self.size, chunk=self.chunk)
        few = len(self.ids) == len(self.rows) > 0 and max(self.rows) < len(self.rows)
        whole = few and set(self.rows) == set(range(max(self.rows) + 1))
        if not all(-(2**63) <= number < 2**63 for number in (*self.ids, self.size, self.chunk)):
            raise RequestError("ids and sizes of a store must fit 64 bits")
        if not whole or list(self.ids) != sorted(set(self.ids)):
            raise RequestError("a store needs ascending ids, each with a row, and no row without an example")

    @property
    def count(self) -> int:
        """The number of rows."""
        return max(self.rows) + 1

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return math.ceil(self.count / self.chunk)

    @property
    def nbytes(self) -> int:
        """The size of the file of vectors: count x p x 2 or 4 bytes."""
        return self.count * self.size * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class VectorStore:
    """An open store."""

    folder: Path
    layout: Layout
    done: frozenset[int]
    """The chunks that have been written."""
    seconds: float = 0.0
    """The time to compute them, over all interruptions."""

    @property
    def path(self) -> Path:
        """The file of vectors."""
        return self.folder / "vectors.bin"

    @property
    def missing(self) -> list[int]:
        """The chunks that have not been written yet."""
        return [chunk for chunk in range(self.layout.chunks) if chunk not in self.done]

    def write(self, chunk: int, vectors: Tensor, seconds: float) -> "VectorStore":
        """Write a chunk's rows (rows, p), computed in ``seconds``, and then list it as written; the new store.

        Raises:
            RunError: A number is not finite in the precision of the store.
        """
        rounded = vectors.to("cpu", DTYPES[self.layout.dtype]).contiguous()
        if not all_finite(rounded):
            raise RunError(
                f"some vectors are not finite in {self.layout.dtype}: take float32 or bfloat16, whose range is larger"
                if all_finite(vectors)
                else "some vectors are not finite: train with a smaller lr, a larger weight_decay, or fewer epochs"
            )
        with self.path.open("r+b") as file:
            file.seek(chunk * self.layout.chunk * self.layout.size * rounded.dtype.itemsize)
            file.write(rounded.view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        found = dataclasses.replace(self, done=self.done | {chunk}, seconds=self.seconds + seconds)
        _save_header(found)
        return found

    def check_trajectory(self, digest: str) -> None:
        """Raise a RequestError unless the vectors are of the recorded training with this digest."""
        if self.layout.trajectory != digest:
            raise RequestError(f"the vectors in {self.folder} are of another model: precompute those of this one")

    def change(self, ids: Tensor) -> Tensor:
        """The change of the weights when these examples are deleted: the sum of their rows, float32 (p,).

        Cost: m p numbers are read for the rows of m examples or groups.

        Raises:
            RequestError: An id is unknown or appears twice, a group is deleted in part, or a row is not written.
        """
        rows = self._rows(ids)
        chunks = torch.unique(rows // self.layout.chunk).tolist()
        missing = [chunk for chunk in chunks if chunk not in self.done]
        if missing:
            raise RequestError(
                f"{self.path} lacks chunk {missing[0] + 1} of {self.layout.chunks}, with vectors of this deletion: "
                "its precomputation was not finished; run `expunge precompute` again, which goes on where it was"
            )
        mapped = self._mapped()
        total = torch.zeros(self.layout.size)
        for part in rows.split(max(1, AT_ONCE // total.nbytes)):
            total += mapped[part].float().sum(dim=0)
        return total

    @cached_property
    def _index(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.layout.ids), torch.tensor(self.layout.rows)

    def _rows(self, ids: Tensor) -> Tensor:
        known, rows = self._index
        found, unknown = located(ids.sort().values, known)
        if len(unknown):
            raise RequestError(f"{self.path} has no vector of example {int(unknown[0])}")
        taken = torch.bincount(rows[found], minlength=self.layout.count)
        partly = ((taken > 0) & (taken < torch.bincount(rows))).nonzero().flatten()
        if len(partly):
            names = known[rows == partly[0]].tolist()
            raise RequestError(
                f"{self.path} has vectors of groups, and the deletion names only a part of the group of examples "
                f"{names[0]}..{names[-1]}: delete groups as a whole, or precompute without --groups"
            )
        return taken.nonzero().flatten()

    def _mapped(self) -> Tensor:
        layout = self.layout
        try:
            size, dtype = layout.count * layout.size, DTYPES[layout.dtype]
            mapped = torch.from_file(str(self.path), shared=False, size=size, dtype=dtype)
            return mapped.view(layout.count, layout.size)
        except RuntimeError as error:
            raise RequestError(f"{self.path} cannot be mapped ({error}): precompute again") from error


def _save_header(store: VectorStore) -> None:
    temporary = store.folder / f".vectors.json.{os.getpid()}"
    temporary.write_text(json.dumps({**asdict(store.layout), "done": sorted(store.done), "seconds": store.seconds}))
    temporary.replace(store.folder / "vectors.json")


def begin(folder: Path, layout: Layout, *, replace: bool = False) -> VectorStore:
    """A store to write into: the one in the folder if it is of the same vectors, else a new one.

    A store with written chunks keeps its chunk size; one without takes that of ``layout``. The file is allocated at
    its full size, so that a lack of disk space is found before the computation. With ``replace``, other vectors in
    the folder, or damaged ones, are replaced.

    Raises:
        RequestError: The folder holds other vectors, or the disk has no room.
    """
    try:
        found = open_store(folder)
    except RequestError:
        found = None
    if found is not None and dataclasses.replace(found.layout, chunk=layout.chunk) == layout:
        if not found.done:
            found = dataclasses.replace(found, layout=layout)
            _save_header(found)
        return found
    if not replace and any((folder / name).exists() for name in ("vectors.json", "vectors.bin")):
        raise RequestError(
            f"{folder} holds vectors of another training, precision or grouping, or some that cannot be read: "
            "choose another folder, or delete it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    store = VectorStore(folder, layout, frozenset())
    try:
        with store.path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, layout.nbytes)
            else:
                file.truncate(layout.nbytes)
    except OSError as error:
        store.path.unlink(missing_ok=True)
        raise RequestError(
            f"there is no room for {layout.nbytes / 1e9:.2f} GB of vectors in {folder} ({error.strerror}): "
            "free some, or take --dtype bfloat16 or --groups"
        ) from error
    _save_header(store)
    return store


def open_store(folder: Path) -> VectorStore:
    """The store in a folder.

    Raises:
        RequestError: There is none, or it is damaged.
    """
    path = folder / "vectors.json"
    found: Any = files.read_json(path, "precompute again")
    try:
        done = frozenset(int(chunk) for chunk in found["done"])
        layout = Layout(
            int(found["size"]),
            tuple(map(int, found["ids"])),
            tuple(map(int, found["rows"])),
            found["dtype"],
            int(found["chunk"]),
            str(found["trajectory"]),
            bool(found["as_released"]),
        )
        seconds, size = float(found["seconds"]), (folder / "vectors.bin").stat().st_size
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise RequestError(f"{path} cannot be read ({error}): precompute again") from error
    if size != layout.nbytes:
        raise RequestError(
            f"{folder / 'vectors.bin'} has {size} bytes instead of {layout.nbytes}: it was cut off; precompute again"
        )
    return VectorStore(folder, layout, done, seconds)
