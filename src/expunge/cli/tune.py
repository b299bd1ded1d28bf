"""Search the hyperparameters of methods on the validation split, at an equal number of trials for each."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge.bench import recipes, tuning
from expunge.cli import _bench, _console
from expunge.store.directory import Store, write_json


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge tune`."""

    recipe: Annotated[str, tyro.conf.Positional]
    """A recipe, see `expunge list recipes`, or a JSON file that describes a comparison."""
    out: Path | None = None
    """The folder for all its runs and tuned.json; tune-RECIPE by default."""
    methods: tuple[str, ...] = ()
    """Only these methods, as NAME or NAME:key=value,...; those of the recipe by default."""
    trials: int = 8
    """Unlearnings per method; the first has the options given, the others those of the search."""
    seed: int = 100
    """Seed of the model and the forget set that the search uses, and of the search."""
    jobs: int | None = None
    """How many processes to use; one per core by default, at most four, and one alone on a GPU."""


def run(arguments: Sequence[str]) -> int:
    """Search, print the best options of each method, write them to tuned.json."""
    given = _console.parse(Arguments, "tune", __doc__, arguments)
    wanted = recipes.find(given.recipe)
    wanted = dataclasses.replace(wanted, methods=given.methods or wanted.methods)
    _console.allow([wanted.model], given)
    folder = given.out or Path(f"tune-{wanted.name}")
    device = str(_console.device(given.device))
    with _console.progress(given.quiet or given.json) as bars:
        searches = tuning.tune(
            wanted,
            Store(folder),
            trials=given.trials,
            seed=given.seed,
            jobs=_bench.processes(given.jobs, device),
            device=device,
            retry=given.retry,
            watch=_bench.Watch(bars, given.trials * len(wanted.methods) + 2),
        )
    found = tuning.to_data(wanted, searches, given.seed)
    write_json(folder / "tuned.json", found)
    if given.json:
        _console.print_json(found)
        return 0
    rows = [
        (search.method, _points(search.trials[0].gap), _points(search.best.gap), search.best.text)
        for search in searches
    ]
    _console.print_table("gap on validation, points", ("method", "as given", "best", "best options"), rows)
    _console.say(f"written to {folder / 'tuned.json'}")
    return 0


def _points(gap: float | None) -> str:
    return "failed" if gap is None else f"{gap:.2f}"
