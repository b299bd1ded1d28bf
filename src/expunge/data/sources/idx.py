"""IDX files as MNIST has them, plain or .gz: idx:FOLDER."""

from expunge.core.registry import source
from expunge.data import _assemble, _idx
from expunge.data._assemble import FilesConfig
from expunge.data.dataset import Dataset


class IdxConfig(FilesConfig):
    """A folder, and the use of its images."""


@source()
def load(config: IdxConfig) -> Dataset:
    """IDX files as MNIST has them, plain or .gz: idx:FOLDER."""
    return _assemble.from_folder(_assemble.existing_folder(config.path), _idx.read_folder, augment=config.augment)
