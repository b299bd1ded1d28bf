"""Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER."""

from expunge.core.registry import source
from expunge.data import _assemble, _parquet
from expunge.data._assemble import FilesConfig
from expunge.data.dataset import Dataset


class ParquetConfig(FilesConfig):
    """A folder, and the use of its images."""


@source()
def load(config: ParquetConfig) -> Dataset:
    """Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER."""
    return _assemble.from_folder(_assemble.existing_folder(config.path), _parquet.read_folder, augment=config.augment)
