"""Kill a comparison again and again: does it go on to the same table, and is anything left behind?

    python benchmarks/kills.py --middle 20 --beginning 10

Two processes work on a comparison. ``--middle`` kills wait until a run has its draft, and strike while it is at
work; ``--beginning`` kills strike in the first second of the worker processes. After each kill -9 of the parent
no process of it may be alive after five seconds. At the end the comparison is finished: its table must be that of a
comparison that was never killed, byte for byte, without the columns of seconds, and no draft may be left.
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPARISON = {
    "name": "kills",
    "data": {"source": "digits", "limit": 300, "test_limit": 100},
    "model": "mlp:hidden=32",
    "training": {"epochs": 40},
    "forget": "random:10%",
    "methods": ["finetune:epochs=20", "scrub:epochs=20"],
    "seeds": 2,
}
"""Two originals, and for each retraining, the original and two methods: ten runs of training beside evaluations."""


def start(recipe: Path, out: Path) -> "subprocess.Popen[bytes]":
    """The comparison in a session of its own."""
    command = [sys.executable, "-m", "expunge", "bench", str(recipe), "--out", str(out), "--jobs", "2", "--quiet"]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def alive(session: int) -> list[int]:
    """The processes of a session that are not yet gone."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def strike(process: "subprocess.Popen[bytes]") -> bool:
    """Kill the parent alone; whether every other process of its session ended within five seconds."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not alive(process.pid):
            return True
        time.sleep(0.05)
    for each in alive(process.pid):
        os.kill(each, signal.SIGKILL)
    return False


def in_the_middle(recipe: Path, out: Path) -> tuple[bool, bool]:
    """Kill while a run is at work: whether it was, and whether nothing was left alive."""
    process = start(recipe, out)
    known = set(out.glob(".draft-*"))
    while process.poll() is None:
        new = [draft for draft in out.glob(".draft-*") if draft not in known]
        if new:
            ended = strike(process)
            return new[0].exists(), ended
        time.sleep(0.005)
    return False, True


def at_the_beginning(recipe: Path, out: Path, generator: random.Random) -> bool:
    """Kill within a second after the first worker process exists; whether nothing was left alive."""
    process = start(recipe, out)
    while process.poll() is None and len(alive(process.pid)) < 3:  # the parent, the resource tracker, a worker
        time.sleep(0.005)
    time.sleep(generator.random())
    return strike(process)


def table(out: Path) -> list[dict[str, str]]:
    """The rows of the results, without what depends on the clock."""
    rows = csv.DictReader((out / "results.csv").read_text().splitlines())
    return [{key: value for key, value in row.items() if "time" not in key and "second" not in key} for row in rows]


def main(middle: int, beginning: int, folder: Path) -> dict[str, object]:
    """Kill as often as asked, finish, and compare."""
    recipe, generator = folder / "kills.json", random.Random(0)
    recipe.write_text(json.dumps(COMPARISON))
    hits, left, used = 0, 0, 0
    for number in range(middle):
        out = folder / f"killed-{used}"
        out.mkdir(exist_ok=True)
        hit, ended = in_the_middle(recipe, out)
        if not hit and start(recipe, out).wait() == 0:  # it was finished: go on with another folder
            used += 1
            hit, ended = in_the_middle(recipe, folder / f"killed-{used}")
        hits, left = hits + hit, left + (not ended)
        print(f"middle {number + 1}: {'hit a run' if hit else 'missed'}, {'nothing' if ended else 'something'} left")
    for number in range(beginning):
        ended = at_the_beginning(recipe, folder / f"begun-{number}", generator)
        left += not ended
        print(f"beginning {number + 1}: {'nothing' if ended else 'something'} left")
    whole = folder / "whole"
    folders = [whole, *sorted(folder.glob("killed-*")), *sorted(folder.glob("begun-*"))[:1]]
    for out in folders:
        assert start(recipe, out).wait() == 0
    same = all(table(out) == table(whole) for out in folders)
    drafts = sum(len(list(out.glob(".draft-*"))) for out in folders)
    return {"kills": middle + beginning, "hits": hits, "left alive": left, "same table": same, "drafts left": drafts}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--middle", type=int, default=20)
    parser.add_argument("--beginning", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(main(given.middle, given.beginning, Path(name)), indent=1))
