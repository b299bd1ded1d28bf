"""Precompute the effect of leaving out each training example on a recorded model, for deletions in milliseconds."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge.cli import _console
from expunge.core import files
from expunge.core.errors import RequestError
from expunge.runs.precompute import PrecomputeConfig, estimate
from expunge.runs.train import TrainConfig
from expunge.store import execute
from expunge.store.directory import RunDirectory
from expunge.trajectory.vectors import StoreType


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge precompute`."""

    run: _console.RunPath
    """The run of `expunge train --record` whose examples may be deleted later."""
    dtype: StoreType = "float32"
    """The precision of the store; bfloat16 halves it, with errors of 0.4 percent of each number."""
    groups: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A CSV file of lines ID,GROUP: one vector for each group, such as all examples of a person, which are then deleted
    together; examples that are not in it have none."""
    as_released: bool = False
    """The vectors of the released recursion, for comparison."""
    memory: float = 0.25
    """Gigabytes that the work may take beside the model and the images; less makes more and smaller chunks."""


def run(arguments: Sequence[str]) -> int:
    """Say what it will take, then precompute, or go on where an interrupted precomputation stopped."""
    given = _console.parse(Arguments, "precompute", __doc__, arguments)
    store, original = _console.open_run(given.run, (TrainConfig,), "train")
    groups = () if given.groups is None else read_groups(given.groups)
    wanted = PrecomputeConfig(original, given.dtype, groups, given.as_released)
    if not given.memory > 0:
        raise RequestError(f"memory must be above 0, got {given.memory}")
    with _console.session(given, [wanted], memory=given.memory) as session:
        expected = estimate(wanted, RunDirectory(given.run.resolve()), store, session)
        if expected is not None and not given.json:
            size = f"{expected.rows} vectors of {expected.size} numbers, {_size(expected.nbytes)}"
            _console.say(f"{size}: about {_duration(expected.seconds)} of work left")
        directory = execute.run(wanted, store, session)
    _console.report_run(
        directory,
        given,
        f"delete: expunge unlearn --run {given.run} --forget ids:FILE hessian-free --variant additive "
        f"--vectors {directory.id}",
    )
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


_ID = r"\d{1,18}"


def read_groups(path: Path) -> tuple[tuple[int, ...], ...]:
    """The ids of each group of a CSV file of lines ``ID,GROUP``, groups in the order of their names.

    Raises:
        RequestError: It cannot be read, or a line is not an id and a group.
    """
    cure = "give a CSV file of lines ID,GROUP"
    with files.reading(path, cure):
        rows = [row for row in csv.reader(files.text(path, cure).splitlines()) if row]
    if rows and not re.fullmatch(_ID, rows[0][0].strip()):
        rows = rows[1:]  # a line of titles
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not re.fullmatch(_ID, row[0].strip()) or not row[1].strip():
            raise RequestError(f"{path}: entry {number} should be ID,GROUP, as 17,alice; it is {','.join(row)[:80]!r}")
        found.setdefault(row[1].strip(), []).append(int(row[0].strip()))
    if not found:
        raise RequestError(f"{path} names no group: write a line ID,GROUP for each example")
    return tuple(tuple(sorted(found[name])) for name in sorted(found))
