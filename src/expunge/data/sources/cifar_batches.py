"""The original python batches of CIFAR-10 or CIFAR-100, read without executing them: cifar_batches:FOLDER."""

from expunge.core.registry import source
from expunge.data import _assemble, _cifar_batches
from expunge.data._assemble import FilesConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits


class CifarBatchesConfig(FilesConfig):
    """A folder, and the use of its images."""


@source()
def load(config: CifarBatchesConfig, *, limits: Limits | None = None) -> Dataset:
    """The original python batches of CIFAR-10 or CIFAR-100, read without executing them: cifar_batches:FOLDER."""
    folder = _assemble.existing_folder(config.path)
    return _assemble.from_folder(folder, _cifar_batches.read_folder(folder), config, limits)
