"""Deletions that arrive one after the other, answered at once from a store of vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expunge.errors import RequestError
from expunge.trajectory.calculus import Calculus
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.store import VectorStore
from expunge.trajectory.tangents import SetAware, carry, check_end


@dataclass
class Deletions:
    """The weights after every deletion so far.

    The vectors of a store add up, but deletions act on each other: what the sum leaves out grows with the square of
    their number. :meth:`rebase` computes the tangent of all deletions so far together, from which later ones go on.
    """

    calculus: Calculus
    trajectory: Trajectory
    store: VectorStore
    rebase_every: int | None = None
    """Rebase by itself as soon as so many examples have been deleted since the last time; never by default."""
    deleted: set[int] = field(default_factory=set[int])
    _change: Tensor | None = None
    _since: int = 0

    def __post_init__(self) -> None:
        """Check that the vectors are of this training.

        Raises:
            RequestError: They are of another.
        """
        self.store.check_trajectory(self.trajectory.digest())

    def delete(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Delete examples: the flat weights (p,) afterwards, in the order of the weights' names.

        Cost: O(m p) for m examples, and a rebase if it is time for one.

        Raises:
            RequestError: An id is unknown, deleted already, or nothing would be left.
        """
        ids = torch.as_tensor(ids, dtype=torch.int64)
        wanted = set(ids.tolist())
        again = sorted(wanted & self.deleted)
        if again:
            raise RequestError(f"example {again[0]} was deleted before: an example can be deleted once")
        if len(wanted | self.deleted) >= len(self.trajectory.plan.ids):
            raise RequestError("this would delete every example: there is no model of nothing; train a new one")
        change = self.store.change(ids)
        self._change = change if self._change is None else self._change + change
        self.deleted |= wanted
        self._since += len(wanted)
        if self.rebase_every is not None and self._since >= self.rebase_every:
            self.rebase()
        return self.weights

    def rebase(self) -> Tensor:
        """Replace the sum by the set-aware tangent of all deletions so far; the weights. Cost: one such tangent."""
        kept = torch.ones(len(self.trajectory.plan.ids), dtype=torch.bool)
        kept[self.trajectory.plan.positions(torch.tensor(sorted(self.deleted), dtype=torch.int64))] = False
        tangent = SetAware(self.calculus, self.trajectory, kept)
        check_end(self.calculus, carry(self.calculus, self.trajectory, [tangent]))
        self._change = self.calculus.in_order(tangent.vectors)[0].cpu()
        self._since = 0
        return self.weights

    @property
    def weights(self) -> Tensor:
        """The weights after all deletions (p,), in the order of their names."""
        plain = self.calculus.in_order(self.calculus.weights[None])[0]
        return plain if self._change is None else plain + self._change.to(plain)
