"""Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expunge.core.registry import source
from expunge.data import _assemble, _npz
from expunge.data._assemble import Array, FilesConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

NAMES = (("train_images", "x_train"), ("train_labels", "y_train"), ("test_images", "x_test"), ("test_labels", "y_test"))
EXAMPLES = ("train_names", "test_names")


@dataclass(frozen=True)
class NpzConfig(FilesConfig):
    """A file, and the use of its images."""

    path: str
    """The .npz file; images (n, height, width), or with 1 or 3 channels last or first, uint8 or float."""


@source()
def load(config: NpzConfig, *, limits: Limits | None = None) -> Dataset:
    """Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels.

    ``train_names`` and ``test_names`` may hold the names of the images, as text or whole numbers.
    """
    path = Path(config.path)
    images, labels, test_images, test_labels = _npz.read(path, *NAMES)
    there = _npz.names(path)
    given = [_npz.read(path, (name,))[0] if name in there else np.array([]) for name in EXAMPLES]
    names = _assemble.usable((_texts(given[0]), _texts(given[1])))
    return _assemble.dataset(
        (images, labels), (test_images, test_labels), path, config=config, names=names, limits=limits
    )


def _texts(names: Array) -> tuple[str, ...]:
    """The names of examples in an array of text or of whole numbers."""
    return tuple(str(name.decode() if isinstance(name, bytes) else name) for name in names.tolist())
