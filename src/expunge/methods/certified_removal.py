"""Certified removal: Newton steps on the last linear layer, and noise that hides how far from retraining they end."""

from dataclasses import asdict, dataclass

import torch
from torch import nn

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import method
from expunge.core.weights import assign
from expunge.curvature import certificate as certification
from expunge.curvature import heads, moving, newton
from expunge.curvature.heads import Head
from expunge.curvature.network import frozen
from expunge.curvature.newton import NewtonConfig
from expunge.data.normalisation import InputNormalisation
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context

RETRAINED = (
    "weights at which the mean cross-entropy of the retain set with l2/2 ||w||^2 has a gradient of at most "
    "reference_gradient_norm, and the same noise on them"
)
"""The model that the certificate compares with, for the notes of the result."""


@dataclass(frozen=True)
class CertifiedRemovalConfig:
    """Hyperparameters of certified removal."""

    l2: float | None = None
    """Coefficient of l2/2 ||w||^2 in the loss of the last layer: by default the weight_decay of the original's rule,
    where that is known. It must be above 0. The noise is proportional to 1/l2, so that useful certificates need a much
    larger value than is usual for training."""
    epsilon: float = 1.0
    """Privacy parameter: log of the largest ratio of probabilities under the unlearned and the retrained model."""
    delta: float = 1e-5
    """Privacy parameter: the probability with which that bound may fail, in (0, 1)."""
    budget: float | None = None
    """Distance to the retrained weights that the noise hides. Set it before the deletions are known. Without it sigma
    is chosen from the data, and the certificate is conditional on sigma: it does not cover what sigma reveals."""
    repeatable: bool = False
    """Draw the noise from the seed of the run, so that the run can be repeated. Anyone who knows the seed can remove
    the noise, so that the certificate is void. Without it the noise is secret, and no two runs are the same."""
    backbone_is_public: bool = False
    """Take the inputs of the last layer, and the sparsity mask, as given, although they may depend on the forget set:
    the certificate is then of the last layer alone. Models with such features are refused without this option."""
    reference_gradient_norm: float = 1e-6
    """Norm of the gradient at which training of the retrained layer stops; the bound includes it."""
    steps: int = 1
    """Newton steps; near the minimum each about squares the distance to it."""
    tolerance: float = 1e-8
    """The residual, relative to the right side, to which each Newton step is solved."""
    iterations: int = 2000
    """The most iterations of conjugate gradient in each step."""
    batch_size: int = 256
    """Examples per pass; changes rounding alone."""

    def __post_init__(self) -> None:
        certification.check(1.0 if self.l2 is None else self.l2, self.epsilon, self.delta)
        checks.above(0, budget=self.budget)
        checks.at_least(0, reference_gradient_norm=self.reference_gradient_norm)
        checks.between(0, 1, tolerance=self.tolerance)
        checks.at_least(1, steps=self.steps, iterations=self.iterations, batch_size=self.batch_size)


@method(
    reference="Guo et al. 2020, arXiv:1911.03030; noise: Balle & Wang 2018, arXiv:1805.06530",
    search={"l2": (1e-3, 1.0)},
    roles=(),
)
def unlearn(model: nn.Module, data: UnlearningData, config: CertifiedRemovalConfig, context: Context) -> nn.Module:
    """``W <- W - H^-1 grad F(W) + sigma N(0, I)`` for the last layer W, F the loss of the retain set and H its Hessian.

    The features X are computed once, in evaluation mode. F is strongly convex in W: the norm of its gradient after the
    steps bounds the distance to the retrained layer, and sigma hides that distance at (epsilon, delta). Everything is
    in float64. The forget set is not read. The notes of the result hold the :class:`certification.Certificate`.

    The noise is drawn once per release, from the operating system, and not stored. To forget more, start from the same
    unreleased original with the longer forget set: with independent noise, epsilons and deltas of all releases add up.
    Noise from one seed would cancel in the difference of two releases.

    Cost: a forward pass of the retain set, and 4 n classes d multiplications per iteration of each step.

    Raises:
        RequestError: An assumption of the certificate does not hold.
        RunError: The bound exceeds the budget, or conjugate gradient does not converge.
    """
    l2, labels, generator = context.l2_coefficient(config.l2), data.retain.labels, context.generator
    certification.check(l2, config.epsilon, config.delta)
    with frozen(model, newton.precision(model)) as network:
        head = heads.find(network, data.retain)
        covers = _covered(model, head, config, context)
        inputs = heads.features(network, head, data.retain, config.batch_size)
        certification.check_features(inputs)
        weights, mask = head.matrix(network.weights).double(), head.matrix(moving.sparsity_mask(model, context))
    system = NewtonConfig(l2=l2, damping=0.0, tolerance=config.tolerance, iterations=config.iterations)
    for _ in range(config.steps):
        loss = newton.of_head(head, weights, inputs, labels)
        right = head.vector(-certification.gradient(weights, inputs, labels, l2))
        weights = weights + head.matrix(newton.step([(1.0, loss)], right, head.vector(mask), system, context))
    certificate = certification.certify(
        weights,
        inputs,
        labels,
        l2=l2,
        epsilon=config.epsilon,
        delta=config.delta,
        budget=config.budget,
        reference_gradient_norm=config.reference_gradient_norm,
        mask=mask,
    )
    if config.repeatable:
        noise = "drawn from the seed: the certificate does not hold against an attacker who knows the seed"
        drawn = torch.randn(weights.shape, generator=generator, dtype=weights.dtype, device=generator.device)
    else:
        noise, drawn = "secret", certification.secret_noise(weights.shape)
    context.notes["certificate"] = {**asdict(certificate), "covers": covers, "retrained": RETRAINED, "noise": noise}
    assign(model, head.vector(torch.where(mask, weights + certificate.sigma * drawn.to(weights.device), weights)))
    return model


def _covered(model: nn.Module, head: Head, config: CertifiedRemovalConfig, context: Context) -> str:
    """The part of the model that the certificate covers.

    Raises:
        RequestError: A frozen part of the model may depend on the forget set.
    """
    kept, updated = moving.sparsity_mask(model, context), moving.movable(model, context)
    if any(not torch.equal(kept[name], updated[name]) for name in head.names):
        raise RequestError(
            "the update mask holds weights of the last layer at what they learnt from the forget set, and no noise on "
            "the others hides that: do without an update mask here"
        )
    statistics = any(
        True
        for module in model.modules()
        if not isinstance(module, InputNormalisation)  # whose constants are published
        for _ in module.buffers(recurse=False)
    )
    only_the_head = not statistics and all(name in head.names for name, _ in model.named_parameters())
    if only_the_head and context.sparsity is None:
        return "the whole model"
    if not config.backbone_is_public:
        raise RequestError(
            "the features of the last layer, or which weights are pruned, were learnt too: if from the forget set, no "
            "change of the last layer removes what they know of it. With backbone_is_public=true they are taken as "
            "given, and the certificate is of the last layer alone: for features that were learnt from other data, or "
            "that everyone may know"
        )
    return "the last linear layer, with its features and the pruned weights taken as given"
