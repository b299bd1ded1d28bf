"""Several unlearnings one after the other, as a value; run in memory here, and as runs by ``runs/unlearn.py``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from expunge.core import randomness
from expunge.core.config import Choice, read_texts
from expunge.core.errors import RequestError
from expunge.data.forgetting import forget_ids, partition
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.trajectory.plan import Trajectory
from expunge.unlearning import presets
from expunge.unlearning.unlearn import Unlearning, unlearn


@dataclass(frozen=True)
class Step:
    """One unlearning of a sequence; forget sets and the unlearning may be given as text."""

    forget: Annotated[object, Choice("forget_sets")]
    """The examples to forget, among those that earlier steps have left."""
    unlearning: Unlearning
    """How."""
    withhold: Annotated[object, Choice("forget_sets")] | None = None
    """Examples that this step neither forgets nor retains; none by default."""
    forget_seed: int = 0
    """Seed of the choice of both."""

    def __post_init__(self) -> None:
        """Read what is given as text."""
        read_texts(self)
        if isinstance(self.unlearning, str):
            object.__setattr__(self, "unlearning", presets.named(self.unlearning))


@dataclass(frozen=True, init=False)
class Sequence:
    """Unlearnings one after the other: ``Sequence(("class:3", "scrub"), ("random:9", "finetune", "class:5"))``."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step | tuple[object, ...]) -> None:
        """Each step is a :class:`Step`, or a tuple of its fields: forget, unlearning, withhold, forget_seed."""
        if not steps:
            raise RequestError('a sequence needs at least one step: Sequence(("class:3", "scrub:epochs=5"))')
        made = tuple(step if isinstance(step, Step) else Step(*step) for step in steps)  # pyright: ignore
        object.__setattr__(self, "steps", made)


def divide(
    remaining: ImageSet, step: Step, num_classes: int, poisoned: Tensor | None = None
) -> tuple[Tensor, Tensor, ImageSet, ImageSet]:
    """What a step forgets and withholds of the remaining examples: ids of both, the forget set and the retain set."""
    generator = randomness.generator(step.forget_seed, "forget")
    ids = forget_ids(step.forget, remaining, generator, num_classes, poisoned)
    forget, retain = partition(remaining, ids)
    if step.withhold is None:
        return ids, ids[:0], forget, retain
    generator = randomness.generator(step.forget_seed, "withhold")
    withheld = forget_ids(step.withhold, retain, generator, num_classes, poisoned)
    return ids, withheld, forget, partition(retain, withheld)[1]


def run(
    model: nn.Module,
    train: ImageSet,
    validation: ImageSet | None,
    num_classes: int,
    sequence: Sequence,
    context: Callable[[], Context],
    trajectory: Trajectory | None = None,
) -> Iterator[tuple[nn.Module, Tensor, Context]]:
    """Run the steps on ``model``, which is changed: after each the model, the ids it forgot and its context.

    ``context`` makes the circumstances of a step. A step neither forgets nor retains what was forgotten before.
    """
    remaining, forgotten = train, train.select(train.ids != train.ids)
    for step in sequence.steps:
        ids, _, forget, retain = divide(remaining, step, num_classes)
        seen, now = UnlearningData(forget, retain, validation, num_classes), context()
        model = unlearn(model, seen, step.unlearning, now, {"trajectory": trajectory, "forgotten": forgotten})
        yield model, ids, now
        remaining = remaining.select(~remaining.contains(ids))
        forgotten = train.select(~train.contains(remaining.ids))
