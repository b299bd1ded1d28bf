"""Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png, or ROOT/CLASS/*."""

from dataclasses import dataclass
from pathlib import Path

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _folders, _pictures, image_files
from expunge.data._assemble import FilesConfig
from expunge.data._folders import IMAGES, Labelled
from expunge.data._pictures import Decoding, Unreadable
from expunge.data.dataset import Dataset
from expunge.data.names import held_out
from expunge.data.splits import Limits

TESTS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class FolderConfig(FilesConfig):
    """A folder, and the use of its images."""

    path: str
    """The folder that holds train/ and test/ (or val/), each with one folder of images per class, or these folders
    themselves."""
    size: int | None = None
    """Resize every image to this many pixels on each side; by default all must have one size."""
    unreadable: Unreadable = "refuse"
    """What is done about images that cannot be decoded: refuse, or skip (and count them)."""
    test: float = 0.2
    """Share of the images in the test set where there are no folders train/ and test/: about so many, chosen by a hash
    of the name, so that other images that come or go change nothing."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)
        if not 0 < self.test < 1:
            raise RequestError(f"test must be a share between 0 and 1, got {self.test}")


@source()
def load(config: FolderConfig, *, limits: Limits | None = None) -> Dataset:
    """Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png, or ROOT/CLASS/*.

    The images of a class may also be in CLASS/images/, as in Tiny-ImageNet. The test set is the folder test, or else
    val, valid or validation, and may lack classes; without any, it is a share of the images. The name of an image is
    its path within ROOT. If some images are grey and some are in colour, all become RGB.

    Raises:
        RequestError: A folder is missing or empty, a test class has no training images, two names differ in case
            alone, or an image is damaged.
    """
    root, classes, *parts = listed(config)
    names = tuple(image_files.names(part, root) for part in parts)
    decoding = Decoding(_pictures.sized(config.size), unreadable=config.unreadable)
    train, test = (_pictures.of_files(part, root, decoding) for part in parts)
    return _assemble.from_folder(root, (train, test, tuple(classes), (names[0], names[1])), config, limits)


def listed(config: FolderConfig) -> tuple[Path, list[str], Labelled, Labelled]:
    """Return the folder, its classes, and its training and test images, none of which is read.

    Raises:
        RequestError: A folder is missing or empty, or a test class has no training images.
    """
    root = _assemble.existing_folder(config.path)
    tests = [root / name for name in TESTS if (root / name).is_dir()]
    divided = tests and ((root / "train").is_dir() or tests[0].name == "test")
    classes, train, test = _divided(root, tests[0]) if divided else _by_name(root, config.test)
    for part, which in ((train, "training"), (test, "test")):
        if not part:
            raise RequestError(
                f"{root} holds no {which} images: put them into CLASS/ or CLASS/{IMAGES}/, or change test"
            )
    return root, classes, train, test


def _divided(root: Path, test: Path) -> tuple[list[str], Labelled, Labelled]:
    """The classes, the training and the test images of train/ and test/."""
    train = _assemble.existing_folder(str(root / "train"))
    names = _folders.classes(train)
    _folders.check_known(test, train, names)
    return names, _folders.labelled(train, names), _folders.labelled(test, names)


def _by_name(root: Path, share: float) -> tuple[list[str], Labelled, Labelled]:
    """The classes and all images of a folder, or of its folder train/ if that is the only one, split by name."""
    folder = root / "train" if _folders.classes(root) == ["train"] else root
    classes = _folders.classes(folder)
    files = _folders.labelled(folder, classes)
    held = [held_out(name, share) for name in image_files.names(files, root)]
    train, test = ([file for file, aside in zip(files, held, strict=True) if aside is side] for side in (False, True))
    return classes, train, test
