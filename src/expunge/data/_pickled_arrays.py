"""Reads pickled dictionaries of arrays without executing anything.

The opcodes are walked with :mod:`pickletools` and only plain data are built: dictionaries, lists, tuples,
numbers, text, bytes, and numpy arrays of plain numbers. Any other name that a pickle asks for is refused.
"""

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from expunge.core.errors import RequestError

_MARK = object()

RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
NAMES = RECONSTRUCT | {"numpy ndarray", "numpy dtype", "_codecs encode", "_codecs.encode"}


class _Name(str):
    """A global that a pickle names; it is never imported."""


class _Array:
    """An array under construction: filled by BUILD."""

    value: object = None


class _Type:
    """A dtype under construction."""

    def __init__(self, text: str) -> None:
        self.text = text

    def build(self, state: object) -> None:
        """Take the byte order from the pickled state; pickles of Python 2 hold it as bytes."""
        order = _text(cast("tuple[object, ...]", state)[1])
        if order in ("<", ">"):
            self.text = f"{order}{self.text}"

    def dtype(self, where: str) -> np.dtype[np.generic]:
        """The numpy type, if it is one of plain numbers."""
        found = np.dtype(self.text.lstrip("=|"))
        if found.kind not in "biuf":
            raise RequestError(f"{where}: arrays must hold plain numbers, not {self.text}")
        return found


def read(path: Path) -> dict[str, object]:
    """The dictionary in a pickle file, its keys as text.

    Raises:
        RequestError: The file is missing, damaged, or asks for anything but plain data and arrays.
    """
    try:
        found = _Machine(str(path)).run(path.read_bytes())
    except RequestError:
        raise
    except (OSError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        raise RequestError(f"{path} cannot be read as a batch of images ({error}): fetch it again") from error
    if not isinstance(found, dict):
        raise RequestError(f"{path} should hold a dictionary")
    return {str(_text(key)): _built(value) for key, value in found.items()}


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self, content: bytes) -> object:
        """Walk the opcodes; the value that is left."""
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise RequestError(f"{self.where} is cut short")

    def _step(self, name: str, argument: object) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(argument.encode("latin1") if name in _BYTES and isinstance(argument, str) else argument)
        elif name in ("PROTO", "FRAME"):
            return
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(cast("int", argument))] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[int(cast("int", argument))])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._name(name, argument)
        elif hasattr(self, f"_{name.lower()}"):
            getattr(self, f"_{name.lower()}")()
        else:
            raise RequestError(f"{self.where} is refused: it uses {name}, which plain arrays do not need")

    def _name(self, opcode: str, argument: object) -> None:
        if opcode == "STACK_GLOBAL":
            attribute, module = self.stack.pop(), self.stack.pop()
            argument = f"{module} {attribute}"
        if argument not in NAMES:
            raise RequestError(f"{self.where} is refused: it asks for {argument!r}; nothing of it was executed")
        self.stack.append(_Name(argument))

    def _marked(self) -> list[object]:
        position = max(index for index, value in enumerate(self.stack) if value is _MARK)
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items

    def _tuple(self) -> None:
        self.stack.append(tuple(self._marked()))

    def _tuple1(self) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _tuple2(self) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _tuple3(self) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _list(self) -> None:
        self.stack.append(self._marked())

    def _dict(self) -> None:
        items = self._marked()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _append(self) -> None:
        value = self.stack.pop()
        cast("list[object]", self.stack[-1]).append(value)

    def _appends(self) -> None:
        items = self._marked()
        cast("list[object]", self.stack[-1]).extend(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        cast("dict[object, object]", self.stack[-1])[key] = value

    def _setitems(self) -> None:
        items = self._marked()
        cast("dict[object, object]", self.stack[-1]).update(zip(items[::2], items[1::2], strict=True))

    def _reduce(self) -> None:
        arguments, name = cast("tuple[object, ...]", self.stack.pop()), self.stack.pop()
        if name in RECONSTRUCT:
            self.stack.append(_Array())
        elif name == "numpy dtype":
            self.stack.append(_Type(str(_text(arguments[0]))))
        elif name in ("_codecs encode", "_codecs.encode"):
            self.stack.append(str(arguments[0]).encode("latin1"))
        else:
            raise RequestError(f"{self.where} is refused: it calls {name!r}; nothing of it was executed")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Type):
            target.build(state)
        elif isinstance(target, _Array):
            _, shape, kind, fortran, content = cast("tuple[object, tuple[int, ...], _Type, bool, bytes]", state)
            flat = np.frombuffer(content, kind.dtype(self.where))
            target.value = flat.reshape(shape, order="F" if fortran else "C")
        else:
            raise RequestError(f"{self.where} is refused: it sets the state of something that is no array")


def _text(value: object) -> object:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _built(value: object) -> object:
    """The array in place of its builder; nested values stay as they are, so that circles and knots cost nothing."""
    return value.value if isinstance(value, _Array) else value


_CONSTANTS: dict[str, Callable[[], object]] = {
    "MARK": lambda: _MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_BYTES = {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_VALUES = _BYTES | {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
