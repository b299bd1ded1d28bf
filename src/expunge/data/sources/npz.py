"""Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble
from expunge.data._assemble import Array
from expunge.data.dataset import Dataset

NAMES = (("train_images", "x_train"), ("train_labels", "y_train"), ("test_images", "x_test"), ("test_labels", "y_test"))


@dataclass(frozen=True)
class NpzConfig:
    """A file, and the use of its images."""

    path: str
    """The .npz file; images (n, height, width), or with 1 or 3 channels last or first, uint8 or float."""
    augment: bool = False
    """Random crop and flip of training batches."""


@source()
def load(config: NpzConfig) -> Dataset:
    """Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels."""
    path = Path(config.path)
    try:
        with _open(path) as arrays:
            images, labels, test_images, test_labels = (_find(arrays, names, path) for names in NAMES)
    except RequestError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"{path} cannot be read as .npz of plain arrays: {error}") from error
    return _assemble.dataset((images, labels), (test_images, test_labels), path, augment=config.augment)


def _open(path: Path) -> "np.lib.npyio.NpzFile":
    opened = np.load(path, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise RequestError(f"{path} cannot be read as .npz: it is one bare array; write it with numpy.savez")
    return opened


def _find(arrays: "np.lib.npyio.NpzFile", names: tuple[str, ...], path: Path) -> Array:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise RequestError(f"{path} holds no array {' or '.join(names)}, only {', '.join(arrays) or 'nothing'}")
