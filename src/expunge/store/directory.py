"""Run directories: content-addressed, written whole or not at all.

A run is a folder named by the digest of its configuration. It is written under a draft name, its
``run.json`` last, and then renamed: whoever sees the folder sees a finished (or failed) run, whatever
is killed at whatever moment. Locks die with the process that holds them.
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
from safetensors.torch import save_file
from torch import Tensor

from expunge.core import files, packing
from expunge.core.config import FORMAT
from expunge.core.errors import RequestError

Record = dict[str, object]

HEADER = "expunge"
"""The key in the header of a model file for what its tensors are."""


_RECORDED: Mapping[str, object] = {"kind": "", "finished": "", "metrics": {}}
"""Keys of ``run.json`` that are read without asking, with values for those that are missing."""


@dataclass(frozen=True)
class StoredModel:
    """A model as a run has written it."""

    state: Mapping[str, Tensor]
    """Its state dict."""
    kept: dict[str, Tensor]
    """Which weights are kept, bool by name, of those that are sparse."""
    trained: tuple[str, ...]
    """The names in the state dict that are weights; the others are buffers."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained parameters, without the buffers."""
        return {name: self.state[name] for name in self.trained}


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk: ``config.json``, ``run.json``, and tensors and history by its kind."""

    path: Path

    @property
    def id(self) -> str:
        """The name of the directory: kind, words and digest."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether the run is finished or failed."""
        return (self.path / "run.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return self.exists and self.record()["status"] == "finished"

    def record(self) -> Record:
        """What ``run.json`` holds: status, reason, metrics, seconds, versions and more.

        Raises:
            RequestError: The file is missing or damaged, or of a newer version of expunge.
        """
        path = self.path / "run.json"
        found = read_json(path)
        made = found.get("format", 1)
        if type(made) is not int or made > FORMAT:
            raise RequestError(f"{path} has the format {made}, of a newer expunge: this one reads {FORMAT}; upgrade it")
        again = f"delete {self.path} and run it again"
        if found.get("status") not in ("finished", "failed"):
            raise RequestError(f"{path} should say the status finished or failed: {again}")
        for key, default in _RECORDED.items():
            if not isinstance(found.setdefault(key, default), type(default)):
                raise RequestError(f"{path} is damaged ({key} is {found[key]!r}): {again}")
        if not isinstance(found.setdefault("reason", None), str | None):
            raise RequestError(f"{path} is damaged (reason is {found['reason']!r}): {again}")
        return found

    def seconds(self) -> dict[str, float]:
        """The seconds of the run by phase."""
        found = self.record().get("seconds")
        values = cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {"": found}
        if not all(isinstance(value, int | float) for value in values.values()):
            raise RequestError(f"{self.path / 'run.json'} holds no seconds: delete {self.path} and run it again")
        return dict(cast("Mapping[str, float]", values))

    def config(self) -> Record:
        """What ``config.json`` holds.

        Raises:
            RequestError: The file is missing or damaged, or the run is of a newer version of expunge.
        """
        if self.exists:
            self.record()
        return read_json(self.path / "config.json")

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``<name>.safetensors``, on the CPU; a sparse model is made whole.

        Raises:
            RequestError: The file is missing or damaged.
        """
        return self._read(name)[0]

    def tensor(self, name: str, key: str) -> Tensor | None:
        """One tensor of ``<name>.safetensors``, on the CPU; None if the file has none of that name.

        Raises:
            RequestError: The file is missing or damaged.
        """
        path = self.path / f"{name}.safetensors"
        with self._reading(path), safe_open(path, framework="pt") as file:
            return file.get_tensor(key) if key in file.keys() else None  # noqa: SIM118 - no mapping

    def model(self) -> "StoredModel":
        """Everything in ``model.safetensors``, read once.

        Raises:
            RequestError: The file is missing or damaged, or does not say what its weights are.
        """
        state, kept, header = self._read("model")
        if "weights" not in header:
            raise RequestError(f"{self.path / 'model.safetensors'} does not say what its weights are: run it again")
        return StoredModel(state, kept, tuple(cast("list[str]", header["weights"])))

    def sparsity(self) -> dict[str, Tensor] | None:
        """Which weights of the model are kept, bool by name, if it is sparse.

        Raises:
            RequestError: The file is missing or damaged.
        """
        return self.model().kept or None

    def weights(self) -> dict[str, Tensor]:
        """The trained parameters of ``model.safetensors``, without its buffers: the file says which they are.

        Raises:
            RequestError: The file is missing or damaged.
        """
        return self.model().weights

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], Record]:
        """The tensors of a file, the masks of those that are sparse, and what its header says."""
        path = self.path / f"{name}.safetensors"
        with self._reading(path):
            with safe_open(path, framework="pt") as file:
                stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
                header = files.parse_json((file.metadata() or {}).get(HEADER, "{}"), path, "run it again")
            if not isinstance(header, dict):
                raise TypeError("its header is no JSON object")
            known = cast("Record", header)
            return *packing.unpack(stored, cast("dict[str, list[int]]", known.get("sparse", {}))), known

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        cure = f"delete {self.path} and run it again"
        with files.reading(path, cure):
            files.check_regular(path, cure)
            yield


class Store:
    """A folder of runs."""

    def __init__(self, root: Path) -> None:
        """The store at ``root``, which is made when the first run is written."""
        self.root = root

    def directory(self, run_id: str) -> RunDirectory:
        """The run of that id, whether it exists or not.

        Raises:
            RequestError: It is no name, but a path to some other place.
        """
        if run_id in ("", "..") or len(run_id) > 200 or Path(run_id).name != run_id or "\\" in run_id or "\0" in run_id:
            raise RequestError(f"{run_id[:200]!r} is no name of a run: name a folder within {self.root}")
        return RunDirectory(self.root / run_id)

    def all(self) -> list[RunDirectory]:
        """Every finished or failed run, by name."""
        found = (RunDirectory(path.parent) for path in sorted(self.root.glob("*/run.json")))
        return [run for run in found if not run.id.startswith(".")]

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """Hold the lock of a run: others wait; drafts that a killed process left are removed."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{run_id}.lock"):
            for draft in self.root.glob(f".draft-{run_id}-*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield

    @contextmanager
    def draft(self, run_id: str, config: object) -> Iterator["Draft"]:
        """A folder to write a run into; it becomes the run when :meth:`Draft.finish` is called.

        Whatever ends the block otherwise leaves nothing behind.
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
        """The store that the run will be in."""
        return Store(self.target.parent)

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``<name>.safetensors``."""
        self._write(name, tensors, None)

    def model(self, state: Mapping[str, Tensor], weights: Sequence[str], sparsity: Mapping[str, Tensor]) -> None:
        """Write ``model.safetensors``: of sparse weights what is kept, in the header which tensors are trained."""
        packed, shapes = packing.pack(state, sparsity)
        # One key: the library writes several in an order that changes from time to time.
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

    def lines(self, name: str, records: list[Record]) -> None:
        """Write ``<name>.jsonl``, one record a line."""
        (self.path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def finish(self, record: Record) -> None:
        """Write ``run.json`` and give the folder its name: from now on the run exists."""
        write_json(self.path / "run.json", record)
        for file in self.path.iterdir():
            _to_disk(file)
        if self.target.exists():  # a failed run that is tried again
            shutil.rmtree(self.target)
        self.path.rename(self.target)
        _to_disk(self.target.parent)


def write_json(path: Path, value: object) -> None:
    """Write JSON by :func:`write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write under a temporary name, then give the file its own: readers never see half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Record:
    """A JSON object from a file.

    Raises:
        RequestError: The file is missing or holds no JSON object.
    """
    value = files.read_json(path, "make it again, or give another file")
    if not isinstance(value, dict):
        raise RequestError(f"{path} should hold a JSON object")
    return cast("Record", value)


def _to_disk(path: Path) -> None:
    """Wait until a file's or folder's content has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
