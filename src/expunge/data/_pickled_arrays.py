"""Pickled dictionaries of arrays, read without executing anything in the pickle.

Only opcodes that build plain data are accepted. The numpy names that arrays need are replaced by classes in this
file, which build arrays of numbers; any other name is refused.
"""

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from expunge.core import files, pickles
from expunge.core.errors import RequestError

CURE = "it is damaged, or no batch of images; fetch it again"
MOST = 2**32
_OPCODES = {
    *("PUT", "BINPUT", "LONG_BINPUT"),
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
}


class _Type:
    """Replaces ``numpy.dtype``."""

    def __init__(self, text: object, *_: object) -> None:
        self.text = _text(text)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        order = _text(state[1])
        if order in ("<", ">"):
            self.text = f"{order}{self.text}"

    def dtype(self) -> np.dtype[np.generic]:
        """The numpy type, if it is one of plain numbers."""
        if not re.fullmatch(r"[<>=|]?[biuf]\d{1,2}", self.text):
            raise ValueError(f"arrays must hold plain numbers, not {self.text[:40]}")
        return np.dtype(self.text.lstrip("=|"))


class _Array:
    """Replaces ``numpy.ndarray`` and its constructor."""

    value: object = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[object, tuple[int, ...], _Type, bool, bytes]) -> None:
        _, shape, kind, fortran, content = state
        self.value = np.frombuffer(content, kind.dtype()).reshape(shape, order="F" if fortran else "C")


class _Encode:
    """Replaces ``codecs.encode``, which makes bytes in old protocols; limited to the size of the file in total."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, text: str, _: str) -> bytes:
        self.left -= len(text)
        if self.left < 0:
            raise ValueError("it would be larger in memory than in the file")
        return text.encode("latin1")

    def __setstate__(self, _: object) -> None:
        raise ValueError("it sets the state of an object that is not an array")


class _Unpickler(pickle.Unpickler):
    """Accepts only the names that arrays need."""

    def __init__(self, content: bytes, where: str) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        reconstruct = {f"numpy.{core}.multiarray _reconstruct": _Array for core in ("core", "_core")}
        known = {"numpy ndarray": _Array, "numpy dtype": _Type, "_codecs encode": _Encode(len(content))}
        self.names: Mapping[str, object] = reconstruct | known
        self.where = where

    def find_class(self, module_name: str, global_name: str, /) -> object:
        """Return the replacement for a name."""
        name = f"{module_name} {global_name}"
        if name not in self.names:
            raise RequestError(f"{self.where} is refused: it asks for {name!r}; nothing of it was executed")
        return self.names[name]


def read(path: Path) -> dict[str, object]:
    """Read the dictionary in a pickle file, with its keys as text.

    Raises:
        RequestError: The file is missing, damaged, or contains anything but plain data and arrays.
    """
    with files.reading(path, CURE):
        content = files.content(path, CURE, most=MOST)
        pickles.check(content, len(content), str(path), opcodes=_OPCODES)
        found = _Unpickler(content, str(path)).load()
        if not isinstance(found, dict):
            raise RequestError(f"{path} should hold a dictionary")
        # Nested values are not converted, so cyclic references are harmless.
        items = cast("dict[object, object]", found).items()
        return {_text(key): value.value if isinstance(value, _Array) else value for key, value in items}


def _text(value: object) -> str:
    if not isinstance(value, str | bytes):
        raise TypeError(f"text was expected, not {type(value).__name__}")
    return value.decode("latin1") if isinstance(value, bytes) else value
