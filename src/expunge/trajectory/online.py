"""Sequential deletions, each computed from a store of vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expunge.core import checks
from expunge.core.checks import integers
from expunge.core.errors import RequestError
from expunge.trajectory.flat_loss import FlatLoss
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.tangents import SetAware, carry, check_end
from expunge.trajectory.vectors import VectorStore


@dataclass
class Deletions:
    """The weights after every deletion so far.

    The change by several deletions is approximated by the sum of their vectors, whose error grows with the square of
    their number. :meth:`rebase` computes the set-aware tangent of all deletions so far, to which the vectors of later
    ones are added.
    """

    loss: FlatLoss
    trajectory: Trajectory
    store: VectorStore
    rebase_every: int | None = None
    """Rebase automatically after this many deleted examples; never by default."""
    deleted: set[int] = field(default_factory=set[int])
    _change: Tensor | None = None
    _since: int = 0

    def __post_init__(self) -> None:
        checks.at_least(1, rebase_every=self.rebase_every)
        self.store.check_trajectory(self.trajectory.digest())
        self.trajectory.check_model(self._trained)

    def delete(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Delete examples: the flat weights (p,) afterwards, in the order of the weights' names.

        Cost: O(m p) for m examples, and that of a rebase if one is due.

        Raises:
            RequestError: An id is unknown, no integer, or deleted already, or no example would be left.
            RunError: The rebase failed; nothing is deleted then.
        """
        ids = integers(ids, "ids")
        wanted = set(ids.tolist())
        again = sorted(wanted & self.deleted)
        if again:
            raise RequestError(f"example {again[0]} was deleted before: an example can be deleted once")
        if len(wanted | self.deleted) >= len(self.trajectory.plan.ids):
            raise RequestError("this would delete every example: there is no model of nothing; train a new one")
        deleted, since = self.deleted | wanted, self._since + len(wanted)
        change = self.store.change(ids)
        if self.rebase_every is not None and since >= self.rebase_every:
            change, since = self._together(deleted), 0
        elif self._change is not None:
            change = self._change + change
        self.deleted, self._change, self._since = deleted, change, since
        return self.weights

    def rebase(self) -> Tensor:
        """Replace the sum by the set-aware tangent of all deletions so far, and return the weights."""
        self._change, self._since = self._together(self.deleted), 0
        return self.weights

    def _together(self, deleted: set[int]) -> Tensor:
        """The set-aware tangent of these examples (p,)."""
        kept = torch.ones(len(self.trajectory.plan.ids), dtype=torch.bool)
        kept[self.trajectory.plan.positions(torch.tensor(sorted(deleted), dtype=torch.int64))] = False
        tangent = SetAware(self.loss, self.trajectory, kept)
        check_end(self.loss, carry(self.loss, self.trajectory, [tangent]))
        return self.loss.in_order(tangent.vectors)[0].cpu()

    @property
    def weights(self) -> Tensor:
        """The weights after all deletions (p,), in the order of their names."""
        plain = self._trained
        return plain if self._change is None else plain + self._change.to(plain)

    @property
    def _trained(self) -> Tensor:
        return self.loss.in_order(self.loss.weights[None])[0]
