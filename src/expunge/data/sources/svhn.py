"""SVHN: digits of house numbers, 32 x 32, colour (Netzer et al. 2011)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _mat, _named
from expunge.data._assemble import Arrays, Found
from expunge.data._named import Layout, NamedConfig
from expunge.data._pictures import Reading
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

MEAN = (0.4377, 0.4438, 0.4728)
DEVIATIONS = {"measured": (0.1980, 0.2010, 0.1970), "salun": (0.1201, 0.1231, 0.1052)}
TRAIN, TEST = "train_32x32.mat", "test_32x32.mat"


@dataclass(frozen=True)
class SvhnConfig(NamedConfig):
    """Options of SVHN."""

    std: Literal["measured", "salun"] = "measured"
    """The deviation for normalisation: that of the training images, which Unlearn-Sparse uses too, or the one in the
    code of SalUn and its successors (RUM, Sharp MinMax, DualOptim)."""


@source()
def load(config: SvhnConfig, *, limits: Limits | None = None) -> Dataset:
    """SVHN: 73,257 and 26,032 digits of house numbers, 32 x 32, colour (Netzer et al. 2011).

    Read from train_32x32.mat and test_32x32.mat as published, or from Parquet files. Label 10 is the digit 0. There is
    no augmentation by default: a flip changes digits.
    """
    statistics = (MEAN, DEVIATIONS[config.std])
    layouts = (Layout(f"{TRAIN}", lambda folder: (folder / TRAIN).is_file(), _read), _named.PARQUET)
    return _named.load(("svhn",), config, statistics, limits, layouts)


def _read(folder: Path, _: Reading) -> Found:
    return _part(folder / TRAIN), _part(folder / TEST), tuple("0123456789"), ((), ())


def _part(path: Path) -> Arrays:
    """Images uint8 (n, 3, 32, 32) and labels 0..9 of a file that holds X (32, 32, 3, n) and y (n, 1), 1 to 10."""
    found = _mat.read(path)
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        raise RequestError(f"{path} holds no {' and no '.join(missing)}: it is no file of SVHN's cropped digits")
    images, labels = found["X"], found["y"].reshape(-1)
    images = images[..., None] if images.ndim == 3 else images  # MATLAB drops a last dimension of 1
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise RequestError(
            f"{path}: X should be uint8 (32, 32, 3, n) with one label each in y, got {images.dtype} {images.shape} and "
            f"{len(labels)} labels; {_mat.CURE}"
        )
    if not len(labels) or not np.isin(labels, np.arange(1, 11)).all():
        raise RequestError(f"{path}: y should hold the digits 1 to 10, where 10 is 0; {_mat.CURE}")
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10
