"""Check every run in a folder: the digests of its files, its configuration, its parents, and its metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge.cli import _console
from expunge.core.errors import RequestError, RunError
from expunge.runs.evaluate import differences, is_finished
from expunge.store import check
from expunge.store.execute import Session


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Options of `expunge doctor`."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of runs to check."""
    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress bars."""


def run(arguments: Sequence[str]) -> int:
    """Check the files of all runs, then compute the metrics of evaluations again; exit status 1 if any is wrong."""
    given = _console.parse(Arguments, "doctor", __doc__, arguments)
    store = _console.store(given.folder)
    runs = check.runs(store)
    if not runs:
        raise RequestError(f"{given.folder} holds no runs: give the folder that was given to --runs or --out")
    with _console.progress(given.quiet or given.json) as bars:
        found = {each.id: check.problems(each) for each in bars.track(runs, description="files of runs")}
        damaged = any(found.values())
        judged = [each for each in runs if not found[each.id] and is_finished(each)]
        session, left_out = Session(), list[str]()
        for each in bars.track(judged, description="metrics of evaluations"):
            try:
                found[each.id] = [f"{each.path}: {line}; {each.cure}" for line in differences(each, session)]
            except (RequestError, RunError) as error:
                left_out += [each.id] if damaged else []  # of a damaged run, which is listed
                found[each.id] = [] if damaged else [f"{each.path} cannot be computed again: {error}"]
    _print(given, found, len(judged) - len(left_out), left_out, check.unfinished(store))
    return int(any(found.values()))


def _print(
    given: Arguments, found: Mapping[str, list[str]], judged: int, left_out: list[str], unfinished: list[str]
) -> None:
    """A line for each problem and each unfinished run, and a summary; or all of it as JSON."""
    problems = [{"run": name, "problem": line} for name, lines in found.items() for line in lines]
    if given.json:
        counts = {"runs": len(found), "evaluations": judged, "not_computed_again": left_out}
        _console.print_json({"folder": str(given.folder), **counts, "unfinished": unfinished, "problems": problems})
        return
    for each in problems:
        print(each["problem"])
    for name in unfinished:
        print(f"{given.folder / name} is unfinished, interrupted or being made: the command that began it goes on")
    skipped = f", of {len(left_out)} not, as they read damaged runs" if left_out else ""
    wrong, checked, again = _count(len(problems), "problem"), _count(len(found), "run"), _count(judged, "evaluation")
    print(f"{wrong} in {checked}; metrics of {again} computed again{skipped}")


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
