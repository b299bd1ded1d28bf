"""Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER."""

from dataclasses import dataclass

from expunge.core.registry import source
from expunge.data import _assemble, _parquet
from expunge.data.dataset import Dataset


@dataclass(frozen=True)
class ParquetConfig:
    """Which folder, and how its images are used."""

    path: str
    """The folder that holds the files."""
    augment: bool = False
    """Random crop and flip of training batches."""


@source()
def load(config: ParquetConfig) -> Dataset:
    """Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER."""
    folder = _assemble.existing_folder(config.path)
    train, test, names = _parquet.read_folder(folder)
    return _assemble.dataset(train, test, folder, class_names=names, augment=config.augment)
