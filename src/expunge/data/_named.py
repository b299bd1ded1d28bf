"""Data sets with a name, in any layout, with their published statistics."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.errors import RequestError
from expunge.data import _assemble, _cifar_batches, _idx, _parquet
from expunge.data._assemble import Found, Statistics
from expunge.data._pictures import USUAL, Reading
from expunge.data.augment import Augmentation
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

VARIABLE = "EXPUNGE_DATA"


@dataclass(frozen=True)
class NamedConfig:
    """The folder of a data set with a name, and the augmentation of its images."""

    root: str = ""
    """The parent of the data set's folder; by default the environment variable EXPUNGE_DATA."""
    augment: bool = False
    """Augment training batches, by a random crop and flip unless ``augmentation`` says otherwise."""
    augmentation: Augmentation = Augmentation()
    """What is drawn at random: ``augmentation.rotation=30``, ``augmentation.operations=2``, ..."""


@dataclass(frozen=True)
class Layout:
    """One layout on disk."""

    what: str
    present: Callable[[Path], bool]
    read: Callable[[Path, Reading], Found]


def _idx_folder(folder: Path, _: Reading) -> Found:
    return (*_idx.read_folder(folder), (), ((), ()))


def _batches(folder: Path, options: Reading) -> Found:
    return _cifar_batches.read_folder(folder, "coarse" if options.label == "coarse_label" else "fine")


PARQUET = Layout("Parquet files", _parquet.present, _parquet.read_folder)
IDX = Layout("IDX files", _idx.present, _idx_folder)
BATCHES = Layout("python batches", _cifar_batches.present, _batches)


def folder_of(names: Sequence[str], root: str) -> Path:
    """The folder of a data set, under the first of its names that is there.

    Raises:
        RequestError: No parent is given, or it holds no such folder.
    """
    name, root = names[0], root or os.environ.get(VARIABLE, "")
    if not root:
        raise RequestError(f"{name}: set {VARIABLE} to the folder that holds {name}/, or write {name}:FOLDER")
    for each in names:
        if (Path(root) / each).is_dir():
            return Path(root) / each
    folder = Path(root) / name
    raise RequestError(f"{name}: there is no folder {folder}; {VARIABLE} should name the folder that holds {name}/")


def load(
    names: Sequence[str],
    config: NamedConfig,
    statistics: Statistics,
    limits: Limits | None,
    layouts: Sequence[Layout] = (PARQUET, IDX, BATCHES),
    options: Reading = USUAL,
) -> Dataset:
    """Load a data set from the first of these layouts that its folder has.

    Raises:
        RequestError: No folder is given, or it is missing or has none of these layouts.
    """
    folder = folder_of(names, config.root)
    for layout in layouts:
        if layout.present(folder):
            found = layout.read(folder, options)
            return _assemble.from_folder(folder, found, config, limits, statistics)
    raise RequestError(f"{folder} holds no {', no '.join(layout.what for layout in layouts)}")
