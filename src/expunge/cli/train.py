"""Train an original model and print the folder of its run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import tyro
from rich.markup import escape

from expunge.cli import _console
from expunge.core import config
from expunge.data.poisoning import Poison
from expunge.runs.train import TrainConfig
from expunge.store import execute
from expunge.training.fit import Training
from expunge.training.precision import RequestedPrecision, chosen


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.ModelOfImages):
    """Options of `expunge train`."""

    data: str = "digits"
    """The images: a name or NAME:PATH, see `expunge list data` (cifar10, mnist, idx:FOLDER, npz:FILE, ...)."""
    model: str = "small_cnn"
    """The architecture, see `expunge list models`; options follow a colon: resnet18:width=16."""
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    """How to train."""
    poison: str | None = None
    """Put a backdoor into the training images, to see whether it can be unlearned: patch:size=4,target=0,share=10%,
    blend:alpha=0.2,count=500 or gaussian:sigma=0.1,count=500; forget it by --forget poisoned."""
    seed: int = 0
    """Seed of the initial weights, the order of examples and the augmentation."""
    precision: RequestedPrecision = "auto"
    """Of the forward passes: float32, bfloat16, or mixed, which is bfloat16 in networks that gain from it; auto takes
    mixed where this machine is faster in bfloat16, and float32 elsewhere."""
    runs: _console.Folder = _console.RUNS
    """The folder of all runs."""


def run(arguments: Sequence[str]) -> int:
    """Train, or find the run that exists already."""
    given = _console.parse(Arguments, "train", __doc__, arguments)
    poison = None if given.poison is None else cast("Poison", config.parse("poisons", given.poison))
    model = config.parse("models", given.model)
    precision = chosen(given.precision, _console.device(given.device))
    wanted = TrainConfig(given.images(poison), model, given.training, precision, given.seed)
    with _console.session(given, [wanted]) as session:
        directory = execute.run(wanted, _console.store(given.runs), session)
    for each in cast("dict[str, list[str]]", directory.record().get("notes", {})).get("pretrained", []):
        if not given.quiet:
            _console.say(escape(each))
    method = "hessian-free" if given.training.record else "scrub"
    _console.report_run(directory, given, f"unlearn: expunge unlearn --run RUN --forget random:10% {method}")
    return 0
