"""Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _pictures
from expunge.data._assemble import Arrays
from expunge.data.dataset import Dataset

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
IMAGES = "images"


@dataclass(frozen=True)
class FolderConfig:
    """A folder, and the use of its images."""

    path: str
    """The folder that holds train/ and test/, each with one folder of images per class."""
    size: int | None = None
    """Resize every image to this many pixels on each side; by default all must have one size."""
    augment: bool = False
    """Random crop and flip of training batches."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)


@source()
def load(config: FolderConfig) -> Dataset:
    """Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png.

    The images of a class may also be in CLASS/images/, as in Tiny-ImageNet.

    Raises:
        RequestError: A folder is missing or empty, a test class has no training images, or an image is damaged.
    """
    root = _assemble.existing_folder(config.path)
    for split in ("train", "test"):
        _assemble.existing_folder(str(root / split))
    names = _classes(root / "train")
    extra = set(_classes(root / "test")) - set(names)
    if extra == {IMAGES}:
        raise RequestError(
            f"{root / 'test' / IMAGES} holds images without classes, as Tiny-ImageNet's test/ does: put images into "
            f"{root / 'test'}, one folder per class, such as those of val/ by its val_annotations.txt"
        )
    if extra:
        raise RequestError(f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(sorted(extra))}")
    train, test = (_read(root / split, names, config.size) for split in ("train", "test"))
    return _assemble.dataset(train, test, root, class_names=names, augment=config.augment)


def _classes(root: Path) -> list[str]:
    """The class folders in alphabetical order, without hidden ones."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures_of(folder: Path) -> list[Path]:
    """The image files of a class, in its folder or in the folder ``images`` within, as in Tiny-ImageNet."""
    there = [*folder.glob("*"), *folder.glob(f"{IMAGES}/*")]
    return sorted(path for path in there if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _read(root: Path, names: list[str], size: int | None) -> Arrays:
    files = [(path, label) for label, name in enumerate(names) for path in _pictures_of(root / name)]
    if not files:
        raise RequestError(f"{root} holds no images: put them into {root}/CLASS/ or {root}/CLASS/{IMAGES}/")
    return _pictures.read_files(files, root, None if size is None else partial(_pictures.resized, size=size))
