"""A sequence of unlearnings as a value, executed in memory here and as runs by ``runs/unlearn.py``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Protocol

from torch import Tensor, nn

from expunge.core import randomness
from expunge.core.config import Choice, read_texts
from expunge.core.errors import RequestError
from expunge.data.forgetting import forget_ids, partition
from expunge.data.image_set import ImageSet
from expunge.data.names import Names
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.trajectory.plan import Trajectory
from expunge.unlearning import presets
from expunge.unlearning.unlearn import Unlearning, unlearn


@dataclass(frozen=True)
class Step:
    """One unlearning of a sequence; forget sets and the unlearning may be given as text."""

    forget: Annotated[object, Choice("forget_sets")]
    """The examples to forget, among those not forgotten by earlier steps."""
    unlearning: Unlearning
    """The method, with its update mask and adapters."""
    withhold: Annotated[object, Choice("forget_sets")] | None = None
    """Examples that this step neither forgets nor retains; none by default."""
    forget_seed: int = 0
    """Seed of both choices."""

    def __post_init__(self) -> None:
        """Parse fields given as text."""
        read_texts(self)
        if isinstance(self.unlearning, str):
            object.__setattr__(self, "unlearning", presets.named(self.unlearning))


@dataclass(frozen=True, init=False)
class Sequence:
    """Consecutive unlearnings: ``Sequence(("class:3", "scrub"), ("random:9", "finetune", "class:5"))``."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step | tuple[object, ...]) -> None:
        """Take steps, each a :class:`Step` or a tuple of its fields: forget, unlearning, withhold, forget_seed."""
        if not steps:
            raise RequestError('a sequence needs at least one step: Sequence(("class:3", "scrub:epochs=5"))')
        made = tuple(step if isinstance(step, Step) else Step(*step) for step in steps)  # pyright: ignore
        object.__setattr__(self, "steps", made)


class Choices(Protocol):
    """What is forgotten and withheld: a :class:`Step`, or the configuration of a run."""

    @property
    def forget(self) -> object: ...  # noqa: D102

    @property
    def withhold(self) -> object | None: ...  # noqa: D102

    @property
    def forget_seed(self) -> int: ...  # noqa: D102


def divide(
    remaining: ImageSet,
    step: Choices,
    num_classes: int,
    poisoned: Tensor | None = None,
    names: Names = Names(),  # noqa: B008 - frozen
) -> tuple[Tensor, Tensor, ImageSet, ImageSet]:
    """Return the ids that a step forgets, the ids that it withholds, the forget set and the retain set."""
    generator = randomness.generator(step.forget_seed, "forget")
    ids = forget_ids(step.forget, remaining, generator, num_classes, poisoned, names)
    forget, retain = partition(remaining, ids)
    if step.withhold is None:
        return ids, ids[:0], forget, retain
    generator = randomness.generator(step.forget_seed, "withhold")
    withheld = forget_ids(step.withhold, retain, generator, num_classes, poisoned, names)
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
    """Run the steps on ``model``, which is modified; yield after each the model, the forgotten ids and the context.

    ``context`` makes the context of a step. Steps neither forget nor retain examples forgotten before.
    """
    remaining, forgotten = train, train.select(train.ids != train.ids)
    for step in sequence.steps:
        ids, _, forget, retain = divide(remaining, step, num_classes)
        seen, now = UnlearningData(forget, retain, validation, num_classes), context()
        model = unlearn(model, seen, step.unlearning, now, {"trajectory": trajectory, "forgotten": forgotten})
        yield model, ids, now
        remaining = remaining.select(~remaining.contains(ids))
        forgotten = train.select(~train.contains(remaining.ids))
