"""Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER."""

from dataclasses import dataclass

from expunge.core import checks
from expunge.core.registry import source
from expunge.data import _assemble, _parquet, _pictures
from expunge.data._assemble import FilesConfig
from expunge.data._pictures import Decoding, Reading, Unreadable
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


@dataclass(frozen=True)
class ParquetConfig(FilesConfig):
    """A folder, and the use of its images."""

    image: str = ""
    """The column of images; by default img or image."""
    label: str = ""
    """The column of labels, numbers or text; by default label, labels or fine_label."""
    size: int | None = None
    """Resize every image to this many pixels on each side; by default all must have one size."""
    unreadable: Unreadable = "refuse"
    """What is done about images that cannot be decoded: refuse, or skip (and count them)."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size)


@source()
def load(config: ParquetConfig, *, limits: Limits | None = None) -> Dataset:
    """Parquet files in the Hugging Face schema, train*.parquet and test*.parquet: parquet:FOLDER.

    The test set is the split test, or else valid or validation.
    """
    folder = _assemble.existing_folder(config.path)
    decoding = Decoding(_pictures.sized(config.size), unreadable=config.unreadable)
    found = _parquet.read_folder(folder, Reading(decoding, config.image, config.label))
    return _assemble.from_folder(folder, found, config, limits)
