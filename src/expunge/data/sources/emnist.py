"""EMNIST: handwritten digits and letters, 28 x 28, grey (Cohen et al. 2017)."""

from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Literal

import numpy as np

from expunge.core.registry import source
from expunge.data import _assemble, _idx, _named
from expunge.data._assemble import Arrays
from expunge.data._named import NamedConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

MERGED = digits + ascii_uppercase + "abdefghnqrt"
"""The classes where lower-case letters that look like their capitals are merged with these."""
NAMES = {
    "byclass": digits + ascii_uppercase + ascii_lowercase,
    "bymerge": MERGED,
    "balanced": MERGED,
    "letters": ascii_lowercase,
    "digits": digits,
    "mnist": digits,
}


@dataclass(frozen=True)
class EmnistConfig(NamedConfig):
    """Options of EMNIST."""

    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"
    """The published set: 62, 47, 47, 26, 10 or 10 classes."""


@source()
def load(config: EmnistConfig, *, limits: Limits | None = None) -> Dataset:
    """EMNIST: handwritten digits and letters, 28 x 28, grey (Cohen et al. 2017).

    Read from emnist-SPLIT-train-images-idx3-ubyte and so on, plain or .gz. In these files images are transposed, and
    letters are numbered from 1: both are undone. Mean and deviation are those of the training images.
    """
    folder = _named.folder_of(("emnist",), config.root)
    folder = folder / "gzip" if (folder / "gzip").is_dir() else folder
    train, test = _idx.read_folder(folder, (f"emnist-{config.split}-train", f"emnist-{config.split}-test"))
    first = 1 if config.split == "letters" else 0
    return _assemble.dataset(
        _upright(train, first),
        _upright(test, first),
        folder,
        class_names=NAMES[config.split],
        config=config,
        limits=limits,
    )


def _upright(part: Arrays, first: int) -> Arrays:
    images, labels = part
    return np.ascontiguousarray(images.transpose(0, 2, 1)), labels.astype(np.int64) - first
