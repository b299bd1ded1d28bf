"""Hessian-free unlearning: the tangent of the whole recorded training in the direction of leaving examples out."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor, nn

from expunge.core import checks
from expunge.core.config import Choice
from expunge.core.errors import RequestError
from expunge.core.registry import method
from expunge.core.weights import check_plain, trainable
from expunge.curvature import moving
from expunge.curvature.network import flat, shaped
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.trajectory.blocked import additive
from expunge.trajectory.flat_loss import FlatLoss, flat_loss
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.tangents import AsReleased, SetAware, Tangent, carry, check_end
from expunge.trajectory.vectors import VectorStore

Variant = Literal["set_aware", "additive"]


@dataclass(frozen=True)
class HessianFreeConfig:
    """Hyperparameters of Hessian-free unlearning; how the model was trained is in its recorded trajectory."""

    variant: Variant = "set_aware"
    """set_aware: the tangent of leaving out this very set, with the gradients and Hessians of the kept examples.
    additive: the sum of one vector for each example, without their interactions; it can be precomputed."""
    as_released: bool = False
    """The released recursion instead: its vectors also take back weight decay, and their batches keep their size."""
    vectors: Annotated[object, Choice("runs", only="precompute")] | None = None
    """A run of `expunge precompute` of the same model: the change is the sum of its vectors, in milliseconds. In a
    bench ``vectors=precompute`` or ``vectors=(precompute:dtype=bfloat16)``: it is made where it is missing."""

    def __post_init__(self) -> None:
        """Check the words."""
        checks.one_of(get_args(Variant), variant=self.variant)
        if self.vectors is not None and self.variant != "additive":
            raise RequestError("vectors add up: take variant=additive with them, or leave them out")


@method(
    reference="Qiao et al. 2024, arXiv:2404.01712",
    aliases=("hf", "recollecting"),
    roles=(),
)
def unlearn(
    model: nn.Module,
    data: UnlearningData,
    config: HessianFreeConfig,
    context: Context,
    *,
    trajectory: Trajectory,
    forgotten: ImageSet | None = None,
    vectors: VectorStore | None = None,
) -> nn.Module:
    """``w_T <- w_T + a``, a the first-order change of the trained weights when the forget set is left out.

    The tangents are those of :mod:`expunge.trajectory.tangents`. What is approached is the model retrained on the
    recorded batches without the forget set (``retrain:recorded=true``).

    Cost: training once more with a gradient and a product of the kept examples beside each step, 4 to 8 times the
    training for networks and 2.5 times for softmax regression; with ``vectors`` m p additions for m examples.
    Memory: about 10 p, and the graph of one batch.

    Where examples were forgotten before, the result is ``w_T + a`` for all of them together, whatever the model was;
    with ``vectors``, those of the forget set are added to the model.
    """
    check_plain(model, "hessian_free")
    deleted = trajectory.plan.positions(data.forget.ids)
    allowed = moving.movable(model, context)
    again = forgotten is not None and len(forgotten) > 0
    if config.vectors is not None:
        if vectors is None:
            raise RequestError("there are no runs to find vectors in: expunge.trajectory.online deletes from a store")
        if not again:
            trajectory.check_model(flat(trainable(model)))
        change = _stored(model, data, trajectory, config, vectors, context)
    else:
        images = data.everything(forgotten)
        trajectory.check_images(images)
        if forgotten is not None:
            deleted = torch.cat([deleted, trajectory.plan.positions(forgotten.ids)])
        with flat_loss(model, images) as loss:
            tangent = _tangent(loss, trajectory, deleted, config)
            end = carry(loss, trajectory, [tangent], context.on_step)
            if again:
                change = loss.named(tangent.vectors[0] + (end - loss.weights))
            else:
                check_end(loss, end)
                change = loss.named(tangent.vectors[0])
    context.notes["trajectory"] = {"steps": trajectory.plan.steps, "clipped": trajectory.clipped}
    moving.move(model, change, allowed)
    return model


def _tangent(loss: FlatLoss, trajectory: Trajectory, forget: Tensor, config: HessianFreeConfig) -> Tangent:
    """One vector for the whole set: the recursions are linear in their sources, so it is the sum of those of each."""
    together = torch.full((len(trajectory.plan.ids),), -1)
    together[forget] = 0
    if config.as_released:
        return AsReleased(loss, trajectory, together)
    if config.variant == "additive":
        return additive(loss, trajectory, together, whole=False)
    return SetAware(loss, trajectory, together < 0)


def _stored(
    model: nn.Module,
    data: UnlearningData,
    trajectory: Trajectory,
    config: HessianFreeConfig,
    store: VectorStore,
    context: Context,
) -> dict[str, Tensor]:
    """The sum of stored vectors, by the names of the weights."""
    if store.layout.as_released != config.as_released:
        raise RequestError(
            f"the vectors are{'' if store.layout.as_released else ' not'} of the released "
            f"recursion: set as_released={str(store.layout.as_released).lower()}"
        )
    store.check_trajectory(trajectory.digest())
    return shaped(store.change(data.forget.ids).to(context.device), trainable(model))
