"""Read a checkpoint of the original repositories as a run, which every other command takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from expunge.cli import _console
from expunge.core import config, files
from expunge.runs.imported import ImportConfig
from expunge.store import execute
from expunge.training.fit import Training
from expunge.training.stepper import Precision


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.ModelOfImages):
    """Options of `expunge import`."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The file (.pth.tar, .pt): a state dict, or a dictionary with one; dense or pruned. Nothing in it is executed."""
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    """How it was trained, as far as you know: retraining repeats this."""
    seed: int = 0
    """A number to tell imports apart."""
    precision: Precision = "auto"
    """bfloat16 or float32 for the forward passes; auto takes bfloat16 where it pays."""
    runs: _console.Folder = _console.RUNS
    """The folder of all runs."""


def run(arguments: Sequence[str]) -> int:
    """Import, or find the run that exists already."""
    given = _console.parse(Arguments, "import", __doc__, arguments)
    model = config.parse("models", given.model)
    wanted = ImportConfig(
        given.images(), model, files.digest(given.checkpoint), given.training, given.precision, given.seed
    )
    with _console.session(given, files={wanted.sha256: given.checkpoint}) as session:
        directory = execute.run(wanted, _console.store(given.runs), session)
    _console.report_run(directory, given, "unlearn: expunge unlearn --run RUN --forget random:10% scrub")
    return 0
