"""The plan of a recorded training: which examples each step saw, and its update rule."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet
from expunge.training.rules import PerRole, Rule, differentiable, weight_decay_of


@dataclass(frozen=True)
class Plan:
    """Steps of SGD: ``g = mean CE over the batch + l2 w``, ``m <- momentum m + clip(g)``, ``w <- w - rate m``.

    ``clip(g) = g min(1, clip / (||g|| + 1e-6))``; unlike in other trainings, g includes the L2 term. Networks are in
    evaluation mode and images on the test transform, so that the loss of each example does not depend on the others.
    """

    ids: Tensor
    """The ids of the training examples, ascending: int64 (n,)."""
    batches: Tensor
    """Positions in ``ids`` of each step's examples: int64 (T, b), with -1 where a batch is shorter."""
    rates: Tensor
    """The learning rate of each step: float64 (T,)."""
    l2: float
    clip: float | None
    momentum: float

    @property
    def steps(self) -> int:
        """The number of steps T."""
        return len(self.batches)

    def batch(self, step: int) -> Tensor:
        """The positions of a step's examples."""
        row = self.batches[step]
        return row[row >= 0]

    def positions(self, ids: Tensor) -> Tensor:
        """The positions of these ids in :attr:`ids`: int64, on the CPU.

        Raises:
            RequestError: One is not among the training examples, or appears twice.
        """
        found, missing = located(ids, self.ids)
        if len(missing):
            raise RequestError(
                f"{len(missing)} of {len(ids)} ids were not trained on, {int(missing[0])} among them: "
                "the trajectory does not know them"
            )
        return found


def located(ids: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of ids to delete among the ``known`` ones, which ascend, on the CPU; and the ids that are unknown.

    Raises:
        RequestError: An id appears twice.
    """
    ids = ids.cpu()
    if len(torch.unique(ids)) != len(ids):
        raise RequestError("an id appears twice among those to delete: an example can be deleted once")
    found = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
    return found, ids[known[found] != ids]


def draw(
    ids: Tensor,
    rule: Rule | PerRole,
    *,
    epochs: int,
    batch_size: int,
    fixed_order: bool,
    generator: torch.Generator,
    steps: int | None = None,
) -> Plan:
    """The plan of ``epochs`` passes over the examples, or of ``steps`` steps, each pass in a new order, or all in one.

    The last batch of an epoch may be shorter. Cost: T b integers.

    Raises:
        RequestError: The rule is not supported by recorded trainings.
    """
    rule = differentiable(rule)
    if not len(ids) or not (epochs if steps is None else steps):
        raise RequestError("a recorded training needs at least one example, and one epoch or step")
    width = min(batch_size, len(ids))
    padding = -len(ids) % width
    epochs = epochs if steps is None else -(-steps * width // (len(ids) + padding))
    orders = [
        torch.randperm(len(ids), generator=generator, device=generator.device).cpu()
        for _ in range(1 if fixed_order else epochs)
    ]
    orders = orders * epochs if fixed_order else orders
    batches = torch.cat([torch.nn.functional.pad(order, (0, padding), value=-1).view(-1, width) for order in orders])
    batches = batches[:steps]
    rates = torch.tensor([rule.rate(step, len(batches)) for step in range(len(batches))], dtype=torch.float64)
    return Plan(ids.cpu().sort().values, batches, rates, weight_decay_of(rule), rule.clip, rule.momentum)


@dataclass(frozen=True)
class Trajectory:
    """A recorded training: what is needed to replay it."""

    plan: Plan
    initial: Mapping[str, Tensor]
    """The trainable weights before the first step."""
    norms: Tensor
    """``||g||`` of each step: float64 (T,). Shows which steps were clipped without synchronising with the device."""
    images: str
    """The fingerprint of the training images, in the order of their ids."""
    end: str
    """The :func:`mark` of the trained weights."""

    @property
    def clipped(self) -> int:
        """The number of clipped steps."""
        return 0 if self.plan.clip is None else int((self.norms > self.plan.clip).sum())

    def check_images(self, images: ImageSet) -> None:
        """Raise a RequestError unless these are the examples that were trained on, in the order of their ids."""
        if fingerprint(images) != self.images:
            raise RequestError(
                "the trajectory is of other images: forget and retain set must be together those it was recorded on"
            )

    def check_model(self, weights: Tensor) -> None:
        """Raise a RequestError unless these are the trained weights (p,), in the order of their names: by their hash.

        Needed for stored vectors only: a replay compares its end with the model.
        """
        if mark(weights) != self.end:
            raise RequestError(
                "the model is not the one that was recorded, or was changed since: take the model of this training, "
                "or record the training of this model"
            )

    def digest(self) -> str:
        """SHA-256 of all tensors, by which vectors refer to this trajectory. O(bytes)."""
        sha = hashlib.sha256()
        for name, value in self.tensors().items():
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """The trajectory as tensors, for :func:`read`."""
        plan = self.plan
        rest = {"l2": plan.l2, "clip": plan.clip, "momentum": plan.momentum, "images": self.images, "end": self.end}
        header = torch.frombuffer(bytearray(json.dumps(rest).encode()), dtype=torch.uint8)
        found = {"plan.ids": plan.ids, "plan.batches": plan.batches, "plan.rates": plan.rates}
        initial = {f"initial.{name}": value for name, value in self.initial.items()}
        return {**found, **initial, "norms": self.norms, "header": header}


def read(tensors: Mapping[str, Tensor]) -> Trajectory:
    """The inverse of :meth:`Trajectory.tensors`.

    Raises:
        RequestError: A part is missing, or parts are not consistent.
    """
    try:
        rest = json.loads(bytes(tensors["header"].tolist()))
        plan = Plan(
            tensors["plan.ids"],
            tensors["plan.batches"],
            tensors["plan.rates"],
            float(rest["l2"]),
            None if rest["clip"] is None else float(rest["clip"]),
            float(rest["momentum"]),
        )
        initial = {
            name.removeprefix("initial."): value for name, value in tensors.items() if name.startswith("initial.")
        }
        found = Trajectory(plan, initial, tensors["norms"], str(rest["images"]), str(rest["end"]))
    except (KeyError, ValueError, TypeError) as error:
        raise RequestError(f"this is not a recorded trajectory ({error!r}): train again with --record") from error
    whole = len(plan.rates) == len(found.norms) == plan.steps and bool((plan.batches < len(plan.ids)).all())
    if not whole or not initial:
        raise RequestError(
            "the recorded trajectory is damaged: its parts do not fit together; train again with --record"
        )
    return found


def mark(weights: Tensor) -> str:
    """SHA-256 of weights (p,) as float32."""
    return hashlib.sha256(weights.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()


def fingerprint(images: ImageSet) -> str:
    """The fingerprint of images in the order of their ids."""
    ordered = bool((images.ids[1:] > images.ids[:-1]).all())
    return (images if ordered else images.select(images.ids.argsort())).fingerprint()


def needed(trajectory: Trajectory | None, what: str) -> Trajectory:
    """The recorded training, which ``what`` needs.

    Raises:
        RequestError: It was not recorded.
    """
    if trajectory is None:
        raise RequestError(f"{what} needs {registry.KINDS['methods'].extras['trajectory']}")
    return trajectory
