"""Influence unlearning: one Newton-like step that takes the forget set's weight out of the training loss."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from expunge.core import checks
from expunge.core.registry import method
from expunge.curvature import moving
from expunge.curvature.gram import fisher_solve
from expunge.curvature.kronecker import factored
from expunge.curvature.network import Network, Vector, check_finite, frozen, mean_gradient
from expunge.curvature.products import gauss_newton_vector, slopes_along
from expunge.curvature.solve import Operator, conjugate_gradient, lissa
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context

Way = Literal["gram", "cg", "lissa", "kfac", "ekfac"]

RELEASED_COUNT = 1000
"""N0 of the released recursion, for any number of examples; it reads two examples more."""


@dataclass(frozen=True)
class InfluenceConfig:
    """Hyperparameters of influence unlearning."""

    alpha: float = 1.0
    """Length of the step: 1 in theory, 0 changes nothing. Published: 1 to 20."""
    damping: float = 1.0
    """Added to the diagonal of the curvature, which is far below 1 for a trained network: with 1 the step is nearly
    along the gradient."""
    samples: int = 1000
    """Retained examples from which the curvature is computed, drawn at random; all where there are no more."""
    solver: Way = "gram"
    """gram: empirical Fisher matrix, solved exactly. cg, lissa: Gauss-Newton matrix, by conjugate gradient or a
    truncated Neumann series. kfac, ekfac: its Kronecker factorisation, solved exactly (needs expunge[curvature])."""
    tolerance: float = 1e-3
    """All but gram: the residual at which the solver stops, relative to the right side."""
    iterations: int = 200
    """The most iterations; the run fails without convergence. lissa: the most terms of the series."""
    scale: float = 10.0
    """lissa: at least half the largest eigenvalue of the damped curvature; the smaller, the faster."""
    as_released: bool = False
    """The released recursion, which keeps one direction of the curvature; ignores damping, samples and solver."""
    batch_size: int = 256
    """Examples per pass; changes rounding alone."""
    memory: float = 4.0
    """Gigabytes that gradients of single examples may take; less makes more passes."""

    def __post_init__(self) -> None:
        checks.at_least(0, alpha=self.alpha)
        checks.above(0, damping=self.damping, memory=self.memory, scale=self.scale)
        checks.between(0, 1, tolerance=self.tolerance)
        checks.one_of(get_args(Way), solver=self.solver)
        checks.at_least(1, samples=self.samples, iterations=self.iterations, batch_size=self.batch_size)


@method(
    reference="Izzo et al. 2021, arXiv:2002.10077; as in Jia et al. 2023, arXiv:2304.04934",
    aliases=("IU", "wfisher"),
    search={"alpha": (1e-1, 1e2)},
    reach=0.75,
    extend=1e6,
    roles=(),
)
def unlearn(model: nn.Module, data: UnlearningData, config: InfluenceConfig, context: Context) -> nn.Module:
    """``theta <- theta + alpha F^-1 v``, with v of :func:`direction` and F the curvature of the retain set.

    At a minimum of the training loss, giving the forgotten examples no weight and the retained ones 1/n_r moves the
    minimum by ``H^-1 v``; F stands for H: ``damping I + (1/n) sum_i g_i g_i^T`` (gram), the damped Gauss-Newton matrix
    (cg, lissa), or the latter with Kronecker factors for each layer (kfac, ekfac). Pruned and frozen weights are
    constants of the problem: neither v nor F has them, except that the eigenvectors of ekfac are those of whole layers.
    As released, the step is that of :func:`released_step`, and the update mask is applied to it at the end.
    """
    updated = moving.movable(model, context)
    mask = moving.sparsity_mask(model, context) if config.as_released else updated
    with frozen(model) as network:
        v = _masked(direction(network, data, config.batch_size), mask)
        if config.as_released:
            step = released_step(network, data.retain, v, mask, config.batch_size)
        else:
            step = solve(network, data.retain, v, mask, config, context)
    moving.move(model, {name: config.alpha * each for name, each in step.items()}, updated)
    return model


def direction(network: Network, data: UnlearningData, batch_size: int) -> Vector:
    """``v = (1/N) sum_forget g_i - n_f / (N n_r) sum_retain g_i`` with N = n_f + n_r; a pass over both sets.

    The weights 1/N of training minus those of the loss wanted: they sum to zero.
    """
    forget = mean_gradient(network, data.forget, batch_size)
    retain = mean_gradient(network, data.retain, batch_size)
    share = len(data.forget) / (len(data.forget) + len(data.retain))
    return {name: share * (forget[name] - retain[name]) for name in forget}


def solve(
    network: Network, retain: ImageSet, v: Vector, mask: Vector, config: InfluenceConfig, context: Context
) -> Vector:
    """``F^-1 v`` within the mask, from ``samples`` retained examples.

    With Kronecker factors the inverse is known, and one iteration preconditioned by it is exact. Under an update mask,
    the inverse of the submatrix is not the submatrix of the inverse, so that more iterations are needed.
    """
    images, memory = sample(retain, config.samples, context.generator), int(config.memory * 1e9)
    if config.solver == "gram":
        return fisher_solve(network, images, v, config.damping, memory, mask)

    def within(operator: Operator) -> Operator:
        return lambda vector: _masked(operator(vector), mask)

    def damped(vector: Vector) -> Vector:
        product = gauss_newton_vector(network, images, vector, config.batch_size)
        return {name: config.damping * vector[name] + each for name, each in product.items()}

    tolerance, iterations = config.tolerance, config.iterations
    if config.solver == "lissa":
        found = lissa(within(damped), v, config.scale, iterations, tolerance)
    elif config.solver == "cg":
        found = conjugate_gradient(within(damped), v, tolerance, iterations)
    else:
        kronecker = factored(network, images, config.damping, config.solver, memory, config.batch_size)
        product, inverse = within(kronecker.product), within(kronecker.inverse)
        found = conjugate_gradient(product, v, tolerance, iterations, inverse)
    context.notes[config.solver] = {"iterations": found.iterations, "residual": found.residual}
    return found.vector


def sample(images: ImageSet, count: int, generator: torch.Generator) -> ImageSet:
    """``count`` of the images drawn without replacement, all where there are no more."""
    if len(images) <= count:
        return images
    drawn = torch.randperm(len(images), generator=generator, device=generator.device)[:count]
    return images.select(drawn.sort().values)


def released_step(network: Network, retain: ImageSet, v: Vector, mask: Vector, batch_size: int) -> Vector:
    """``k = v - c g_0``, the result of the released recursion for ``F^-1 v``, with g_0 the first retained gradient.

    The recursion starts with o = g_0 and k = v and, for each later example, computes ``t = o . g``,
    ``k <- k - (k . g) / (N0 + t) o`` and ``o <- o - t / (N0 + t) o``. WoodFisher computes o from each g; here o is
    always ``s g_0``, and k is ``v - c g_0``. With ``a_i = g_i . g_0`` and ``b_i = g_i . v`` the loop is one over
    scalars: ``t = s a_i``, ``c <- c + s (b_i - c a_i) / (N0 + t)``, ``s <- s N0 / (N0 + t)``. Only the curvature in
    one direction enters: the published method is in effect a step along v.

    Cost: about two forward passes and a backward pass over at most 1,002 images, and 1,001 updates of two numbers.
    """
    count = min(len(retain), RELEASED_COUNT + 2)
    first, later = retain.select(torch.arange(1)), retain.select(torch.arange(1, count))
    origin = _masked(mean_gradient(network, first, batch_size), mask)
    c, s = 0.0, 1.0
    if len(later):
        both = {name: torch.stack([origin[name], v[name]]) for name in v}
        slopes = slopes_along(network, later, both, batch_size)
        check_finite("the gradients of some examples are", slopes)
        for a, b in zip(*slopes.double().tolist(), strict=True):
            t = s * a
            c += s * (b - c * a) / (RELEASED_COUNT + t)
            s *= RELEASED_COUNT / (RELEASED_COUNT + t)
    return {name: v[name] - c * origin[name] for name in v}


def _masked(vector: Vector, mask: Vector) -> Vector:
    """Zero where ``mask`` (bool by name) is false."""
    return {name: each * mask[name] for name, each in vector.items()}
