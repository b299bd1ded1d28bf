"""Write the page and the tables of a folder of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge import report
from expunge.cli import _console


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Options of `expunge report`."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder that `expunge bench` filled, or any folder with evaluate runs."""
    out: Path | None = None
    """The page to write, with .csv, .md and .tex tables beside it; FOLDER/report.html by default."""
    json: bool = False
    """Print the result as JSON."""


def run(arguments: Sequence[str]) -> int:
    """Write the report."""
    given = _console.parse(Arguments, "report", __doc__, arguments)
    page = report.write(given.folder, given.out or given.folder / "report.html")
    if given.json:
        _console.print_json({"report": str(page)})
    else:
        print(page)
    return 0
