"""What reading a pickle would cost, found from its opcodes without building anything."""

import pickletools
from collections.abc import Collection
from typing import BinaryIO

from expunge.core.errors import RequestError

_GET, _PUT = {"GET", "BINGET", "LONG_BINGET"}, {"PUT", "BINPUT", "LONG_BINPUT"}
_SHARE = 64
"""How much larger than the file its content may be, counting what is referred to again each time."""


def check(
    stream: BinaryIO | bytes, size: int, where: str, *, opcodes: Collection[str] = (), refused: Collection[str] = ()
) -> None:
    """Refuse a pickle that takes much more time or memory than its ``size``, or uses what is not expected.

    A few bytes can refer to what came before: to tuples of tuples, whose hash as a key takes exponential time; to text,
    which is then encoded many times; and to positions of the memo beyond the file. Time O(size).

    Args:
        stream: The pickle, read up to its end.
        size: The bytes of the file.
        where: The file, for messages.
        opcodes: The opcodes that are expected; all if empty.
        refused: Names, as ``module name``, that are refused.

    Raises:
        RequestError: It is such a pickle.
        ValueError, IndexError, KeyError: It is damaged.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    spent = 0
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if opcodes and name not in opcodes:
            raise RequestError(f"{where} is refused: it uses {name}, which plain arrays do not need")
        if name == "GLOBAL" and argument in refused:
            raise RequestError(f"{where} is refused: it asks for {argument!r}; nothing of it was executed")
        if name == "MARK":
            marks.append(len(stack))
        elif name in _PUT or name == "MEMOIZE":
            position = len(memo) if name == "MEMOIZE" else int(argument or 0)
            memo[position] = stack[-1]
            spent += 2 * _SHARE * (size + 10_000) if position > size else 0
        else:
            before = [each.name for each in opcode.stack_before]
            below = before.index("mark") if "mark" in before else len(before)
            start = (marks.pop() if "mark" in before else len(stack)) - below
            if start < 0:
                raise ValueError("it takes more values than there are")
            taken = stack[start:]
            del stack[start:]
            value = memo[int(argument or 0)] if name in _GET else _size(name, argument, taken)
            spent += value if name in _GET or name == "DUP" else 0
            stack += [value] * len(opcode.stack_after)
        if spent > _SHARE * size + 10_000:
            raise RequestError(f"{where} is refused: it would be larger in memory than in the file")


def _size(name: str, argument: object, parts: list[int]) -> int:
    """The parts of a tuple, all that is in them included, or the length of a text; 1 for other values."""
    if name.startswith("TUPLE") or name == "DUP":
        return 1 + sum(parts)
    return 1 + len(argument) if isinstance(argument, str | bytes) and name != "GLOBAL" else 1
