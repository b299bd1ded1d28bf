"""Runs a comparison in processes of this machine: parents first, each run once, whatever is killed."""

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

from expunge.bench.grid import Comparison, Entry, entries
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
    """How far a sweep is: the state of every run, and the progress of those at work."""

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
    """Make every run of a comparison that does not exist yet; keep ``bench.json`` in the store up to date.

    Runs go to ``jobs`` processes as soon as their parents are there. What fails is noted with its reason
    and the others go on. After a kill or an interruption at any moment, the same call goes on from the
    finished runs, to the same numbers.
    """
    if jobs < 1:
        raise RequestError(f"jobs must be at least 1, got {jobs}")
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
    """Make every one of these runs, and their parents, that does not exist yet, in ``jobs`` processes.

    A board that is given keeps what it knows of other runs.
    """
    every = with_parents(runs)
    board = board or Board()
    board.states |= dict.fromkeys(every, "pending")
    _Sweep(every, board, store, jobs, device, retry, watch or (lambda _: None)).work()
    return board


def _manifest(wanted: Comparison, cells: list[Entry], board: Board) -> dict[str, object]:
    """What ``bench.json`` says: the comparison, and each cell with its run, state and reason."""
    listed: list[dict[str, object]] = []
    for cell in cells:
        name = run_id(cell.run)
        listed.append(
            {
                "label": cell.label,
                "scenario": cell.scenario,
                "seed": cell.seed,
                "run": name,
                "subject": run_id(cell.run.subject),
                "status": board.states[name],
                "reason": board.reasons.get(name),
            }
        )
    return {"name": wanted.name, "comparison": config.to_data(wanted), "entries": listed}


class _Sweep:
    """The state of one :func:`bench` call: what waits, what is at work, what has ended."""

    def __init__(
        self,
        runs: Mapping[str, object],
        board: Board,
        store: Store,
        jobs: int,
        device: str,
        retry: bool,
        watch: Watcher,
    ) -> None:
        self.runs = runs
        self.board = board
        self.store = store
        self.jobs = jobs
        self.device = device
        self.retry = retry
        self.watch = watch
        self.waiting = deque(runs)
        self.parents = {name: [run_id(parent) for parent in parents(run).values()] for name, run in runs.items()}
        self.broken: set[str] = set()
        self.processes = multiprocessing.get_context("spawn")
        self.messages: Queue[tuple[str, int, int]]
        """Of the pool at work: a process that is killed while it writes may leave its queue locked for ever."""

    def work(self) -> None:
        """Settle what exists, then run the rest, in a new pool each time that a process is lost."""
        for name in list(self.waiting):
            self._settle_known(name)
        self.watch(self.board)
        while self.waiting:
            alone = bool(self.broken)
            with self._pool(1 if alone else self.jobs) as pool:
                try:
                    self._drain(pool, alone)
                except KeyboardInterrupt:
                    _kill(pool)
                    raise

    def _settle_known(self, name: str) -> None:
        directory = self.store.directory(name)
        if not directory.exists:
            return
        record = directory.record()
        if record["status"] == "finished":
            self._end(name, "finished")
        elif not self.retry:
            self._end(name, "failed", str(record["reason"]))

    def _pool(self, jobs: int) -> ProcessPoolExecutor:
        self.messages = self.processes.Queue()
        # The order of float32 sums depends on the threads: a run that is repeated alone gets no more of them.
        threads = max(1, torch.get_num_threads() // self.jobs)
        initial = (os.getpid(), self.messages, threads, str(self.store.root), self.device, self.retry)
        return ProcessPoolExecutor(jobs, mp_context=self.processes, initializer=_begin, initargs=initial)

    def _drain(self, pool: ProcessPoolExecutor, alone: bool) -> None:
        """Keep the pool busy until nothing waits; a lost process ends the round.

        After a loss, the runs that were at work are repeated one at a time: the one that loses its process
        again is to blame, and fails.
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
            if lost or (alone and not self.broken):  # a new pool; with all processes once no run is suspect
                return

    def _submit(self, pool: ProcessPoolExecutor, active: dict[Future[None], str], most: int) -> list[str]:
        """Hand over what can begin; the runs that could not be, since the pool has just lost a process."""
        for name in list(self.waiting):
            self._fail_after_parent(name)
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

    def _fail_after_parent(self, name: str) -> None:
        for parent in self.parents[name]:
            if self.board.states[parent] == "failed":
                self._end(name, "failed", self.board.reasons[parent])
                return

    def _collect(self, future: Future[None], name: str) -> str | None:
        """Note how a run ended; its name again if its process was lost."""
        try:
            future.result()
        except BrokenProcessPool:
            return name
        except (RequestError, RunError) as error:
            if isinstance(error, RequestError) and isinstance(self.runs[name], TrainConfig):
                raise  # without its original model nothing of the comparison can be done
            self._end(name, "failed", str(error))
        else:
            self._end(name, "finished")
        return None

    def _lost(self, names: list[str], alone: bool) -> None:
        for name in names:
            if alone:
                self._end(name, "failed", "its process was killed: perhaps it ran out of memory; try fewer jobs")
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
    """What a worker process keeps from one run to the next: its store, and a session that remembers data."""

    store: Store
    session: Session


# A pool hands objects to its initializer and no further: its functions find them here.
_worker: list[_Worker] = []


def _begin(
    parent: int, messages: "Queue[tuple[str, int, int]]", threads: int, root: str, device: str, retry: bool
) -> None:
    """Prepare a worker process: interruptions are the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    messages.cancel_join_thread()  # at its end, a worker does not wait until its last messages are read

    def report(name: str, progress: Progress) -> None:
        if progress.step % max(1, progress.steps // 50) == 0:
            messages.put((name, progress.step, progress.steps))

    _worker.append(_Worker(Store(Path(root)), Session(torch.device(device), report, retry)))


def _follow(parent: int) -> None:
    """End this process when its parent is gone, even before it began: a killed sweep leaves no worker behind."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(data: Mapping[str, object]) -> None:
    """Make one run, whose parents are there, in a worker process."""
    store = _worker[0].store
    execute.make(run_from_data(data, store), store, _worker[0].session)


def _kill(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they were writing is a draft and will be removed."""
    for process in list((pool._processes or {}).values()):  # pyright: ignore[reportPrivateUsage]
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
