"""What `bench` and `demo` share: run a comparison with progress bars, then report."""

import os
import time
from pathlib import Path

from rich.progress import Progress, TaskID

from expunge import report
from expunge.bench.grid import Comparison
from expunge.bench.local import Board, bench
from expunge.cli import _console
from expunge.core.errors import RunError
from expunge.store.directory import Store


def run(wanted: Comparison, folder: Path, options: _console.Common, jobs: int | None) -> int:
    """Run, print the table, write the report; status 1 if some run failed."""
    _console.allow([wanted.model], options)
    started = time.perf_counter()
    device = str(_console.device(options.device))
    with _console.progress(options.quiet or options.json) as bars:
        watch = Watch(bars)
        board = bench(
            wanted, Store(folder), jobs=processes(jobs, device), device=device, retry=options.retry, watch=watch
        )
    return _conclude(folder, board, options, time.perf_counter() - started)


def _conclude(folder: Path, board: Board, options: _console.Common, seconds: float) -> int:
    page = report.write(folder, folder / "report.html")
    failed = {name: reason for name, reason in board.reasons.items() if name.startswith("evaluate-")}
    if options.json:
        results = report.load(folder)
        keys = ("label", "scenario", "seed", "status", "reason", "metrics")
        rows = [{key: getattr(row, key) for key in keys} for row in results.rows]
        _console.print_json({"report": str(page), "seconds": seconds, "rows": rows})
    else:
        title, columns, rows = report.terminal(folder)
        _console.print_table(title, columns, rows)
        _console.say(f"{len(board.states)} runs in {seconds:.0f} s; report: {page}")
    if failed:
        raise RunError(f"{len(failed)} evaluations failed, the first because {next(iter(failed.values()))}")
    return 0


def processes(jobs: int | None, device: str) -> int:
    """How many processes to use: as asked, or one per core but at most four, and one alone on a GPU."""
    if jobs is not None:
        return jobs
    return min(os.cpu_count() or 1, 4) if device == "cpu" else 1


class Watch:
    """Shows a board as progress bars: one for all runs, one for each in progress."""

    def __init__(self, bars: Progress, runs: int | None = None) -> None:
        """``runs``: how many there will be in all, where the board does not know it yet."""
        self.bars = bars
        self.runs = runs
        self.total = bars.add_task("all runs", total=runs)
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, board: Board) -> None:
        """Redraw."""
        ended = sum(state in ("finished", "failed") for state in board.states.values())
        self.bars.update(self.total, completed=ended, total=max(self.runs or 0, len(board.states)))
        for name in [name for name in self.tasks if board.states[name] != "running"]:
            self.bars.remove_task(self.tasks.pop(name))
        for name, state in board.progress.items():
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task(name.rpartition("-")[0], total=state.steps)
            self.bars.update(self.tasks[name], completed=state.step)
