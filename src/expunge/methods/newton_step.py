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
    """retrained: to the result of the same training without the forget set, whether or not it converged. stationary:
    the same for an original that minimises its loss; the form of most papers. minimum: to the minimum of the retained
    loss, which training that is stopped early does not reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(get_args(Towards), towards=self.towards)


@method(
    reference="Guo et al. 2020, arXiv:1911.03030; Sekhari et al. 2021, arXiv:2103.03279",
    aliases=("NU", "newton"),
    search={"damping": (1e-4, 1.0)},
    stronger=0.1,
    roles=(),
)
def unlearn(model: nn.Module, data: UnlearningData, config: NewtonStepConfig, context: Context) -> nn.Module:
    """``w <- w + (C_r + (l2 + damping) I)^-1 v``, C_r the curvature of the retain set and v the right side.

    The loss is the mean cross-entropy with ``l2/2 ||w||^2``; :func:`direction` gives v. Pruned and frozen weights are
    constants of the problem. Cost: a gradient of n examples, and a product with the curvature of the n_r retained ones
    per iteration of cg, each about two forward and two backward passes; 5 p numbers.
    """
    mask = moving.movable(model, context)
    with frozen(model, newton.precision(model)) as network:
        forget, retain = newton.losses(network, data, config)
        v = direction(network, forget, retain, config.towards, context.l2_coefficient(config.l2))
        change = newton.step([(1.0, retain)], v, mask, config, context)
    moving.move(model, change, mask)
    return model


def direction(network: Network, forget: Loss, retain: Loss, towards: Towards, l2: float) -> Vector:
    """The right side v, from the mean gradients g_f of m forgotten and g_r of n_r retained examples; n = m + n_r.

    retrained: ``(m/n) (g_f - g_r)``, the gradient of the loss of training minus that of retraining, so that a gradient
    of the training loss that is not zero does not count. stationary: ``(m/n_r) g_f``, the same at a minimum of the
    training loss, up to a share m/n of the regulariser. minimum: ``-(g_r + l2 w)``, Newton's step on the retained loss.
    """
    m, kept = forget.count, retain.count
    if towards == "stationary":
        return {name: m / kept * part for name, part in forget.gradient.items()}
    if towards == "minimum":
        return {name: -(part + l2 * network.weights[name].to(part.dtype)) for name, part in retain.gradient.items()}
    return {name: m / (m + kept) * (part - retain.gradient[name]) for name, part in forget.gradient.items()}
