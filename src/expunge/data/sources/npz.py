"""Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels."""

from dataclasses import dataclass
from pathlib import Path

from expunge.core.registry import source
from expunge.data import _assemble, _npz
from expunge.data._assemble import FilesConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

NAMES = (("train_images", "x_train"), ("train_labels", "y_train"), ("test_images", "x_test"), ("test_labels", "y_test"))


@dataclass(frozen=True)
class NpzConfig(FilesConfig):
    """A file, and the use of its images."""

    path: str
    """The .npz file; images (n, height, width), or with 1 or 3 channels last or first, uint8 or float."""


@source()
def load(config: NpzConfig, *, limits: Limits | None = None) -> Dataset:
    """Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels."""
    path = Path(config.path)
    images, labels, test_images, test_labels = _npz.read(path, *NAMES)
    return _assemble.dataset((images, labels), (test_images, test_labels), path, config=config, limits=limits)
