"""Train, unlearn, compare and report on an embedded real data set, in about half a minute on two idle cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.bench import recipes
from expunge.cli import _bench, _console


@dataclass(frozen=True)
class Arguments(_console.Common):
    """Options of `expunge demo`."""

    out: Path = Path("expunge-demo")
    """The folder for its runs and the report."""
    jobs: int = 2
    """How many processes to use."""


def run(arguments: Sequence[str]) -> int:
    """Compare six methods with retraining on handwritten digits."""
    given = _console.parse(Arguments, "demo", __doc__, arguments)
    return _bench.run(recipes.find("demo"), given.out, given, given.jobs)
