"""Execution of a comparison in local processes: each run once, after its parents; resumable after a kill."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Literal

import torch

from expunge.bench.grid import Comparison, Entry, entries, settled
from expunge.core import config
from expunge.core.errors import RequestError, RunError
from expunge.runs.train import TrainConfig
from expunge.store import execute
from expunge.store.directory import Store, write_json
from expunge.store.execute import Session
from expunge.store.run import parents, run_from_data, run_id, with_parents
from expunge.training.stepper import Progress

State = Literal["pending", "running", "finished", "failed"]


@dataclass
class Board:
    """The progress of a sweep: the state of every run, and the steps of running ones."""

    states: dict[str, State] = field(default_factory=dict[str, State])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    progress: dict[str, Progress] = field(default_factory=dict[str, Progress])


Watcher = Callable[[Board], None]


def bench(
    wanted: Comparison,
    store: Store,
    *,
    jobs: int = 1,
    device: str = "cpu",
    retry: bool = False,
    watch: Watcher | None = None,
) -> Board:
    """Make all missing runs of a comparison, and write ``bench.json`` in the store.

    Runs are submitted to ``jobs`` processes as soon as their parents exist. Failures are recorded with their reason
    and do not stop other runs. After a kill or an interruption, the same call continues from the finished runs and
    gives the same numbers.
    """
    if jobs < 1:
        raise RequestError(f"jobs must be at least 1, got {jobs}")
    wanted = settled(wanted, torch.device(device))
    cells = entries(wanted)
    board = Board(dict.fromkeys(with_parents([cell.run for cell in cells]), "pending"))
    manifest = store.root / "bench.json"
    store.root.mkdir(parents=True, exist_ok=True)
    write_json(manifest, _manifest(wanted, cells, board))
    try:
        make([cell.run for cell in cells], store, jobs=jobs, device=device, retry=retry, watch=watch, board=board)
    finally:
        write_json(manifest, _manifest(wanted, cells, board))
    return board


def make(
    runs: Sequence[object],
    store: Store,
    *,
    jobs: int = 1,
    device: str = "cpu",
    retry: bool = False,
    watch: Watcher | None = None,
    board: Board | None = None,
) -> Board:
    """Make those of these runs, and of their ancestors, that do not exist yet, in ``jobs`` processes.

    The states of other runs on a given board do not change.
    """
    every = with_parents(runs)
    board = board or Board()
    board.states |= dict.fromkeys(every, "pending")
    _Sweep(every, board, store, jobs, device, retry, watch or (lambda _: None)).work()
    return board


def _manifest(wanted: Comparison, cells: list[Entry], board: Board) -> dict[str, object]:
    """The content of ``bench.json``: the comparison, and each cell with its run, state and reason."""
    listed: list[dict[str, object]] = [
        {
            "label": cell.label,
            "scenario": cell.scenario,
            "seed": cell.seed,
            "run": run_id(cell.run),
            "subject": run_id(cell.run.subject),
            "status": board.states[run_id(cell.run)],
            "reason": board.reasons.get(run_id(cell.run)),
        }
        for cell in cells
    ]
    return {"name": wanted.name, "comparison": config.to_data(wanted), "entries": listed}


@dataclass
class _Sweep:
    """The state of one :func:`make` call: waiting, running and ended runs."""

    runs: Mapping[str, object]
    board: Board
    store: Store
    jobs: int
    device: str
    retry: bool
    watch: Watcher
    broken: set[str] = field(default_factory=set[str], init=False)
    """Runs that were running when a process was lost, to be repeated alone."""

    def __post_init__(self) -> None:
        self.waiting = deque(self.runs)
        self.parents = {name: [run_id(parent) for parent in parents(run).values()] for name, run in self.runs.items()}
        self.processes = multiprocessing.get_context("spawn")
        self.messages: Queue[tuple[str, int, int]]
        """The queue of the current pool: a process killed while writing may leave its queue locked."""

    def work(self) -> None:
        """Record the runs that exist, then make the others, with a new pool after each loss of a process."""
        for name in list(self.waiting):
            directory = self.store.directory(name)
            record = directory.record() if directory.exists else {"status": "missing"}
            if record["status"] == "finished":
                self._end(name, "finished")
            elif record["status"] == "failed" and not self.retry:
                self._end(name, "failed", str(record["reason"]))
        self.watch(self.board)
        while self.waiting:
            alone = bool(self.broken)
            with self._pool(1 if alone else self.jobs) as pool:
                try:
                    self._drain(pool, alone)
                except KeyboardInterrupt:
                    _kill(pool)
                    raise

    def _pool(self, jobs: int) -> ProcessPoolExecutor:
        self.messages = self.processes.Queue()
        # The order of float32 sums depends on the number of threads, so a run repeated alone gets the same number.
        threads = max(1, torch.get_num_threads() // self.jobs)
        initial = (os.getpid(), self.messages, threads, str(self.store.root), self.device, self.retry)
        return ProcessPoolExecutor(jobs, mp_context=self.processes, initializer=_begin, initargs=initial)

    def _drain(self, pool: ProcessPoolExecutor, alone: bool) -> None:
        """Keep the pool busy until no run is waiting, or a process is lost.

        After a loss, the runs that were running are repeated one at a time; a run that loses its process again fails.
        """
        active: dict[Future[None], str] = {}
        while self.waiting or active:
            lost = self._submit(pool, active, 1 if alone else self.jobs)
            if not active and not lost:
                return
            done, _ = wait(active, timeout=0.2, return_when=FIRST_COMPLETED)
            self._listen()
            lost += [name for future in done if (name := self._collect(future, active.pop(future)))]
            if lost:
                self._lost([*lost, *active.values()], alone)
            if lost or (alone and not self.broken):  # a new pool, of full size if there are no runs to repeat alone
                return

    def _submit(self, pool: ProcessPoolExecutor, active: dict[Future[None], str], most: int) -> list[str]:
        """Submit the runs whose parents are finished; return a run that a broken pool did not accept."""
        for name in list(self.waiting):
            failed = [parent for parent in self.parents[name] if self.board.states[parent] == "failed"]
            if failed:
                self._end(name, "failed", self.board.reasons[failed[0]])
        for name in [n for n in self.waiting if self._ready(n)][: most - len(active)]:
            self.waiting.remove(name)
            self.board.states[name] = "running"
            try:
                active[pool.submit(_work, config.run_to_data(self.runs[name]))] = name
            except BrokenProcessPool:
                return [name]
        self.watch(self.board)
        return []

    def _ready(self, name: str) -> bool:
        return all(self.board.states[parent] == "finished" for parent in self.parents[name])

    def _collect(self, future: Future[None], name: str) -> str | None:
        """Record the outcome of a run; return its name if its process was lost."""
        try:
            future.result()
        except BrokenProcessPool:
            return name
        except (RequestError, RunError) as error:
            if isinstance(error, RequestError) and isinstance(self.runs[name], TrainConfig):
                raise  # without its original model, the comparison cannot be made
            self._end(name, "failed", str(error))
        else:
            self._end(name, "finished")
        return None

    def _lost(self, names: list[str], alone: bool) -> None:
        for name in names:
            if alone:
                self._end(name, "failed", "its process was killed, possibly for lack of memory: try fewer jobs")
            else:
                self.board.states[name] = "pending"
                self.broken.add(name)
                self.waiting.appendleft(name)

    def _end(self, name: str, state: State, reason: str | None = None) -> None:
        self.board.states[name] = state
        self.board.progress.pop(name, None)
        self.broken.discard(name)
        if name in self.waiting:
            self.waiting.remove(name)
        if reason is not None:
            self.board.reasons[name] = reason

    def _listen(self) -> None:
        while True:
            try:
                name, step, steps = self.messages.get_nowait()
            except queue.Empty:
                break
            if self.board.states.get(name) == "running":
                self.board.progress[name] = Progress(step, steps)
        self.watch(self.board)


@dataclass(frozen=True)
class _Worker:
    """The store of a worker process, and its session, which caches data."""

    store: Store
    session: Session


# A pool passes objects only to its initializer, which stores them here for its functions.
_worker: list[_Worker] = []


def _begin(
    parent: int, messages: "Queue[tuple[str, int, int]]", threads: int, root: str, device: str, retry: bool
) -> None:
    """Initialise a worker process, which ignores interruptions: the parent handles them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    messages.cancel_join_thread()  # a worker ends without waiting until its last messages are read

    def report(name: str, progress: Progress) -> None:
        if progress.step % max(1, progress.steps // 50) == 0:
            messages.put((name, progress.step, progress.steps))

    _worker.append(_Worker(Store(Path(root)), Session(torch.device(device), report, retry)))


def _follow(parent: int) -> None:
    """End this process when its parent has ended, even before it began, so that a killed sweep leaves no workers."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(data: Mapping[str, object]) -> None:
    """Make one run, whose parents exist, in a worker process."""
    store = _worker[0].store
    execute.make(run_from_data(data, store), store, _worker[0].session)


def _kill(pool: ProcessPoolExecutor) -> None:
    """Kill the workers; their unfinished runs are drafts, which are removed later."""
    for process in list((pool._processes or {}).values()):  # pyright: ignore[reportPrivateUsage]
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
