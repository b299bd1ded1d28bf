"""Training a model with its trajectory recorded."""

from torch import nn

from expunge.core.weights import assign
from expunge.data.image_set import ImageSet
from expunge.training.context import Context
from expunge.training.fit import Training
from expunge.trajectory.flat_loss import flat_loss
from expunge.trajectory.plan import Trajectory, draw
from expunge.trajectory.steps import record


def recorded(model: nn.Module, images: ImageSet, training: Training, context: Context) -> Trajectory:
    """Train ``model`` in place by a training with ``record``, on all weights, and return the recorded training.

    Steps are those of :class:`expunge.trajectory.plan.Plan`: in evaluation mode, so that batch normalisation uses its
    running statistics (of an untrained network: mean 0 and variance 1) and dropout is off.
    Cost: T gradients of a batch.

    Raises:
        RunError: A gradient is not finite.
    """
    drawn = draw(
        images.ids,
        training.rule,
        epochs=training.epochs,
        steps=training.steps,
        batch_size=training.batch_size,
        fixed_order=training.fixed_order,
        generator=context.generator,
    )
    with flat_loss(model, images) as loss:
        trajectory, weights = record(loss, drawn, context.on_step)
        assign(model, loss.named(weights))
    return trajectory
