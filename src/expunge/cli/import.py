"""Read a checkpoint of other code as a run, which every other command takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

import tyro
from rich.markup import escape

from expunge.cli import _console
from expunge.core import checkpoints, config, files
from expunge.data.split_data import DataConfig, Split
from expunge.runs.imported import Earlier, ImportConfig
from expunge.store import execute
from expunge.store.directory import Record
from expunge.training.fit import Training
from expunge.training.precision import RequestedPrecision, chosen


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.ModelOfImages):
    """Options of `expunge import`."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The file (.safetensors, .pth, .pth.tar, .pt): a state dict, or a dictionary with one, of torch, timm,
    torchvision, the original repositories or a run; dense or pruned. Nothing in it is executed. Weights beside it
    called epoch_K_rewind_weight.pt are read too: pruning can rewind to epoch K."""
    mean: tuple[float, ...] = ()
    """Mean of each channel that the model's inputs, in 0..1, are normalised by: 0.485 0.456 0.406 for ImageNet, 0 for a
    model that does it itself; by default that in the checkpoint, or of the data."""
    std: tuple[float, ...] = ()
    """Deviation of each channel, likewise: 0.229 0.224 0.225, or 1."""
    split: Split | None = None
    """How its validation images were chosen: ours or released; by default released, as the original repositories do,
    where the checkpoint has their layout, and ours for others."""
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    """How it was trained, as far as you know: retraining repeats this, and methods take its weight decay if given."""
    seed: int = 0
    """A number to tell imports apart."""
    precision: RequestedPrecision = "auto"
    """Of the forward passes: float32, bfloat16, or mixed, which is bfloat16 in networks that gain from it; auto takes
    mixed where this machine is faster in bfloat16, and float32 elsewhere."""
    runs: _console.Folder = _console.RUNS
    """The folder of all runs."""


def run(arguments: Sequence[str]) -> int:
    """Import, or find the run that exists already."""
    given = _console.parse(Arguments, "import", __doc__, arguments)
    model = config.parse("models", given.model)
    digest, images = files.digest(given.checkpoint), given.images(split=_split(given))
    precision = chosen(given.precision, _console.device(given.device))
    before = {files.digest(path): (epoch, path) for epoch, path in checkpoints.earlier(given.checkpoint).items()}
    earlier = tuple(Earlier(epoch, found) for found, (epoch, _) in before.items())
    wanted = ImportConfig(images, model, digest, given.training, precision, given.seed, given.mean, given.std, earlier)
    paths = {digest: given.checkpoint} | {found: path for found, (_, path) in before.items()}
    with _console.session(given, [wanted], files=paths) as session:
        directory = execute.run(wanted, _console.store(given.runs), session)
        for start in wanted.starts.values():
            execute.run(start, _console.store(given.runs), session)
    _say_what_was_found(directory.record(), images, given)
    _console.report_run(directory, given, "unlearn: expunge unlearn --run RUN --forget random:10% scrub")
    return 0


def _split(given: Arguments) -> Split:
    """The split of a checkpoint where none is named: that of the original repositories for their layout."""
    if given.split is not None or given.validation_ids is not None:
        return "ours"
    return "released" if checkpoints.read(given.checkpoint).original else "ours"


def _say_what_was_found(record: Record, images: DataConfig, given: Arguments) -> None:
    """Say on the error stream which split is used and how accurate the model is on it; warnings even if quiet."""
    notes = cast("dict[str, object]", record.get("notes", {}))
    if not given.quiet:
        split = "validation images by their ids" if images.validation_ids else f"{images.split}, seed {images.seed}"
        if images.split == "released" and given.split is None:
            split += ", as the checkpoint has the layout of the original repositories"
        _console.say(f"split: {split} (--split, --split-seed or --validation-ids choose another)")
        accuracy = cast("dict[str, float]", notes.get("accuracy", {}))
        _console.say("accuracy: " + ", ".join(f"{name} {value:.1f}%" for name, value in accuracy.items()))
    for warning in cast("list[str]", notes.get("warnings", [])):
        _console.say(f"warning: {escape(warning)}")
