"""Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png, or ROOT/CLASS/*."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _pictures, image_files
from expunge.data.dataset import Dataset
from expunge.data.names import held_out

IMAGES = "images"
Labelled = list[tuple[Path, int]]


@dataclass(frozen=True)
class FolderConfig:
    """A folder, and the use of its images."""

    path: str
    """The folder that holds train/ and test/, each with one folder of images per class, or these folders themselves."""
    size: int | None = None
    """Resize every image to this many pixels on each side; by default all must have one size."""
    augment: bool = False
    """Random crop and flip of training batches."""
    test: float = 0.2
    """Share of the images in the test set where there are no folders train/ and test/: about so many, chosen by a hash
    of the name, so that other images that come or go change nothing."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)
        if not 0 < self.test < 1:
            raise RequestError(f"test must be a share between 0 and 1, got {self.test}")


@source()
def load(config: FolderConfig) -> Dataset:
    """Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png, or ROOT/CLASS/*.

    The images of a class may also be in CLASS/images/, as in Tiny-ImageNet. Without ROOT/test, the test set is a share
    of the images. The name of an image is its path within ROOT.

    Raises:
        RequestError: A folder is missing or empty, a test class has no training images, two names differ in case
            alone, or an image is damaged.
    """
    root, classes, *parts = listed(config)
    names = tuple(image_files.names(part, root) for part in parts)
    prepare = None if config.size is None else partial(_pictures.resized, size=config.size)
    train, test = (_pictures.read_files(part, root, prepare) for part in parts)
    return _assemble.dataset(train, test, root, class_names=classes, augment=config.augment, names=(names[0], names[1]))


def listed(config: FolderConfig) -> tuple[Path, list[str], Labelled, Labelled]:
    """Return the folder, its classes, and its training and test images, none of which is read.

    Raises:
        RequestError: A folder is missing or empty, or a test class has no training images.
    """
    root = _assemble.existing_folder(config.path)
    classes, train, test = _divided(root) if (root / "test").is_dir() else _by_name(root, config.test)
    for part, which in zip((train, test), ("training", "test"), strict=True):
        if not part:
            raise RequestError(
                f"{root} holds no {which} images: put them into CLASS/ or CLASS/{IMAGES}/, or change test"
            )
    return root, classes, train, test


def _divided(root: Path) -> tuple[list[str], Labelled, Labelled]:
    """The classes, the training and the test images of train/ and test/."""
    _assemble.existing_folder(str(root / "train"))
    names = _classes(root / "train")
    extra = set(_classes(root / "test")) - set(names)
    if extra == {IMAGES}:
        raise RequestError(
            f"{root / 'test' / IMAGES} holds images without classes, as Tiny-ImageNet's test/ does: put images into "
            f"{root / 'test'}, one folder per class, such as those of val/ by its val_annotations.txt"
        )
    if extra:
        raise RequestError(f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(sorted(extra))}")
    return names, _labelled(root / "train", names), _labelled(root / "test", names)


def _by_name(root: Path, share: float) -> tuple[list[str], Labelled, Labelled]:
    """The classes and all images of a folder, or of its folder train/ if that is the only one, split by name."""
    folder = root / "train" if _classes(root) == ["train"] else root
    classes = _classes(folder)
    files = _labelled(folder, classes)
    held = [held_out(name, share) for name in image_files.names(files, root)]
    train, test = ([file for file, aside in zip(files, held, strict=True) if aside is side] for side in (False, True))
    return classes, train, test


def _classes(root: Path) -> list[str]:
    """The class folders in alphabetical order, without hidden ones.

    Raises:
        RequestError: One is a symbolic link to a folder that it is in.
    """
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for path in found:
        if path.is_symlink() and root.resolve().is_relative_to(path.resolve()):
            raise RequestError(f"{path} is a symbolic link to a folder that it is in: remove it")
    return [path.name for path in found]


def _pictures_of(folder: Path) -> list[Path]:
    """The image files of a class, in its folder or in the folder ``images`` within, as in Tiny-ImageNet."""
    there = [*folder.glob("*"), *folder.glob(f"{IMAGES}/*")]
    return sorted(
        path for path in there if path.suffix.lower() in image_files.SUFFIXES and not path.name.startswith(".")
    )


def _labelled(root: Path, classes: list[str]) -> Labelled:
    return [(path, label) for label, name in enumerate(classes) for path in _pictures_of(root / name)]
