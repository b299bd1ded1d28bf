"""Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png."""

from dataclasses import dataclass

from expunge.core import checks
from expunge.core.registry import source
from expunge.data import _assemble, _folders, _pictures
from expunge.data._assemble import FilesConfig
from expunge.data._pictures import Decoding, Unreadable
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

TESTS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class FolderConfig(FilesConfig):
    """A folder, and the use of its images."""

    path: str
    """The folder that holds train/ and test/ (or val/), each with one folder of images per class."""
    size: int | None = None
    """Resize every image to this many pixels on each side; by default all must have one size."""
    unreadable: Unreadable = "refuse"
    """What is done about images that cannot be decoded: refuse, or skip (and count them)."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)


@source()
def load(config: FolderConfig, *, limits: Limits | None = None) -> Dataset:
    """Image folders: folder:ROOT with ROOT/train/CLASS/*.png (or .jpg, ...) and ROOT/test/CLASS/*.png.

    The images of a class may also be in CLASS/images/, as in Tiny-ImageNet. The test set is the folder test, or else
    val, valid or validation; it may lack classes. If some images are grey and some are in colour, all become RGB.

    Raises:
        RequestError: A folder is missing or empty, a test class has no training images, or an image is damaged.
    """
    root = _assemble.existing_folder(config.path)
    train = _assemble.existing_folder(str(root / "train"))
    tests = [root / name for name in TESTS if (root / name).is_dir()]
    test = tests[0] if tests else _assemble.existing_folder(str(root / TESTS[0]))
    names = _folders.classes(train)
    _folders.check_known(test, train, names)
    decoding = Decoding(_pictures.sized(config.size), unreadable=config.unreadable)
    parts = [_pictures.of_files(_folders.labelled(each, names), each, decoding) for each in (train, test)]
    return _assemble.dataset(parts[0], parts[1], root, class_names=names, config=config, limits=limits)
