"""Run directories: content-addressed and written atomically.

A run is a folder named by the digest of its configuration. It is written as a draft, ``run.json`` last, and then
renamed, so that a folder is always a complete run, finished or failed, even if a process is killed. The operating
system releases the locks of a killed process. ``run.json`` holds the digest of every file, which is compared whenever
the file is read (:meth:`RunDirectory.file`).
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.core import files, packing
from expunge.core.checkpoints import HEADER
from expunge.core.config import FORMAT
from expunge.core.errors import RequestError
from expunge.store import digests
from expunge.store.digests import RECORD

Record = dict[str, object]


_RECORDED: Mapping[str, object] = {"kind": "", "finished": "", "metrics": {}, digests.FILES: {}}
"""Keys of ``run.json`` that are read without asking, with values for those that are missing."""


@dataclass(frozen=True)
class StoredModel:
    """A model read from a run."""

    state: Mapping[str, Tensor]
    """Its state dict."""
    kept: dict[str, Tensor]
    """The sparsity mask of each sparse weight, by name: bool, True if kept."""
    trained: tuple[str, ...]
    """The names in the state dict that are parameters; the others are buffers."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters, without the buffers."""
        return {name: self.state[name] for name in self.trained}


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk: ``config.json``, ``run.json``, and the tensors and history of its kind."""

    path: Path

    @property
    def id(self) -> str:
        """The name of the directory: kind, description and digest."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether the run is finished or failed."""
        return (self.path / RECORD).is_file()

    @property
    def cure(self) -> str:
        """What to do about a damaged file."""
        return f"delete {self.path} and run it again, or restore the folder from a backup"

    @property
    def finished(self) -> bool:
        """Whether the run succeeded."""
        return self.exists and self.record()["status"] == "finished"

    def record(self) -> Record:
        """Read ``run.json``: status, reason, metrics, seconds, versions, digests and more.

        Raises:
            RequestError: The file is missing, damaged or edited, or of a newer version of expunge.
        """
        found = self.written()
        if digests.of_record(found) != found.get(digests.OWN):
            raise RequestError(f"{self.path / RECORD} is not as the run wrote it (its SHA-256 is another): {self.cure}")
        return {**_RECORDED, "reason": None, **found}

    def written(self) -> Record:
        """Read ``run.json`` as it is, without comparing its digest.

        Raises:
            RequestError: The file is missing, a value in it has the wrong type, or it is of a newer version of expunge.
        """
        path = self.path / RECORD
        found = read_json(path, self.cure)
        made = found.get("format", 1)
        if type(made) is not int or made > FORMAT:
            raise RequestError(f"{path} has the format {made}, of a newer expunge: this one reads {FORMAT}; upgrade it")
        if found.get("status") not in ("finished", "failed"):
            raise RequestError(f"{path} should say the status finished or failed: {self.cure}")
        for key, default in _RECORDED.items():
            if not isinstance(found.get(key, default), type(default)):
                raise RequestError(f"{path} is damaged ({key} is {found[key]!r}): {self.cure}")
        if not isinstance(found.get("reason"), str | None):
            raise RequestError(f"{path} is damaged (reason is {found['reason']!r}): {self.cure}")
        return found

    def file(self, name: str) -> Path:
        """Return the path of a file of the run, after its bytes have been compared with their digest.

        Cost: the whole file is read, about a second for 1.5 GB, once per process until its size or times change.

        Raises:
            RequestError: The file is missing or not the one that the run wrote.
        """
        digests.check(self.path / name, self.digests().get(name), self.cure)
        return self.path / name

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every file of the run but ``run.json``, by name, as ``run.json`` holds them."""
        return cast("dict[str, str]", self.record()[digests.FILES])

    def results(self) -> dict[str, str]:
        """Return the digests of what the run computed, models and predictions above all: without logs and settings.

        The same run, made again on the same machine, has the same ones; a run names those of its parents.
        """
        return {name: digest for name, digest in self.digests().items() if not name.endswith((".json", ".jsonl"))}

    def verify(self) -> None:
        """Compare all files of the run with their digests.

        Raises:
            RequestError: One is missing or not the one that the run wrote.
        """
        for name in self.digests():
            self.file(name)

    def seconds(self) -> dict[str, float]:
        """The seconds of the run by phase."""
        found = self.record().get("seconds")
        values = cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {"": found}
        if not all(isinstance(value, int | float) for value in values.values()):
            raise RequestError(f"{self.path / RECORD} holds no seconds: {self.cure}")
        return dict(cast("Mapping[str, float]", values))

    def config(self) -> Record:
        """Read ``config.json``.

        Raises:
            RequestError: The file is missing or damaged, or the run is of a newer version of expunge.
        """
        return read_json(self.file("config.json"), self.cure)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read ``<name>.safetensors`` to the CPU; sparse weights become dense tensors.

        Raises:
            RequestError: The file is missing or damaged.
        """
        with self._opened(name) as file:
            return _unpacked(file)[0]

    def tensor(self, name: str, key: str) -> Tensor | None:
        """Read one tensor of ``<name>.safetensors`` to the CPU; None if the file does not contain it.

        Raises:
            RequestError: The file is missing or damaged.
        """
        with self._opened(name) as file:
            return file.get_tensor(key) if key in file.keys() else None  # noqa: SIM118 - no mapping

    def model(self) -> StoredModel:
        """Read ``model.safetensors``.

        Raises:
            RequestError: The file is missing or damaged, or does not say what its weights are.
        """
        with self._opened("model") as file:
            state, kept, header = _unpacked(file)
        if "weights" not in header:
            raise RequestError(f"the header of {self.path / 'model.safetensors'} names no weights: {self.cure}")
        return StoredModel(state, kept, tuple(cast("list[str]", header["weights"])))

    def weights(self) -> dict[str, Tensor]:
        """Read the parameters of ``model.safetensors``, without its buffers.

        Raises:
            RequestError: The file is missing or damaged.
        """
        return self.model().weights

    @contextmanager
    def _opened(self, name: str) -> Iterator[safe_open]:
        """Open a file; errors within the block mean that it is damaged."""
        path = self.file(f"{name}.safetensors")
        with files.reading(path, self.cure), safe_open(path, framework="pt") as file:
            yield file


def _unpacked(file: safe_open) -> tuple[dict[str, Tensor], dict[str, Tensor], Record]:
    """The tensors of a file, the sparsity masks of the sparse ones, and the header."""
    stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    header = files.parse_json((file.metadata() or {}).get(HEADER, "{}"), "its header", "run it again")
    if not isinstance(header, dict):
        raise TypeError("its header is no JSON object")
    known = cast("Record", header)
    return *packing.unpack(stored, cast("dict[str, list[int]]", known.get("sparse", {}))), known


class Store:
    """A folder of runs."""

    def __init__(self, root: Path) -> None:
        """Refer to the store at ``root``, which is created when the first run is written."""
        self.root = root

    def directory(self, run_id: str) -> RunDirectory:
        """Return the directory of a run, which need not exist.

        Raises:
            RequestError: It is no name, but a path to some other place.
        """
        if run_id in ("", "..") or len(run_id) > 200 or Path(run_id).name != run_id or "\\" in run_id or "\0" in run_id:
            raise RequestError(f"{run_id[:200]!r} is no name of a run: name a folder within {self.root}")
        return RunDirectory(self.root / run_id)

    def all(self) -> list[RunDirectory]:
        """Return all finished and failed runs, by name."""
        found = (RunDirectory(path.parent) for path in sorted(self.root.glob(f"*/{RECORD}")))
        return [run for run in found if not run.id.startswith(".")]

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """Hold the lock of a run within the block, and remove the drafts of killed processes."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{run_id}.lock"):
            for draft in self.root.glob(f".draft-{run_id}-*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield

    @contextmanager
    def draft(self, run_id: str, config: object) -> Iterator["Draft"]:
        """Create a folder to write a run into; :meth:`Draft.finish` turns it into the run.

        If the block ends without that call, the folder is removed.
        """
        path = self.root / f".draft-{run_id}-{os.getpid()}"
        path.mkdir(parents=True)
        try:
            draft = Draft(path, self.root / run_id)
            write_json(path / "config.json", config)
            yield draft
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Draft:
    """A run that is being written."""

    path: Path
    target: Path

    @property
    def store(self) -> Store:
        """The store of the run."""
        return Store(self.target.parent)

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``<name>.safetensors``."""
        self._write(name, tensors, None)

    def model(self, state: Mapping[str, Tensor], weights: Sequence[str], sparsity: Mapping[str, Tensor]) -> None:
        """Write ``model.safetensors``: sparse weights packed, and the names of the parameters in the header."""
        packed, shapes = packing.pack(state, sparsity)
        # One key: the library writes several keys in no fixed order.
        self._write("model", packed, {HEADER: json.dumps({"weights": list(weights), "sparse": shapes})})

    def _write(self, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
        whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        path = self.path / f"{name}.safetensors"
        try:
            save_file(whole, path, metadata=metadata)
        except SafetensorError as error:  # it raises its own where the disk is full
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code) if number else str(error), str(path)) from error

    def written(self, name: str) -> dict[str, Tensor]:
        """Read back ``<name>.safetensors``, which this process has written."""
        return load_file(self.path / f"{name}.safetensors")

    def lines(self, name: str, records: list[Record]) -> None:
        """Write ``<name>.jsonl``, one record per line."""
        (self.path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def finish(self, record: Record) -> None:
        """Write ``run.json`` with the digests, flush all files, and rename the folder: the run exists from now on.

        Cost: every byte of the run is read once, about a second for 1.5 GB.
        """
        write_json(self.path / RECORD, digests.sealed(record, self.path))
        for file in self.path.iterdir():
            _to_disk(file)
        if self.target.exists():  # a failed run that is repeated
            shutil.rmtree(self.target)
        self.path.rename(self.target)
        _to_disk(self.target.parent)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a file atomically: under a temporary name, which is then replaced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, cure: str = "make it again, or give another file") -> Record:
    """Read a JSON object from a file.

    Raises:
        RequestError: The file is missing or does not contain a JSON object.
    """
    value = files.read_json(path, cure)
    if not isinstance(value, dict):
        raise RequestError(f"{path} must contain a JSON object: {cure}")
    return cast("Record", value)


def _to_disk(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
