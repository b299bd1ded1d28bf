"""Infinitesimal jackknife: the first derivative of the trained weights in the weight of the forgotten examples."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from expunge.core import checks
from expunge.core.registry import method
from expunge.curvature import moving, newton
from expunge.curvature.network import Vector, frozen
from expunge.curvature.newton import Loss, NewtonConfig
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context

MeanOver = Literal["kept", "all"]


@dataclass(frozen=True)
class InfinitesimalJackknifeConfig(NewtonConfig):
    """Hyperparameters of the infinitesimal jackknife."""

    mean_over: MeanOver = "kept"
    """The divisor of the retrained model's loss. kept: the number of retained examples, as in training. all: the number
    of all examples, as if the forgotten ones had a loss of zero; the form of most papers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(get_args(MeanOver), mean_over=self.mean_over)


@method(
    reference="Giordano et al. 2019, arXiv:1806.00550",
    aliases=("IJ",),
    search={"damping": (1e-4, 1.0)},
    stronger=0.1,
    roles=(),
)
def unlearn(
    model: nn.Module, data: UnlearningData, config: InfinitesimalJackknifeConfig, context: Context
) -> nn.Module:
    """``w <- w + (m/n) (C + (l2 + damping) I)^-1 (g_f - g)``, with C the curvature at all n examples.

    g is their mean gradient and g_f that of the m forgotten ones. This is the derivative of the minimiser of the mean
    loss with ``l2/2 ||w||^2`` in the weight of the forgotten examples, at weight one: its matrix does not depend on the
    forget set, unlike the Newton step's. With ``mean_over=all`` the loss is divided by n for any weight, and g is left
    out. Pruned and frozen weights are constants of the problem.

    Cost: a gradient of n examples, and a product with their curvature per iteration of cg, each about two forward and
    two backward passes; 5 p numbers.
    """
    mask = moving.movable(model, context)
    with frozen(model, newton.precision(model)) as network:
        forget, retain = newton.losses(network, data, config)
        share = forget.count / (forget.count + retain.count)
        v = direction(forget, retain, config.mean_over)
        change = newton.step([(share, forget), (1 - share, retain)], v, mask, config, context)
    moving.move(model, change, mask)
    return model


def direction(forget: Loss, retain: Loss, mean_over: MeanOver) -> Vector:
    """``(m/n) (g_f - g)`` or ``(m/n) g_f``, from the mean gradients of both sets."""
    share = forget.count / (forget.count + retain.count)
    if mean_over == "all":
        return {name: share * part for name, part in forget.gradient.items()}
    # g is the mean over both sets, so g_f - g is (n_r/n) (g_f - g_r)
    return {name: share * (1 - share) * (part - retain.gradient[name]) for name, part in forget.gradient.items()}
