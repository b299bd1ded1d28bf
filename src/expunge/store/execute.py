"""Execution of runs: each is made once, atomically, with a record of its outcome."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar, cast

import torch

from expunge.core import config, registry
from expunge.core.errors import OutOfMemory, RequestError, RunError
from expunge.store.directory import Draft, Record, RunDirectory, Store
from expunge.store.environment import PeakMemory, provenance
from expunge.training.stepper import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """Device, callbacks and limits of a session; none of them is part of a run's configuration."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[str, Progress], None] | None = None
    """Called with the run's id after each step."""
    retry: bool = False
    """Repeat failed runs."""
    memory: float = 0.25
    """Memory limit in gigabytes of work that is done in chunks."""
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """The user's files that runs read, by the SHA-256 of their bytes."""
    _cache: dict[object, object] = field(default_factory=dict[object, object], init=False, repr=False, compare=False)

    def reporter(self, name: str) -> Callable[[Progress], None] | None:
        """Return the callback for the steps of a run, or None if there is none."""
        on_step = self.on_step
        return None if on_step is None else lambda progress: on_step(name, progress)

    def cached(self, key: object, make: Callable[[], T]) -> T:
        """Return the cached value of ``key``, or make and cache it; the four last used are kept."""
        found = self._cache.pop(key) if key in self._cache else make()
        self._cache[key] = found
        while len(self._cache) > 4:
            del self._cache[next(iter(self._cache))]
        return cast("T", found)


def run(wanted: object, store: Store, session: Session) -> RunDirectory:
    """Find or make the run of this configuration, after its parents.

    A failure of the work is stored as a failed run with its reason. Interruptions, a full disk and too little memory
    leave no run.

    Raises:
        RequestError: The request is wrong (missing data, an empty forget set, ...).
        RunError: The run, or one of its parents, failed now or before.
    """
    for each in config.ordered([wanted]):
        make(each, store, session)
    return store.directory(config.run_id(wanted))


def make(wanted: object, store: Store, session: Session) -> RunDirectory:
    """Find or make a run whose parents exist; if several processes want it, one makes it and the others wait."""
    directory = store.directory(config.run_id(wanted))
    if _settled(directory, session):
        return directory
    before = {role: store.directory(config.run_id(parent)) for role, parent in config.parents(wanted).items()}
    with store.lock(directory.id):
        if not _settled(directory, session):  # another process may have made it in the meantime
            with store.draft(directory.id, config.run_to_data(wanted)) as draft:
                _record(wanted, before, draft, session)
    return directory


def _settled(directory: RunDirectory, session: Session) -> bool:
    """Whether the run need not be made; raises a RunError if it failed before and is not to be repeated."""
    if not directory.exists:
        return False
    record = directory.record()
    if record["status"] == "finished":
        return True
    if session.retry:
        return False
    raise RunError(f"{directory.id} failed before: {record['reason']}")


def _record(wanted: object, before: Mapping[str, RunDirectory], draft: Draft, session: Session) -> None:
    """Do the work and write ``run.json``."""
    memory, plugin = PeakMemory(session.device), registry.of_config("runs", wanted)
    record: Record = {
        "format": config.FORMAT,
        "id": config.run_id(wanted),
        "kind": plugin.name,
        "label": plugin.mark.label(wanted),
        "scenario": plugin.mark.scenario(wanted),
        "parents": {role: directory.id for role, directory in before.items()},
        "inputs": {role: directory.results() for role, directory in before.items()},
        "started": _now(),
        **provenance(session.device),
    }
    try:
        result = cast("Record", plugin.call(wanted, before, draft, session))
    except (RequestError, OSError, OutOfMemory):  # not a failure of the work: no run
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise OutOfMemory(
                "out of memory: try a smaller batch_size or model, or fewer --jobs "
                f"({str(error).partition(chr(10))[0] or type(error).__name__})"
            ) from error
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        failure = {"status": "failed", "reason": reason, "traceback": traceback.format_exc(), "finished": _now()}
        draft.finish(record | failure)
        raise RunError(reason) from error
    ended = {"status": "finished", "reason": None, "finished": _now(), **memory.record(), "metrics": {}}
    draft.finish(record | ended | result)


def _out_of_memory(error: Exception) -> bool:
    """Whether the error means too little memory, which may be temporary and is no property of the run."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's CPU allocator


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
