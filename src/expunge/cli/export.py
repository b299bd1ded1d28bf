"""Write the model of a run as plain torch weights, with preprocessing and a model card, for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge.cli import _console
from expunge.report import exported
from expunge.store.directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Options of `expunge export`."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run whose model is to be exported: of `expunge train`, `prune`, `import` or `unlearn`."""
    out: Path | None = None
    """The folder to write to; export-RUN by default."""
    hub: str | None = None
    """Upload the folder to this repository of the Hugging Face Hub too, USER/NAME; a new one is private."""
    json: bool = False
    """Print the result as JSON."""


def run(arguments: Sequence[str]) -> int:
    """Write the folder and print it."""
    given = _console.parse(Arguments, "export", __doc__, arguments)
    _, wanted = _console.open_original(given.run)
    directory = RunDirectory(given.run.resolve())
    written = exported.export(directory, wanted, given.out or Path(f"export-{directory.id}"))
    address = None if given.hub is None else exported.push(written, given.hub)
    if given.json:
        _console.print_json({"folder": str(written.folder), "sha256": written.sha256, "hub": address})
        return 0
    print(address or written.folder)
    return 0
