"""Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER."""

from expunge.core.registry import source
from expunge.data import _assemble, _parquet
from expunge.data._assemble import FilesConfig
from expunge.data.dataset import Dataset


class ParquetConfig(FilesConfig):
    """Which folder, and how its images are used."""


@source()
def load(config: ParquetConfig) -> Dataset:
    """Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER."""
    folder = _assemble.existing_folder(config.path)
    train, test, names = _parquet.read_folder(folder)
    return _assemble.dataset(train, test, folder, class_names=names, augment=config.augment)
