"""ImageNet-1k: photographs in 1000 classes (Russakovsky et al. 2015)."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _folders, _named, _pictures, image_files
from expunge.data._assemble import Found
from expunge.data._named import Layout, NamedConfig
from expunge.data._pictures import CentreCrop, Decoding, Reading, Resize, Unreadable
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


@dataclass(frozen=True)
class ImagenetConfig(NamedConfig):
    """Options of ImageNet."""

    augment: bool = True
    resize: int = 256
    """Resize every image to this many pixels on each side, whatever its proportions, as the original code does."""
    size: int = 224
    """Then keep the central square of this many pixels on each side."""
    classes: int | None = None
    """Use the first so many classes, in the order of their names; all by default."""
    unreadable: Unreadable = "refuse"
    """What is done about images that cannot be decoded: refuse, or skip (and count them)."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)
        checks.at_least(2, classes=self.classes)
        checks.at_least(self.size, resize=self.resize)


@source()
def load(config: ImagenetConfig, *, limits: Limits | None = None) -> Dataset:
    """ImageNet-1k: 1,281,167 and 50,000 photographs in 1000 classes (Russakovsky et al. 2015).

    Read from imagenet/train/WNID/*.JPEG and imagenet/val/WNID/*.JPEG, or from Parquet files with the splits train and
    validation, which are the training and the test set. Training images are prepared as test images are (resized and
    cropped once), and then augmented; the original code crops a random part of each instead.

    Memory: 150 kB an image at 224 pixels, 193 GB for all: choose by classes, by limit, or a smaller resize and size.
    Only chosen images are read.
    """
    steps = (Resize(config.resize, bilinear=True), CentreCrop(config.size))
    # The images of the split test have no labels.
    options = Reading(Decoding(steps, colour=True, unreadable=config.unreadable), tests=("validation",))
    read = partial(_read, classes=config.classes)
    layouts = (Layout("train/ with a folder per class", _present, read), *(() if config.classes else (_named.PARQUET,)))
    return _named.load(("imagenet", "imagenet-1k"), config, _assemble.IMAGENET, limits, layouts, options)


def _present(folder: Path) -> bool:
    return (folder / "train").is_dir() and not any((folder / "train").glob("*.parquet"))


def _read(folder: Path, options: Reading, classes: int | None) -> Found:
    train, val = folder / "train", _assemble.existing_folder(str(folder / "val"))
    names = _folders.classes(train)
    if not _folders.classes(val):
        raise RequestError(
            f"{val} holds images without classes, as they are unpacked: put each into the folder of its class"
        )
    _folders.check_known(val, train, names)
    parts = [_folders.labelled(part, names[:classes]) for part in (train, val)]
    first, second = (_pictures.of_files(part, folder, options.decoding) for part in parts)
    return (
        first,
        second,
        tuple(names[:classes]),
        (image_files.names(parts[0], folder), image_files.names(parts[1], folder)),
    )
