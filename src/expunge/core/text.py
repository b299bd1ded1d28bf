"""The text language ``NAME:key=value,...``: splitting text into named values.

Lists are joined by ``+``. Parentheses nest a text in a text, and protect the commas and plus signs of a value:
``rum:methods=original+(salun:lr=0.1,epochs=5)``, ``ids:(a,b.txt)``. The type of a field determines how its value
is read (:mod:`expunge.core.config`).
"""

import re
from collections.abc import Sequence

from expunge.core.errors import RequestError


class Text(str):
    """A value in the text language, which is converted to the type of its field."""

    __slots__ = ()


def split(text: str, separator: str) -> list[Text]:
    """Split at separators outside parentheses; empty parts are dropped.

    Raises:
        RequestError: The parentheses do not match.
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise RequestError(f"the parentheses in {text!r} do not match")
    return [Text(part.strip()) for part in parts if part.strip()]


def opened(text: str) -> Text:
    """Return the text without the parentheses around it, if there are any."""
    inner = text.strip()
    if inner.startswith("(") and inner.endswith(")"):
        try:
            split(inner[1:-1], ",")
        except RequestError:
            return Text(inner)  # "(a)+(b)": these parentheses are not a pair
        return Text(inner[1:-1])
    return Text(inner)


def assignments(text: str, names: Sequence[str], what: str) -> dict[str, object]:
    """Return the values in ``value,key=value,...`` by key.

    A value without a key belongs to the first of ``names``; a percentage without a key belongs to ``share``.

    Raises:
        RequestError: A value has no key and there are no names, or a key is given twice.
    """
    values: dict[str, object] = {}
    for part in split(text, ","):
        found = re.match(r"([A-Za-z][\w.-]*)\s*=", part)
        if found is not None:
            key, value = found[1].replace("-", "_"), Text(part[found.end() :].strip())
        elif not names:
            raise RequestError(f"{what}: {str(part)!r} should be key=value")
        else:
            key, value = "share" if part.endswith("%") and "share" in names else names[0], part
        if key in values:
            raise RequestError(f"{what}: {key} is given twice, the second time as {part}; lists are joined by +: 3+5")
        values[key] = value
    return values


def quoted(text: str, delimiters: str) -> str:
    """Return the text, in parentheses if it contains one of these characters."""
    return f"({text})" if any(character in text for character in delimiters) else text
