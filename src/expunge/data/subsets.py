"""Random subsets of examples, given by a count or a share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.core import checks
from expunge.core.errors import RequestError


def check_amount(count: int | None, share: float | None) -> None:
    """Raise a RequestError unless at most one is given, with a count of at least 1 or a share in (0, 1]."""
    if count is not None and share is not None:
        raise RequestError("give a count or a share, not both: count=500 or share=10%")
    checks.at_least(1, count=count)
    checks.above(0, share=share)
    checks.between(0, 1, share=share)


def amount(
    total: int, count: int | None, share: float | None, *, default: float = 1.0, what: str = "training examples"
) -> int:
    """Return the number of examples that a count or a share of ``total`` means, rounded down.

    ``default`` is the share if neither is given.

    Raises:
        RequestError: The number is less than one or more than ``total``.
    """
    if count is None:
        share = default if share is None else share
        count = int(total * share + 1e-9)
        if count < 1:
            raise RequestError(f"{100 * share:g}% of {total} {what} is less than one: give a larger share")
    if count > total:
        raise RequestError(f"cannot take {count} of {total} {what}: give a smaller count")
    return count


def draw(
    ids: Tensor, count: int | None, share: float | None, generator: torch.Generator, *, default: float = 1.0
) -> Tensor:
    """Draw a count or a share of these ids uniformly at random; all by default."""
    chosen = torch.randperm(len(ids), generator=generator, device=generator.device)
    return ids[chosen[: amount(len(ids), count, share, default=default)].to(ids.device)]


def some(values: Sequence[object]) -> str:
    """Return at most five of these values as text."""
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more
