"""Image files in a folder per class."""

from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import RequestError
from expunge.data import image_files

IMAGES = "images"
Labelled = list[tuple[Path, int]]
"""Files with the numbers of their classes."""


def classes(root: Path) -> list[str]:
    """The class folders in alphabetical order, without hidden ones.

    Raises:
        RequestError: One is a symbolic link to a folder that it is in.
    """
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for path in found:
        if path.is_symlink() and root.resolve().is_relative_to(path.resolve()):
            raise RequestError(f"{path} is a symbolic link to a folder that it is in: remove it")
    return [path.name for path in found]


def pictures_of(folder: Path) -> list[Path]:
    """The image files of a class, in its folder or in the folder ``images`` within, as in Tiny-ImageNet."""
    there = [*folder.glob("*"), *folder.glob(f"{IMAGES}/*")]
    suffixes = image_files.SUFFIXES
    return sorted(path for path in there if path.suffix.lower() in suffixes and not path.name.startswith("."))


def labelled(root: Path, names: Sequence[str]) -> Labelled:
    """The image files of these classes, by class and then by path."""
    return [(path, label) for label, name in enumerate(names) for path in pictures_of(root / name)]


def check_known(root: Path, train: Path, names: Sequence[str]) -> None:
    """Raise a RequestError if a test folder has classes that the training folder lacks."""
    extra = set(classes(root)) - set(names)
    if extra == {IMAGES}:
        raise RequestError(
            f"{root / IMAGES} holds images without classes, as Tiny-ImageNet's test/ does: put images into "
            f"{root}, one folder per class, or read Tiny-ImageNet by tiny_imagenet, which knows val_annotations.txt"
        )
    if extra:
        raise RequestError(f"{root} has classes that {train} lacks: {', '.join(sorted(extra))}")
