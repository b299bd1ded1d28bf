"""Compare methods over several seeds, and go on from where a previous call stopped."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge.bench import recipes
from expunge.cli import _bench, _console


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge bench`."""

    recipe: Annotated[str, tyro.conf.Positional]
    """A recipe, see `expunge list recipes`, or a JSON file that describes a comparison."""
    out: Path | None = None
    """The folder for all its runs and the report; bench-RECIPE by default."""
    seeds: int | None = None
    """Repeat everything with this many seeds; what the recipe says by default."""
    methods: tuple[str, ...] = ()
    """Only these methods, as NAME or NAME:key=value,...; those of the recipe by default."""
    shadows: int | None = None
    """Attack every model by lira with this many shadow models of each original; what the recipe says by default."""
    jobs: int | None = None
    """How many processes to use; one per core by default, at most four, and one alone on a GPU."""


def run(arguments: Sequence[str]) -> int:
    """Run a recipe and write its report."""
    given = _console.parse(Arguments, "bench", __doc__, arguments)
    wanted = recipes.find(given.recipe)
    wanted = dataclasses.replace(
        wanted,
        seeds=wanted.seeds if given.seeds is None else given.seeds,
        methods=given.methods or wanted.methods,
        shadows=wanted.shadows if given.shadows is None else given.shadows,
    )
    return _bench.run(wanted, given.out or Path(f"bench-{wanted.name}"), given, given.jobs)
