"""How a run is made: once, whole or not at all, with a record of how it went."""

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
    """Device, callbacks and limits of the runs that are made; nothing here changes a result's meaning."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[str, Progress], None] | None = None
    """Called with the run's id after each step."""
    retry: bool = False
    """Try failed runs again."""
    memory: float = 0.25
    """Gigabytes that work which can be cut into pieces may take for a piece."""
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Files of the user's that runs are made from, by the SHA-256 of their bytes."""
    _memory: dict[object, object] = field(default_factory=dict[object, object], init=False, repr=False, compare=False)

    def reporter(self, name: str) -> Callable[[Progress], None] | None:
        """What a run of that name calls after each step; None where nobody watches."""
        on_step = self.on_step
        return None if on_step is None else lambda progress: on_step(name, progress)

    def remember(self, key: object, make: Callable[[], T]) -> T:
        """What ``make`` returned for this key before, or returns now; the four last used are kept."""
        found = self._memory.pop(key) if key in self._memory else make()
        self._memory[key] = found
        while len(self._memory) > 4:
            del self._memory[next(iter(self._memory))]
        return cast("T", found)


def run(wanted: object, store: Store, session: Session) -> RunDirectory:
    """The run of this configuration, after its parents: found if it exists, else made.

    A failure of the work is kept as a failed run with its reason; what cannot be written (a full disk), finds
    too little memory or is interrupted leaves no run.

    Raises:
        RequestError: The request is wrong (no such data, a forget set that is empty, ...).
        RunError: The run, or one of its parents, failed now or before.
    """
    for each in config.ordered([wanted]):
        made(each, store, session)
    return store.directory(config.run_id(wanted))


def made(wanted: object, store: Store, session: Session) -> RunDirectory:
    """The directory of a run whose parents are there: found if it exists, else made."""
    plugin = registry.of_config("runs", wanted)
    before = {role: store.directory(config.run_id(parent)) for role, parent in config.parents(wanted).items()}
    work = lambda draft: cast("Record", plugin.call(wanted, before, draft, session))  # noqa: E731
    return once(wanted, before, store, session, work)


def once(
    wanted: object,
    before: Mapping[str, RunDirectory],
    store: Store,
    session: Session,
    work: Callable[[Draft], Record],
) -> RunDirectory:
    """The directory of a run, in which ``work`` has been done once, whoever else wants it at the same time."""
    directory = store.directory(config.run_id(wanted))
    if _settled(directory, session):
        return directory
    with store.lock(directory.id):
        if not _settled(directory, session):  # another process may have made it meanwhile
            with store.draft(directory.id, config.run_to_data(wanted)) as draft:
                _record(wanted, before, draft, session, work)
    return directory


def _settled(directory: RunDirectory, session: Session) -> bool:
    if not directory.exists:
        return False
    record = directory.record()
    if record["status"] == "finished":
        return True
    if session.retry:
        return False
    raise RunError(f"{directory.id} failed before: {record['reason']}")


def _record(
    wanted: object,
    before: Mapping[str, RunDirectory],
    draft: Draft,
    session: Session,
    work: Callable[[Draft], Record],
) -> None:
    """Do the work and write down how it went."""
    memory, plugin = PeakMemory(session.device), registry.of_config("runs", wanted)
    record: Record = {
        "format": config.FORMAT,
        "id": config.run_id(wanted),
        "kind": plugin.name,
        "label": plugin.mark.label(wanted),
        "scenario": plugin.mark.scenario(wanted),
        "parents": {role: directory.id for role, directory in before.items()},
        "started": _now(),
        **provenance(session.device),
    }
    try:
        result = work(draft)
    except (RequestError, OSError, OutOfMemory):  # not the fault of the work: nothing to remember
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise OutOfMemory(
                f"out of memory: try a smaller batch_size or model, or fewer --jobs ({_first(error)})"
            ) from error
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        failure = {"status": "failed", "reason": reason, "traceback": traceback.format_exc(), "finished": _now()}
        draft.finish(record | failure)
        raise RunError(reason) from error
    ended = {"status": "finished", "reason": None, "finished": _now(), **memory.record(), "metrics": {}}
    draft.finish(record | ended | result)


def _out_of_memory(error: Exception) -> bool:
    """Whether there was too little memory: true of this machine at this moment, not of the run."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's CPU allocator


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
