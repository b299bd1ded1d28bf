"""The change of the weights scaled by the accuracy on the forget set that it causes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import predict
from expunge.training.context import Context

HALVINGS = 20
"""The most times that the factor of the change is halved or doubled."""
BISECTIONS = 4
"""Bisections of the last interval: the factor is then known to a sixteenth of itself."""


def unseen_accuracy(model: nn.Module, data: UnlearningData, device: torch.device) -> float | None:
    """The accuracy in [0, 1] that the model would have on the forget set if it had not seen it.

    ``sum_c s_c a_c``: s_c is the share of class c in the forget set, and a_c its accuracy on the validation images; 0
    for a class without retained examples, which a retrained model does not know. None if there are no validation
    images of some other forgotten class. It means nothing for forgotten images with wrong labels, such as poisoned
    ones. Cost: a forward pass over the validation images.
    """
    if data.validation is None or not len(data.validation):
        return None
    seen, labels, kept = predict(model, data.validation, device), data.forget.labels.cpu(), data.retain.labels.unique()
    total = 0.0
    for label in labels.unique().tolist():
        of_class = seen.labels == label
        if label in kept.tolist():
            if not bool(of_class.any()):
                return None
            total += float((labels == label).double().mean() * seen.correct()[of_class].double().mean())
    return total


def accuracy(model: nn.Module, images: ImageSet, device: torch.device) -> float:
    """The accuracy of the model in [0, 1]; a forward pass over the images."""
    return predict(model, images, device).accuracy() / 100


def scale(at: Callable[[float], float], wanted: float, most: float) -> float:
    """The factor t in (0, most] at which a falling ``at`` crosses ``wanted``, to about a sixteenth.

    From t = 1 it is doubled while ``at(t) > wanted``, or halved while ``at(t) < wanted``, at most ``HALVINGS`` times;
    then the interval is bisected. The side of the crossing is that of t = infinity if doubled, else that of t = 0.
    """
    first = at(1.0)
    if first == wanted or (first > wanted and most == 1):
        return 1.0
    low = high = 1.0
    for _ in range(HALVINGS):
        low, high = (high, min(2 * high, most)) if first > wanted else (low / 2, low)
        value = at(high if first > wanted else low)
        if (value <= wanted) if first > wanted else (value >= wanted):
            break
        if high == most and first > wanted:
            return most
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        value = at(middle)
        above = value > wanted if first > wanted else value >= wanted
        low, high = (middle, high) if above else (low, middle)
    return high if first > wanted else low


@torch.no_grad()
def rescale(
    model: nn.Module,
    before: Mapping[str, Tensor],
    data: UnlearningData,
    wanted: float,
    most: float,
    context: Context,
) -> None:
    """Scale the change from ``before``, in weights and statistics, until the accuracy on the forget set is ``wanted``.

    Statistics are scaled by at most 1: beyond, a running variance could become negative. The factor and the accuracies
    are noted. Cost: about five to ten forward passes over the forget set.
    """
    after = {name: value.detach().clone() for name, value in model.state_dict().items()}
    statistics = {name for name, _ in model.named_buffers()}

    def at(factor: float) -> float:
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                share = min(factor, 1.0) if name in statistics else factor
                value.copy_(before[name] + share * (after[name] - before[name]))
        return accuracy(model, data.forget, context.device)

    factor = scale(at, wanted, most)
    if factor == 1.0:
        model.load_state_dict(after)
        reached = accuracy(model, data.forget, context.device)
    else:
        reached = at(factor)
    context.notes["reach"] = {"factor": factor, "wanted": 100 * wanted, "reached": 100 * reached}
