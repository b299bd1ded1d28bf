"""Recorded training of a user's own model, from which examples can later be deleted in milliseconds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from expunge.api.inputs import Images, as_image_set, check_images, device_for, num_classes, standard_torch, student_of
from expunge.core import checks, config, randomness
from expunge.core import weights as model_weights
from expunge.core.checks import integers
from expunge.core.errors import RequestError
from expunge.curvature.network import shaped
from expunge.data.forgetting import partition
from expunge.data.image_set import ImageSet
from expunge.training.context import Context
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.trajectory import precompute
from expunge.trajectory.flat_loss import FlatLoss, flat_loss
from expunge.trajectory.online import Deletions
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.record import recorded
from expunge.trajectory.steps import Report
from expunge.trajectory.vectors import StoreType, VectorStore, begin


@dataclass(frozen=True)
class Recorded:
    """A trained model with its recorded training."""

    model: nn.Module
    """The trained model, in evaluation mode."""
    trajectory: Trajectory
    """The recorded training, for ``expunge.unlearn(..., method="hessian_free", trajectory=...)``."""
    images: ImageSet
    """The training images, with the ids by which they are deleted."""

    def partition(self, ids: Sequence[int] | Tensor) -> tuple[ImageSet, ImageSet]:
        """Return the forget set with these ids, and the retain set.

        Raises:
            RequestError: An id is unknown, not an integer, or given twice.
        """
        wanted = integers(ids, "ids")
        self.trajectory.plan.positions(wanted)
        return partition(self.images, wanted)

    def precompute(
        self,
        folder: Path | str,
        *,
        dtype: StoreType = "float32",
        groups: Sequence[int] | Tensor | None = None,
        memory: float = 0.25,
        on_step: Report | None = None,
    ) -> VectorStore:
        """Compute, for every example, the change of the weights when it is left out, and store it in ``folder``.

        The same call continues an interrupted computation. Cost: T products for each of n examples, n p numbers on
        disk, for T steps and p weights.

        Args:
            folder: The folder of the vectors.
            dtype: ``float32``, ``bfloat16`` or ``float16``.
            groups: The number of the group of each image, -1 for none: one vector per group instead of per image.
            memory: Memory limit in gigabytes.
            on_step: Called with the progress.

        Raises:
            RequestError: The folder contains other vectors, the disk is too small, or the groups do not fit the images.
            RunError: A vector is not finite.
        """
        checks.above(0, memory=memory)
        by_id = None if groups is None else self._groups(groups)
        with standard_torch(), self._flat_loss(memory) as loss:
            size = int(memory * 1e9)
            layout = precompute.layout(loss, self.trajectory, dtype=dtype, memory=size, groups=by_id)
            return precompute.fill(begin(Path(folder), layout), loss, self.trajectory, on_step)

    @contextmanager
    def deletions(self, store: VectorStore, rebase_every: int | None = None) -> Iterator[Deletions]:
        """Delete examples consecutively within the block, each by a sum of stored vectors; see :class:`Deletions`.

        Within the block, gradients are on and float32 is the default; other threads that use expunge wait.
        """
        with standard_torch(), self._flat_loss(0.25) as loss:
            yield Deletions(loss, self.trajectory, store, rebase_every)

    def with_weights(self, weights: Tensor) -> nn.Module:
        """Return a copy of the model with these trainable weights (p,), in the order of their names.

        Raises:
            RequestError: Their number is not that of the model's trainable weights.
        """
        model = model_weights.clone(self.model)
        count = model_weights.count(model)
        if weights.shape != (count,):
            raise RequestError(f"the model has {count} trainable weights, got weights of shape {tuple(weights.shape)}")
        model_weights.assign(model, shaped(weights, model_weights.trainable(model)))
        return model

    def _groups(self, groups: Sequence[int] | Tensor) -> Tensor:
        """The group of each image in the order of the ids."""
        given = integers(groups, "groups").cpu()
        if len(given) != len(self.images):
            raise RequestError(f"there are {len(given)} groups for {len(self.images)} images: give one for each")
        if not bool((given >= 0).any()):
            raise RequestError(f"all {len(given)} groups are -1, which means no group: number groups from 0")
        return given[self.images.ids.cpu().argsort()]

    @contextmanager
    def _flat_loss(self, memory: float) -> Iterator[FlatLoss]:
        with flat_loss(self.model, self.images, memory=int(memory * 1e9)) as loss:
            yield loss


def train_recorded(
    model: nn.Module,
    images: Images,
    *,
    batch_size: int,
    epochs: int = Training.epochs,
    steps: int | None = None,
    rule: Rule | None = None,
    fixed_order: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
    on_step: Report | None = None,
    **options: object,
) -> Recorded:
    """Train a copy of ``model`` by SGD in evaluation mode, and record the training.

    Args:
        model: Any module that returns logits, with its initial weights; those with ``requires_grad`` are trained.
        images: An ImageSet, a pair (images, labels), or a map-style dataset of (image, label).
        batch_size: Examples per step.
        epochs: Passes over the images.
        steps: Steps in place of epochs; the last epoch may be cut short.
        rule: SGD, optionally with momentum, a schedule and clipping; ``weight_decay`` is an L2 term in the loss.
        fixed_order: Use the same order of examples in every epoch.
        seed: Seed of the order.
        device: The device to compute on; by default that of the model.
        on_step: Called with the progress.
        **options: Options of the update rule, if ``rule`` is not given: ``lr=0.05``.

    Raises:
        RequestError: The rule is not differentiable, the model mixes the examples of a batch, or images or labels do
            not fit the model.
        RunError: A gradient is not finite.
    """
    if rule is not None and options:
        raise RequestError(f"give the rule, or options of it ({', '.join(options)}), not both")
    chosen = config.override(Rule, {}, options, "rule") if rule is None else rule
    plan = Training(epochs, batch_size, chosen, steps, record=True, fixed_order=fixed_order)
    place = device_for(device, model)
    with standard_torch():
        trained, kept = student_of(model, place), as_image_set(images).to(place)
        if len(kept):
            dtype = kept.dtype if kept.dtype.is_floating_point else torch.float32
            check_images("training", kept, kept.shape, num_classes(model_weights.clone(trained).to(dtype), kept, place))
        context = Context(randomness.generator(seed, "training", device=place), place, on_step=on_step)
        trajectory = recorded(trained, kept, plan, context)
    return Recorded(trained.eval(), trajectory, kept)
