"""Sets known by name: found in the data folder in any layout, with their published statistics."""

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
    """Where a set known by name is looked for, and how its images are used."""

    root: str = ""
    """The folder that holds the set's own folder; that of the environment variable EXPUNGE_DATA by default."""
    augment: bool = False
    """Random crop and flip of training batches."""


def folder_of(name: str, config: NamedConfig) -> Path:
    """The folder of a named set.

    Raises:
        RequestError: It does not exist, or no folder is given.
    """
    root = config.root or os.environ.get(VARIABLE, "")
    if not root:
        raise RequestError(f"{name}: set {VARIABLE} to the folder that holds {name}/, or write {name}:FOLDER")
    folder = Path(root) / name
    if not folder.is_dir():
        raise RequestError(f"{name}: there is no folder {folder}; {VARIABLE} should name the folder that holds {name}/")
    return folder


def load(name: str, config: NamedConfig, statistics: Statistics) -> Dataset:
    """The named set, in whichever layout its folder has: Parquet, IDX or python batches."""
    folder = folder_of(name, config)
    names: tuple[str, ...] = ()
    if _parquet.present(folder):
        train, test, names = _parquet.read_folder(folder)
    elif _idx.present(folder):
        train, test = _idx.read_folder(folder)
    elif _cifar_batches.present(folder):
        train, test, names = _cifar_batches.read_folder(folder)
    else:
        raise RequestError(f"{folder} holds no Parquet files, no IDX files and no python batches")
    return _assemble.dataset(train, test, folder, class_names=names, augment=config.augment, statistics=statistics)
