"""IDX files as MNIST has them, plain or .gz: idx:FOLDER."""

from expunge.core.registry import source
from expunge.data import _assemble, _idx
from expunge.data._assemble import FilesConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


class IdxConfig(FilesConfig):
    """A folder, and the use of its images."""


@source()
def load(config: IdxConfig, *, limits: Limits | None = None) -> Dataset:
    """IDX files as MNIST has them, plain or .gz: idx:FOLDER."""
    folder = _assemble.existing_folder(config.path)
    return _assemble.dataset(*_idx.read_folder(folder), folder, config=config, limits=limits)
