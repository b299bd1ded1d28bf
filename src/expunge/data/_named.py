"""Data sets with a name, in any layout, with their published statistics."""

import os
from dataclasses import dataclass
from pathlib import Path

from expunge.core.errors import RequestError
from expunge.data import _assemble, _cifar_batches, _idx, _parquet
from expunge.data._assemble import Statistics
from expunge.data.dataset import Dataset

VARIABLE = "EXPUNGE_DATA"


@dataclass(frozen=True)
class NamedConfig:
    """The folder of a data set with a name, and the augmentation of its images."""

    root: str = ""
    """The parent of the data set's folder; by default the environment variable EXPUNGE_DATA."""
    augment: bool = False
    """Random crop and flip of training batches."""


def load(name: str, config: NamedConfig, statistics: Statistics) -> Dataset:
    """Load a data set from Parquet files, IDX files or python batches.

    Raises:
        RequestError: No folder is given, or it is missing or contains none of these.
    """
    root = config.root or os.environ.get(VARIABLE, "")
    if not root:
        raise RequestError(f"{name}: set {VARIABLE} to the folder that holds {name}/, or write {name}:FOLDER")
    folder = Path(root) / name
    if not folder.is_dir():
        raise RequestError(f"{name}: there is no folder {folder}; {VARIABLE} should name the folder that holds {name}/")
    for reader in (_parquet, _idx, _cifar_batches):
        if reader.present(folder):
            return _assemble.from_folder(folder, reader.read_folder, augment=config.augment, statistics=statistics)
    raise RequestError(f"{folder} holds no Parquet files, no IDX files and no python batches")
