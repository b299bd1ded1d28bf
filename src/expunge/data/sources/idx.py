"""IDX files as MNIST has them, plain or .gz: idx:FOLDER."""

from dataclasses import dataclass

from expunge.core.registry import source
from expunge.data import _assemble, _idx
from expunge.data.dataset import Dataset


@dataclass(frozen=True)
class IdxConfig:
    """Which folder, and how its images are used."""

    path: str
    """The folder that holds the files."""
    augment: bool = False
    """Random crop and flip of training batches."""


@source()
def load(config: IdxConfig) -> Dataset:
    """IDX files as MNIST has them, plain or .gz: idx:FOLDER."""
    folder = _assemble.existing_folder(config.path)
    train, test = _idx.read_folder(folder)
    return _assemble.dataset(train, test, folder, augment=config.augment)
