"""Mutated files for every reader, in worker processes with limits on memory and time.

    python benchmarks/fuzz.py --cases 1000000 --jobs 2
    python benchmarks/fuzz.py --seconds 300 --jobs 2

A case is a set of good files of which one is mutated by a seed (``tests/readers.py``). It is *read* or *refused* by a
RequestError; a *crash* is any other exception, or the end of the process; a *hang* takes over 5 seconds; *growth* is a
lack of memory under a limit of 2 GB above the start, or 256 MB that reading added to the peak of resident memory.
"""

import argparse
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tests import readers

from expunge.core.errors import RequestError

SECONDS = 5.0
ROOM, GROWTH = 2**31, 256 * 2**20
TOGETHER = 500
SLOW = 100
"""A reader that starts a process for each case gets this much less of them."""
COLUMNS = ("cases", "refused", "read", "crashes", "hangs", "growth")


class Hang(BaseException):
    """A case took too long."""


def main() -> int:
    """Run the cases and print the table; status 1 if anything but reading and refusing happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10**6, help="how many cases in all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=list(readers.READERS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.reader or list(readers.READERS)
    good = {name: readers.READERS[name].good() for name in names}
    tally = {name: Counter[str]() for name in names}
    found: list[str] = []
    started = time.perf_counter()
    work(_batches(names, given.cases, given.seed), good, given.jobs, started + given.seconds, tally, found)
    took = time.perf_counter() - started
    print(table(tally))
    print(f"\n{sum(each['cases'] for each in tally.values())} cases in {took:.0f} s by {given.jobs} processes")
    for line in found[:50]:
        print(line)
    return int(any(each[bad] for each in tally.values() for bad in ("crashes", "hangs", "growth")))


def _batches(names: list[str], cases: int, seed: int) -> list[tuple[str, int, int]]:
    """The reader, the first and the last seed of each batch, the readers in turn."""
    shares = {name: 1 / SLOW if readers.READERS[name].slow else 1.0 for name in names}
    counts = {name: max(1, round(cases * share / sum(shares.values()))) for name, share in shares.items()}
    batches: list[tuple[float, str, int, int]] = []
    for name, count in counts.items():
        step = max(1, round(TOGETHER * shares[name]))
        for start in range(0, count, step):
            batches.append((start / count, name, seed + start, seed + min(start + step, count)))
    return [batch[1:] for batch in sorted(batches, reverse=True)]


def work(
    waiting: list[tuple[str, int, int]],
    good: dict[str, readers.Files],
    jobs: int,
    until: float,
    tally: dict[str, Counter[str]],
    found: list[str],
) -> None:
    """Give the batches to processes; one that dies or hangs is replaced, and goes on after the case that did it."""
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[multiprocessing.Process, str, int, int, float]] = {}
    while (waiting and time.perf_counter() < until) or running:
        while waiting and len(running) < jobs and time.perf_counter() < until:
            name, start, end = waiting.pop()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=batch, args=(theirs, name, good[name], start, end))
            process.start()
            theirs.close()
            running[ours] = (process, name, start, end, time.perf_counter())
        for pipe in wait(list(running), timeout=1.0):
            process, name, at, end, _ = running[pipe]
            try:
                at, outcome, words = pipe.recv()
            except EOFError:
                process.join()
                del running[pipe]
                if process.exitcode:
                    _count(tally[name], "crashes", found, f"{name} {at}: the process ended with {process.exitcode}")
                    waiting.append((name, at + 1, end))
                continue
            _count(tally[name], outcome, found, f"{name} {at}: {words}" if words else "")
            running[pipe] = (process, name, at + 1, end, time.perf_counter())
        for pipe, (process, name, at, end, since) in list(running.items()):
            if time.perf_counter() - since > 4 * SECONDS:
                process.kill()
                process.join()
                del running[pipe]
                _count(tally[name], "hangs", found, f"{name} {at}: killed")
                waiting.append((name, at + 1, end))


def _count(tally: Counter[str], outcome: str, found: list[str], words: str) -> None:
    tally["cases"] += 1
    tally[outcome] += 1
    if words:
        found.append(words)


def batch(pipe: Connection, name: str, good: readers.Files, start: int, end: int) -> None:
    """Read the cases from ``start`` to ``end`` and say how each went."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hang)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not readers.READERS[name].slow:  # its own process has a limit of its own
        resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        folder = Path(place)
        readers.write(folder, good)
        readers.READERS[name].read(folder)
        for seed in range(start, end):
            changed = readers.case(good, seed)
            readers.write(folder, changed)
            pipe.send((seed, *one(name, folder)))
            readers.write(folder, {path: good[path] for path in changed})
    pipe.close()
    os._exit(0)


def one(name: str, folder: Path) -> tuple[str, str]:
    """How reading the folder ended, and what was wrong."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        readers.READERS[name].read(folder)
        outcome = ("read", "")
    except RequestError:
        outcome = ("refused", "")
    except MemoryError:
        outcome = ("growth", "out of memory")
    except Hang:
        outcome = ("hangs", f"over {SECONDS:g} s")
    except BaseException as error:  # noqa: BLE001 - what is looked for
        outcome = ("crashes", f"{type(error).__name__}: {str(error)[:100]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return ("growth", f"{grown / 1e6:.0f} MB") if grown > GROWTH else outcome


def _hang(*_: object) -> None:
    raise Hang


def table(tally: dict[str, Counter[str]]) -> str:
    """Markdown, a line for each reader and one for all."""
    lines = ["| reader | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    total = sum(tally.values(), Counter[str]())
    for name, counts in (*tally.items(), ("all", total)):
        lines.append(f"| {name} | " + " | ".join(f"{counts[column]:,}" for column in COLUMNS) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
