"""Training a model with its trajectory recorded."""

from torch import nn

from expunge.core.weights import assign
from expunge.data.image_set import ImageSet
from expunge.training.context import Context
from expunge.training.fit import Training
from expunge.trajectory.flat_loss import flat_loss
from expunge.trajectory.plan import Trajectory, draw
from expunge.trajectory.steps import record


def recorded(model: nn.Module, images: ImageSet, plan: Training, context: Context) -> Trajectory:
    """Train ``model`` in place by a plan with ``record``, on all weights, and return what is kept of it.

    Steps are those of :class:`expunge.trajectory.plan.Plan`: in evaluation mode, so that batch normalisation keeps the
    statistics it has (of an untrained network: mean 0 and variance 1, so that it only scales and shifts) and dropout
    does nothing.
    Cost: T gradients of a batch.

    Raises:
        RunError: A gradient was not finite.
    """
    drawn = draw(
        images.ids,
        plan.rule,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        fixed_order=plan.fixed_order,
        generator=context.generator,
    )
    with flat_loss(model, images) as loss:
        trajectory, weights = record(loss, drawn, context.on_step)
        assign(model, loss.named(weights))
    return trajectory
