"""Range checks of numbers: each refuses NaN and infinity, and says the name, the range and the value."""

import math
from collections.abc import Sequence

from expunge.errors import RequestError


def one_of(allowed: Sequence[str], **values: str) -> None:
    """Raise a RequestError unless every value is one of the words allowed."""
    for name, value in values.items():
        if value not in allowed:
            raise RequestError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def at_least(low: float, **values: float | None) -> None:
    """Raise a RequestError unless every value is a finite number of at least ``low``; None passes."""
    for name, value in values.items():
        if value is not None and not low <= value < math.inf:
            raise RequestError(f"{name} must be a finite number, at least {low:g}, got {value}")


def above(low: float, **values: float | None) -> None:
    """Raise a RequestError unless every value is a finite number above ``low``; None passes."""
    for name, value in values.items():
        if value is not None and not low < value < math.inf:
            raise RequestError(f"{name} must be a finite number, above {low:g}, got {value}")


def between(low: float, high: float, **values: float | None) -> None:
    """Raise a RequestError unless every value is in [``low``, ``high``]; None passes."""
    for name, value in values.items():
        if value is not None and not low <= value <= high:
            raise RequestError(f"{name} must be in [{low:g}, {high:g}], got {value}")
