"""Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _npy
from expunge.data._assemble import Array, FilesConfig
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

NAMES = (("train_images", "x_train"), ("train_labels", "y_train"), ("test_images", "x_test"), ("test_labels", "y_test"))
CURE = "write it with numpy.savez, from plain arrays"


@dataclass(frozen=True)
class NpzConfig(FilesConfig):
    """A file, and the use of its images."""

    path: str
    """The .npz file; images (n, height, width), or with 1 or 3 channels last or first, uint8 or float."""


@source()
def load(config: NpzConfig, *, limits: Limits | None = None) -> Dataset:
    """Arrays in one .npz file: npz:FILE with train_images, train_labels, test_images, test_labels."""
    path = Path(config.path)
    with files.reading(path, CURE), files.opened(path, CURE) as file:
        if file.read(len(_npy.MAGIC)) == _npy.MAGIC:
            raise RequestError(f"{path} cannot be read as .npz: it is one bare array; write it with numpy.savez")
        with zipfile.ZipFile(file) as archive:
            images, labels, test_images, test_labels = (_find(archive, names, path) for names in NAMES)
    return _assemble.dataset((images, labels), (test_images, test_labels), path, config=config, limits=limits)


def _find(archive: zipfile.ZipFile, names: tuple[str, ...], path: Path) -> Array:
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    for name in names:
        if name in members:
            return _read(archive, members[name], f"{path}, array {name},")
    there = ", ".join([*members][:20]) or "nothing"
    raise RequestError(f"{path} holds no array {' or '.join(names)}, only {there}")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Array:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise RequestError(f"{where} cannot be read: it is compressed in a way that numpy does not use; {CURE}")
    most = files.DEFLATE * min(member.compress_size, os.fstat(cast("BinaryIO", archive.fp).fileno()).st_size)
    if member.file_size > most:
        raise RequestError(f"{where} cannot be read: it says that it is larger than it can be; {CURE}")
    with archive.open(member) as file:
        return _npy.read(cast("BinaryIO", file), member.file_size, where)
