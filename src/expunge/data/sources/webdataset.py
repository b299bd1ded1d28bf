"""WebDataset shards, train*.tar and test*.tar with KEY.jpg and KEY.cls (or .json): webdataset:FOLDER."""

from dataclasses import dataclass
from pathlib import Path

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _pictures, _shards, labelling
from expunge.data._assemble import FilesConfig, Part
from expunge.data._pictures import Decoding, Unreadable
from expunge.data._shards import Example
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

TESTS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class WebdatasetConfig(FilesConfig):
    """A folder of shards, and the use of their images."""

    path: str
    """The folder that holds train*.tar and test*.tar (or val*.tar), or a folder of shards for each."""
    label: str = "label"
    """The key of the label in .json files; .cls files are taken before them."""
    size: int | None = None
    """Resize every image to this many pixels on each side; by default all must have one size."""
    unreadable: Unreadable = "refuse"
    """What is done about images that cannot be decoded: refuse, or skip (and count them)."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)


@source()
def load(config: WebdatasetConfig, *, limits: Limits | None = None) -> Dataset:
    """WebDataset shards, train*.tar and test*.tar with KEY.jpg and KEY.cls (or .json): webdataset:FOLDER.

    Shards are read in the order of their names. Labels are class numbers, or text, which is numbered in sorted order.
    The names of examples are their keys. Nothing is unpacked, and links and names that lead out of a shard are refused.

    Raises:
        RequestError: A shard is missing, damaged or refused.
    """
    folder = _assemble.existing_folder(config.path)
    train, test = (_shards.read(_find(folder, splits), config.label) for splits in (("train",), TESTS))
    texts = any(isinstance(example.label, str) for example in (*train, *test))
    names: tuple[str, ...] = ()
    numbers = [[int(example.label) for example in part] for part in (train, test)] if not texts else []
    if texts:
        names, labels = labelling.numbered([str(e.label) for e in train], [str(e.label) for e in test], folder)
        numbers = [*labels]
    decoding = Decoding(_pictures.sized(config.size), unreadable=config.unreadable)
    parts = [_part(part, labels, folder, decoding) for part, labels in zip((train, test), numbers, strict=True)]
    keys = ([example.key for example in train], [example.key for example in test])
    return _assemble.dataset(parts[0], parts[1], folder, class_names=names, config=config, names=keys, limits=limits)


def _find(folder: Path, splits: tuple[str, ...]) -> list[Path]:
    """The shards of the first of these splits that has any."""
    for split in splits:
        for place in (f"{split}/*.tar", f"{split}.tar", f"{split}[-_0-9]*.tar"):
            if found := sorted(folder.glob(place)):
                return found
    raise RequestError(f"{folder} holds no {splits[0]}*.tar: shards should be named {splits[0]}-000000.tar, ...")


def _part(examples: list[Example], labels: list[int], folder: Path, decoding: Decoding) -> Part:
    pictures = [_shards.picture(example) for example in examples]
    return _pictures.part(pictures, labels, str(folder), decoding)
