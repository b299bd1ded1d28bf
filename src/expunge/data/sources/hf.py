"""Any image set through Hugging Face ``datasets``: hf:NAME,config=...,image=...,label=..."""

import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from expunge.core import checks, files
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _pictures, labelling
from expunge.data._assemble import FilesConfig, Part
from expunge.data._pictures import Decoding, Unreadable
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

IMAGES = ("img", "image")
LABELS = ("label", "labels", "fine_label")
TESTS = ("test", "validation", "valid")
INSTALL = "install it: python -m pip install 'expunge[hub]'"
_WRITTEN = "dataset_dict.json"


class Split(Protocol):
    """What is used of ``datasets.Dataset``."""

    features: Mapping[str, object]

    def cast_column(self, column: str, feature: object, /) -> "Split":
        """Return the same rows with a column of another type."""
        ...

    def __getitem__(self, key: int | str, /) -> object:
        """A row, or a column."""
        ...


@dataclass(frozen=True)
class HfConfig(FilesConfig):
    """A data set of the Hugging Face hub, and the use of its images."""

    path: str
    """Its name on the hub (``uoft-cs/cifar100``), or a folder that ``datasets`` reads or has written."""
    config: str = ""
    """The configuration of the set, where it has several."""
    revision: str = ""
    """The commit, branch or tag; a commit makes runs repeatable."""
    image: str = ""
    """The column of images; by default img or image."""
    label: str = ""
    """The column of labels, numbers or text; by default label, labels or fine_label."""
    train: str = "train"
    """The split that is the training set."""
    test: str = ""
    """The split that is the test set; by default test, or else validation or valid."""
    size: int | None = None
    """Resize every image to this many pixels on each side; by default all must have one size."""
    unreadable: Unreadable = "refuse"
    """What is done about images that cannot be decoded: refuse, or skip (and count them)."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)


@source()
def load(config: HfConfig, *, limits: Limits | None = None) -> Dataset:
    """Any image set through Hugging Face datasets: hf:NAME,config=...,image=...,label=... (extra expunge[hub]).

    Files are kept in the cache of ``datasets``; HF_HUB_OFFLINE=1 uses only what is there. No code of a set is executed.
    Fingerprints of both splits are among the notes of a run.

    Raises:
        RequestError: ``datasets`` is not installed, the set cannot be had, or it lacks a split or a column.
    """
    found = _loaded(config)
    tests = [name for name in ((config.test,) if config.test else TESTS) if name in found]
    if config.train not in found or not tests:
        raise RequestError(f"{config.path} has the splits {', '.join(found)}: choose two by train=... and test=...")
    splits = [found[config.train], found[tests[0]]]
    label = _column(splits[0], (config.label,) if config.label else LABELS, config.path)
    labels = [list(cast("Sequence[int | str]", split[label])) for split in splits]
    names = cast("Sequence[str]", getattr(splits[0].features[label], "names", ()))
    if any(isinstance(each, str) for part in labels for each in part):
        names, numbered = labelling.numbered([str(x) for x in labels[0]], [str(x) for x in labels[1]], config.path)
        labels = [*numbered]
    image = _column(splits[0], (config.image,) if config.image else IMAGES, config.path)
    train, test = (_part(split, image, numbers, config) for split, numbers in zip(splits, labels, strict=True))
    made = _assemble.dataset(train, test, config.path, class_names=names, config=config, limits=limits)
    prints = "; ".join(f"{name} {getattr(found[name], '_fingerprint', '?')}" for name in (config.train, tests[0]))
    return replace(made, notes=(*made.notes, f"fingerprints of Hugging Face datasets: {prints}"))


def _loaded(config: HfConfig) -> Mapping[str, Split]:
    """The splits of the set, by name."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise RequestError(f"hf needs the package datasets ({error}): {INSTALL}") from error
    folder = Path(config.path).expanduser()
    try:
        if (folder / _WRITTEN).is_file():
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(config.path, config.config or None, revision=config.revision or None)
    except Exception as error:  # each version of datasets and huggingface_hub raises its own
        reason = (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]
        raise RequestError(
            f"hf: {config.path} cannot be had ({reason}): check the name, config= and revision=. Without a connection, "
            f"run once where there is one: python -c \"import datasets; datasets.load_dataset('{config.path}')\", and "
            "copy the cache (~/.cache/huggingface, or the folder HF_HOME)"
        ) from error


def _column(split: Split, wanted: Sequence[str], where: str) -> str:
    for name in wanted:
        if name in split.features:
            return name
    raise RequestError(f"{where} has no column {' or '.join(wanted)}, only {', '.join(split.features)}")


def _part(split: Split, image: str, labels: Sequence[int | str], config: HfConfig) -> Part:
    """The examples of a split, whose images are decoded on demand."""
    datasets = importlib.import_module("datasets")
    encoded = split.cast_column(image, datasets.Image(decode=False))
    pictures = [
        (f"{config.path}, image {row}", partial(_opened, encoded, row, image, config.path))
        for row in range(len(labels))
    ]
    decoding = Decoding(_pictures.sized(config.size), unreadable=config.unreadable)
    return _pictures.part(pictures, cast("Sequence[int]", labels), config.path, decoding)


def _opened(split: Split, row: int, image: str, where: str) -> BinaryIO:
    """The bytes of an image: in the table, or in the file that it names."""
    cell = cast("Mapping[str, Mapping[str, object]]", split[row])[image]
    content = cell.get("bytes")
    if content is None:
        content = files.content(Path(str(cell["path"])), f"fetch {where} again")
    return io.BytesIO(cast("bytes", content))
