"""Checks of numbers: each refuses NaN and infinity, and says the name, the range and the value."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.core.errors import RequestError


def one_of(allowed: Sequence[str], **values: str) -> None:
    """Raise a RequestError unless every value is one of the given words."""
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


def device(name: str | torch.device) -> torch.device:
    """Return the device of that name.

    Raises:
        RequestError: There is no such device here.
    """
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"there is no device {str(name)!r} here ({reason}): use cpu, or leave it out") from error
    return found


def integers(values: Sequence[int] | Tensor, what: str) -> Tensor:
    """Ids or other whole numbers that a user gives, as int64 (m,).

    Raises:
        RequestError: They are no list of integers; numbers with a fraction and masks are not made into ids.
    """
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"{what} must be a list of integers ({error})") from error
    whole = not (found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool)
    if found.ndim != 1 or (len(found) and not whole):
        raise RequestError(
            f"{what} must be a list of integers, got {str(found.dtype).removeprefix('torch.')} of shape "
            f"{tuple(found.shape)}: of a mask take its nonzero().flatten(), and put a single number in a list"
        )
    return found.to(torch.int64)


def all_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite; one pass, and no memory."""
    return not values.numel() or bool(torch.isfinite(torch.stack(values.aminmax())).all())
