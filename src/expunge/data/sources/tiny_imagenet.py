"""Tiny-ImageNet: photographs of 64 x 64 in 200 classes (Le & Yang 2015)."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from expunge.core import checks, files
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _folders, _named, _pictures, image_files
from expunge.data._assemble import Found
from expunge.data._folders import IMAGES, Labelled
from expunge.data._named import Layout, NamedConfig
from expunge.data._pictures import Decoding, Reading, Unreadable
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

ANNOTATIONS = "val_annotations.txt"
CURE = "unpack the archive again"


@dataclass(frozen=True)
class TinyImagenetConfig(NamedConfig):
    """Options of Tiny-ImageNet."""

    augment: bool = True
    size: int | None = None
    """Resize every image to this many pixels on each side, as in recipes for networks that are trained on 224."""
    as_released: bool = False
    """As the original repositories read it: without the last training and the last test image, the test set being the
    half of the validation images that they have moved to test/."""
    unreadable: Unreadable = "refuse"
    """What is done about images that cannot be decoded: refuse, or skip (and count them)."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)


@source()
def load(config: TinyImagenetConfig, *, limits: Limits | None = None) -> Dataset:
    """Tiny-ImageNet: 100,000 and 10,000 photographs of 64 x 64 in 200 classes (Le & Yang 2015).

    Read from tiny-imagenet-200/ as it is unpacked, as the original repositories leave it (half of val/ moved to test/;
    both halves are the test set here), or from Parquet files with the splits train and valid. The test set is the
    validation part, in the order of its numbers, as labels of the test images are not published. Classes are numbered
    in the order of their sorted names.

    Memory: 3 size^2 bytes an image: 1.4 GB at 64 pixels, 17 GB at 224.
    """
    layouts = (
        Layout("train/ with a folder per class", _present, partial(_read, as_released=config.as_released)),
        _named.PARQUET,
    )
    decoding = Decoding(_pictures.sized(config.size), colour=True, unreadable=config.unreadable)
    names = ("tiny_imagenet", "tiny-imagenet-200")
    return _named.load(names, config, _assemble.IMAGENET, limits, layouts, Reading(decoding))


def _present(folder: Path) -> bool:
    return (folder / "train").is_dir() and not any((folder / "train").glob("*.parquet"))


def _read(folder: Path, options: Reading, as_released: bool) -> Found:
    names = _folders.classes(folder / "train")
    train = _folders.labelled(folder / "train", names)
    unpacked = (folder / "val" / ANNOTATIONS).is_file() and (folder / "val" / IMAGES).is_dir()
    if as_released and unpacked:
        raise RequestError(
            f"{folder}: the split of the original repositories is made when they first read the folder, in the order "
            "of the file system: give a folder that they have changed, or as_released=false"
        )
    test = _annotated(folder / "val", names) if unpacked else _moved(folder, names, as_released)
    train, test = (train[:-1], test[:-1]) if as_released else (train, test)
    parts = (_pictures.of_files(train, folder, options.decoding), _pictures.of_files(test, folder, options.decoding))
    return (*parts, tuple(names), (image_files.names(train, folder), image_files.names(test, folder)))


def _annotated(val: Path, names: list[str]) -> Labelled:
    """The validation images as published: a list of file, class and box."""
    found: Labelled = []
    numbers = {name: label for label, name in enumerate(names)}
    for number, line in enumerate(files.text(val / ANNOTATIONS, CURE).splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in numbers or not re.fullmatch(r"[\w.-]+", fields[0]):
            raise RequestError(
                f"{val / ANNOTATIONS}, line {number} should hold a file, a tab and a class of train/: {CURE}"
            )
        found.append((val / IMAGES / fields[0], numbers[fields[1]]))
    return sorted(found, key=_number)


def _moved(folder: Path, names: list[str], only_test: bool) -> Labelled:
    """The validation images in folders per class, as the original repositories leave them in val/ and test/."""
    parts = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    if not parts:
        raise RequestError(f"{folder} holds no val/ and no test/: {CURE}")
    for part in parts:
        _folders.check_known(part, folder / "train", names)
    if only_test:
        return _folders.labelled(parts[0], names)
    return sorted((file for part in parts for file in _folders.labelled(part, names)), key=_number)


def _number(file: tuple[Path, int]) -> tuple[int, str]:
    """The number in a file's name, by which validation images are ordered."""
    digits = re.search(r"\d+", file[0].name)
    return (int(digits[0]) if digits else 0, file[0].name)
