"""Arrays of numbers in numpy's .npy format (numpy.lib.format), whose headers are matched and not evaluated."""

import math
import re
from typing import BinaryIO

import numpy as np

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.data._assemble import Array

MAGIC = b"\x93NUMPY"
CURE = "write it anew with numpy"
_LONGEST = 10_000


def read(file: BinaryIO, size: int, where: object) -> Array:
    """The array in an open .npy file that has, or says that it has, ``size`` bytes.

    Raises:
        RequestError: It holds no array of plain numbers, or more or fewer bytes than its header says.
    """
    kind, shape, fortran, start = _header(file, where)
    wanted = start + kind.itemsize * math.prod(shape)
    if size != wanted:
        raise RequestError(f"{where} cannot be read: it holds {size} bytes where its header says {wanted}; {CURE}")
    files.check_room(wanted, where)
    array = np.empty(math.prod(shape), kind)
    if files.fill(file, array) != array.nbytes or file.read(1):
        raise RequestError(f"{where} cannot be read: it holds fewer or more bytes than its header says; {CURE}")
    return array.reshape(shape, order="F" if fortran else "C")


def _header(file: BinaryIO, where: object) -> tuple[np.dtype[np.generic], tuple[int, ...], bool, int]:
    """The type, the shape, whether the first index is the fastest, and where the numbers begin."""
    start = file.read(8)
    wide = 2 if start[6:7] == b"\x01" else 4
    length = int.from_bytes(file.read(wide), "little")
    if start[:6] != MAGIC or start[6:7] not in (b"\x01", b"\x02", b"\x03") or length > _LONGEST:
        raise RequestError(f"{where} cannot be read: it is no .npy array; {CURE}")
    text = file.read(length).decode("latin1")
    kind = re.search(r"""['"]descr['"]\s*:\s*['"]([<>|=]?[biufSU]\d{1,4})['"]""", text)
    order = re.search(r"""['"]fortran_order['"]\s*:\s*(True|False)""", text)
    sizes = re.search(r"""['"]shape['"]\s*:\s*\(((?:\s*\d{1,18}L?\s*,)*(?:\s*\d{1,18}L?)?)\s*\)""", text)
    if not (kind and order and sizes):
        raise RequestError(f"{where} cannot be read: it is no array of plain numbers; {CURE}")
    try:
        found = np.dtype(kind[1])
    except TypeError:
        raise RequestError(f"{where} cannot be read: there are no numbers of type {kind[1]}; {CURE}") from None
    shape = tuple(int(each) for each in re.findall(r"\d+", sizes[1]))
    if len(shape) > 8:
        raise RequestError(f"{where} cannot be read: an array of {len(shape)} dimensions holds no images or labels")
    return found, shape, order[1] == "True", 8 + wide + length
