"""Influence of every example on losses or logits of the trained model, by the adjoint of training."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import jacrev

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import score
from expunge.curvature.network import Network, Vector, frozen, mean_gradient
from expunge.data.image_set import ImageSet
from expunge.scores import ScoreData
from expunge.training.context import Context
from expunge.trajectory import adjoint
from expunge.trajectory.flat_loss import FlatLoss, flat_loss
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.tangents import check_end

Question = Literal["loss", "losses", "logits"]
Images = Literal["test", "validation", "train"]


@dataclass(frozen=True)
class TrajectoryInfluenceConfig:
    """The functionals of the trained model that are differentiated."""

    of: Question = "loss"
    """loss: the mean cross-entropy over the images. losses: that of each image. logits: every logit of each image."""
    images: Images = "test"
    """The images of the functionals: test, validation or train."""
    ids: tuple[int, ...] = ()
    """The ids of the images, written 3+17; all of them by default. Required for losses and logits."""
    memory: float = 1.0
    """Gigabytes for the steps of the replay; where they do not fit, the training is replayed twice."""

    def __post_init__(self) -> None:
        checks.one_of(get_args(Question), of=self.of)
        checks.one_of(get_args(Images), images=self.images)
        checks.above(0, memory=self.memory)
        if self.of != "loss" and not self.ids:
            raise RequestError(f"of={self.of} needs the ids of the images it is about: ids=3+17")


@score(reference="Hara et al. 2019, arXiv:1906.08473")
def score_examples(
    model: nn.Module, data: ScoreData, config: TrajectoryInfluenceConfig, context: Context, *, trajectory: Trajectory
) -> dict[str, Tensor]:
    """The change of the test loss, or of other outputs, when an example is left out of training, to first order.

    Positive where the loss rises without the example. Cost for all n examples: one replay of the recorded training, or
    two (see ``memory``), and for each functional a product and a forward pass with tangents per step.
    """
    trajectory.check_images(data.train)
    asked = _asked(data, config)
    with frozen(model) as network, flat_loss(model, data.train) as loss:
        names, directions = _directions(network, loss, asked, config.of)
        memory = int(config.memory * 1e9)
        found, end = adjoint.influence(loss, trajectory, directions, memory, context.on_step)
        check_end(loss, end)
    order = trajectory.plan.positions(data.train.ids)
    return {name: values[order] for name, values in zip(names, found.cpu(), strict=True)}


def _asked(data: ScoreData, config: TrajectoryInfluenceConfig) -> ImageSet:
    """The images that the functionals are of."""
    images: ImageSet = getattr(data, config.images)
    if not config.ids:
        if not len(images):
            raise RequestError(f"there are no {config.images} images to ask about")
        return images
    wanted = torch.tensor(config.ids, device=images.device)
    missing = wanted[~torch.isin(wanted, images.ids)]
    if len(missing):
        raise RequestError(f"there is no {config.images} image with the id {int(missing[0])}")
    return images.select(images.contains(wanted))


def _directions(network: Network, loss: FlatLoss, asked: ImageSet, of: Question) -> tuple[list[str], Tensor]:
    """The name of each functional, and its gradient at the trained weights: (functionals, p)."""
    if of == "loss":
        return ["loss"], loss.flat(mean_gradient(network, asked))[None]
    batch, ids = next(network.batches(asked, len(asked))), asked.ids.tolist()

    def outputs(weights: Vector) -> Tensor:
        if of == "logits":
            return network.logits(weights, batch.inputs)
        return network.losses(weights, batch.inputs, batch.labels)[:, None]

    slopes = jacrev(outputs)(network.weights)
    classes = next(iter(slopes.values())).shape[1]
    pairs = [(row, label) for row in range(len(ids)) for label in range(classes)]
    names = [f"logit.{ids[row]}.{label}" if of == "logits" else f"loss.{ids[row]}" for row, label in pairs]
    return names, torch.stack([loss.flat({name: each[at] for name, each in slopes.items()}) for at in pairs])
