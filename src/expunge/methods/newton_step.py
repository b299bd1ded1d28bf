"""Newton step: from the original weights towards the retrained ones, by the curvature of the retained loss."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from expunge.core import checks
from expunge.core.registry import method
from expunge.curvature import moving, newton
from expunge.curvature.network import Network, Vector, frozen
from expunge.curvature.newton import Loss, NewtonConfig
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context

Towards = Literal["retrained", "stationary", "minimum"]


@dataclass(frozen=True)
class NewtonStepConfig(NewtonConfig):
    """Hyperparameters of the Newton step."""

    towards: Towards = "retrained"
    """retrained: to where the same training would have come without the forget set, whether or not it had come to its
    end. stationary: the same, for an original that minimises its loss; the form of most papers. minimum: to the minimum
    of the retained loss, which training that was stopped early never reaches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(get_args(Towards), towards=self.towards)


@method(
    reference="Guo et al. 2020, arXiv:1911.03030; Sekhari et al. 2021, arXiv:2103.03279",
    aliases=("NU", "newton"),
    search={"damping": (1e-4, 1.0)},
    roles=(),
)
def unlearn(model: nn.Module, data: UnlearningData, config: NewtonStepConfig, context: Context) -> nn.Module:
    """``w <- w + (C_r + (l2 + damping) I)^-1 v``, C_r the curvature of the retain set and v the right side.

    The loss is the mean cross-entropy with ``l2/2 ||w||^2``; :func:`direction` has v. Weights that are pruned or
    outside the update mask are constants of the problem. Cost: a gradient of n examples, and a product with the
    curvature of the n_r retained ones per iteration of cg, each about two forward and two backward passes; 5 p numbers.

    Everything depends on the forget set, so no part of it counts as preparation.
    """
    allowed = moving.movable(model, context)
    with frozen(model, newton.precision(model)) as network:
        forget, retain = newton.losses(network, data, config)
        v = direction(network, forget, retain, config.towards, context.regulariser(config.l2))
        change = newton.step([(1.0, retain)], v, allowed, config, context)
    newton.move(model, change, allowed)
    return model


def direction(network: Network, forget: Loss, retain: Loss, towards: Towards, l2: float) -> Vector:
    """The right side v, from the mean gradients g_f of m forgotten and g_r of n_r retained examples; n = m + n_r.

    retrained: ``(m/n) (g_f - g_r)``, the gradient of the loss of training less that of retraining. Were the original
    at its minimum the first would be zero and the step Newton's; where it is not, what is left of training is no
    reason to move. stationary: ``(m/n_r) g_f``, which is that up to a share m/n of the regulariser. minimum: ``-(g_r +
    l2 w)``, Newton's step on the retained loss.
    """
    m, kept = forget.count, retain.count
    if towards == "stationary":
        return {name: m / kept * part for name, part in forget.gradient.items()}
    if towards == "minimum":
        return {name: -(part + l2 * network.weights[name].to(part.dtype)) for name, part in retain.gradient.items()}
    return {name: m / (m + kept) * (part - retain.gradient[name]) for name, part in forget.gradient.items()}
