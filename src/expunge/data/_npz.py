"""The arrays of .npz files, which are zip archives of .npy files."""

import os
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data import _npy
from expunge.data._assemble import Array

CURE = "write it with numpy.savez, from plain arrays"


def read(path: Path, *wanted: tuple[str, ...]) -> list[Array]:
    """The arrays that are wanted, each by the first of its names that is there.

    Raises:
        RequestError: The file is missing or damaged, lacks an array, or holds anything but plain numbers.
    """
    with files.reading(path, CURE), files.opened(path, CURE) as file:
        if file.read(len(_npy.MAGIC)) == _npy.MAGIC:
            raise RequestError(f"{path} cannot be read as .npz: it is one bare array; write it with numpy.savez")
        with zipfile.ZipFile(file) as archive:
            return [_find(archive, names, path) for names in wanted or [(name,) for name in _members(archive)]]


def names(path: Path) -> list[str]:
    """The names of its arrays, in the order of the file."""
    with files.reading(path, CURE), files.opened(path, CURE) as file, zipfile.ZipFile(file) as archive:
        return [*_members(archive)]


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {member.filename.removesuffix(".npy"): member for member in archive.infolist()}


def _find(archive: zipfile.ZipFile, names: tuple[str, ...], path: Path) -> Array:
    members = _members(archive)
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
