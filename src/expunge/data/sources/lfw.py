"""Labeled Faces in the Wild: whose face is it? (Huang et al. 2007): lfw:FOLDER with a folder per person."""

from dataclasses import dataclass
from pathlib import Path

import torch

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.randomness import generator
from expunge.core.registry import source
from expunge.data import _assemble, _pictures, image_files, splits
from expunge.data._assemble import FilesConfig
from expunge.data._pictures import CentreCrop, Decoding, Resize
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

SUFFIXES = (".jpg", ".jpeg")
TEST_SHARE = 0.2


@dataclass(frozen=True)
class LfwConfig(FilesConfig):
    """Options of Labeled Faces in the Wild."""

    path: str
    """The folder that holds a folder of .jpg images per person."""
    least: int = 30
    """Fewest images of a person who is a class; at least 5, of which one is in the test set."""
    most: int = 100
    """Most images of a person who is a class; 30 to 100 gives the 29 people of the published experiment."""
    crop: int = 224
    """Keep the central square of this many pixels on each side; the published images have 250."""
    size: int | None = None
    """Resize the square to this many pixels on each side; not resized by default."""
    seed: int = 0
    """Seed of the choice of test images."""

    def __post_init__(self) -> None:
        checks.at_least(5, least=self.least)
        checks.at_least(self.least, most=self.most)
        checks.at_least(1, crop=self.crop, size=self.size)


@source()
def load(config: LfwConfig, *, limits: Limits | None = None) -> Dataset:
    """Labeled Faces in the Wild: whose face is it? (Huang et al. 2007): lfw:FOLDER with a folder per person.

    Classes are the people with ``least`` to ``most`` images, in alphabetical order. The test set is a fifth of the
    images of each, drawn by ``seed``. Images are in RGB order and normalised by ImageNet's mean and deviation. (The
    code of arXiv:2404.01712 swaps red and blue and draws a fifth of all images; it turns training and test images by up
    to 30 degrees, which for training is ``augment=true,augmentation.rotation=30,augmentation.padding=0``.)

    Memory: 3 crop^2 bytes an image, 0.19 GB for the 1,230 images of the 29 people.

    Raises:
        RequestError: There is no class, or an image is damaged or smaller than the crop.
    """
    root = _assemble.existing_folder(config.path)
    people = _people(root, config)
    files = [(path, label) for label, paths in enumerate(people.values()) for path in paths]
    labels = torch.tensor([label for _, label in files])
    steps = (CentreCrop(config.crop), *(() if config.size is None else (Resize(config.size, bilinear=True),)))
    kept, held = (
        [files[index] for index in positions.tolist()]
        for positions in splits.class_balanced(labels, TEST_SHARE, generator(config.seed, "lfw", "test"))
    )
    train, test = (_pictures.of_files(part, root, Decoding(steps, colour=True)) for part in (kept, held))
    names = (image_files.names(kept, root), image_files.names(held, root))
    found = (train, test, tuple(people), names)
    return _assemble.from_folder(root, found, config, limits, _assemble.IMAGENET)


def _people(root: Path, config: LfwConfig) -> dict[str, list[Path]]:
    """The images of each person who is a class, people and images in alphabetical order."""
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and folder.name[0] != "."]
    everyone = {folder.name: _images(folder) for folder in folders}
    people = {name: found for name, found in everyone.items() if config.least <= len(found) <= config.most}
    if not people:
        richest = max((len(found) for found in everyone.values()), default=0)
        raise RequestError(
            f"{root} has no person with {config.least} to {config.most} images, the most being {richest}: change least "
            "and most, or name the folder that holds a folder of .jpg images per person"
        )
    unreadable = [name for name in people if not name.isprintable()]
    if unreadable:
        raise RequestError(f"{root}: the folder name {unreadable[0]!r} is no printable text in UTF-8: rename it")
    return people


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
