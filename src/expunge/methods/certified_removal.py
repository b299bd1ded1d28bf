"""Certified removal: Newton steps on the last linear layer, and noise that hides how far from retraining they end."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

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
"""The model that the certificate compares with, in the words of the result."""


@dataclass(frozen=True)
class CertifiedRemovalConfig:
    """Hyperparameters of certified removal."""

    l2: float | None = None
    """Coefficient of l2/2 ||w||^2 in the loss of the last layer: by default the weight_decay of the original's rule,
    where that is known; there is no certificate with 0. The noise is proportional to 1/l2, so that certificates of use
    need far more than is usual for training."""
    epsilon: float = 1.0
    """Logarithm of the largest ratio of the probabilities of anything under the unlearned and the retrained model."""
    delta: float = 1e-5
    """The probability with which that may fail, in (0, 1)."""
    budget: float | None = None
    """Distance to the retrained weights that the noise hides. Set it before the deletions are known, and keep to it.
    Without it sigma is chosen from the data, and the certificate is conditional on it: it does not cover what sigma
    itself says of them."""
    repeatable: bool = False
    """Draw the noise from the seed of the run, so that the run can be made again: whoever knows the seed can take the
    noise off, and the certificate is void. Without it the noise is secret, and no two runs are the same."""
    backbone_is_public: bool = False
    """Take the features that the last layer sees, and which weights are pruned, as given. They may come from the forget
    set: the certificate is then of the last layer alone. Models with such features are refused without this."""
    reference_gradient_norm: float = 1e-6
    """How far the retrained layer is trained: until its gradient has this norm. What is left to its minimum counts."""
    steps: int = 1
    """Newton steps: each about squares the distance where it is small."""
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

    The features X are computed once, in evaluation mode, and stay as they are, as do the constants of the input step.
    F is strongly convex in W: the gradient that the steps leave bounds the distance to the retrained layer, whatever
    the original was, and sigma hides that distance at (epsilon, delta). The result notes what is proven, in the words
    of :class:`certification.Certificate`. All of it is in float64. The forget set is never read.

    The noise is one draw per release, from the operating system, and kept nowhere. To forget more, start from the same
    original, which was not released, with the longer forget set; the epsilons and deltas of all releases add up for
    whoever sees them all. That needs independent noise, which secret noise is: noise from one seed cancels in the
    difference of two releases.

    Cost: a forward pass of the retain set, and 4 n classes d multiplications per iteration of each step.

    Raises:
        RequestError: What the certificate supposes does not hold.
        RunError: The bound exceeds the budget, or conjugate gradient does not converge.
    """
    l2 = context.regulariser(config.l2)
    certification.check(l2, config.epsilon, config.delta)
    with frozen(model, newton.precision(model)) as network:
        head = heads.find(network, data.retain)
        covers = _covered(model, head, config, context)
        inputs = heads.features(network, head, data.retain, config.batch_size)
        certification.check_features(inputs)
        weights, free = head.matrix(network.weights).double(), head.matrix(moving.existing(model, context))
    for _ in range(config.steps):
        weights = weights + _newton(head, weights, inputs, data.retain.labels, free, l2, config, context)
    certificate = certification.certify(
        weights,
        inputs,
        data.retain.labels,
        l2=l2,
        epsilon=config.epsilon,
        delta=config.delta,
        budget=config.budget,
        reference_gradient_norm=config.reference_gradient_norm,
        free=free,
    )
    if config.repeatable:
        noise, drawn = "from the seed: the certificate is void for whoever knows it", _from_seed(weights, context)
    else:
        noise, drawn = "secret", certification.secret_noise(weights.shape)
    context.notes["certificate"] = {**asdict(certificate), "covers": covers, "retrained": RETRAINED, "noise": noise}
    assign(model, head.vector(torch.where(free, weights + certificate.sigma * drawn.to(weights.device), weights)))
    return model


def _covered(model: nn.Module, head: Head, config: CertifiedRemovalConfig, context: Context) -> str:
    """What the certificate is of.

    Raises:
        RequestError: Something that does not move may keep what it learnt from the forget set.
    """
    existing, movable = moving.existing(model, context), moving.movable(model, context)
    if any(not torch.equal(existing[name], movable[name]) for name in head.names):
        raise RequestError(
            "the update mask holds weights of the last layer at what they learnt from the forget set, and no noise on "
            "the others hides that: do without an update mask here"
        )
    if not _learnt_elsewhere(model, head) and context.sparsity is None:
        return "the whole model"
    if not config.backbone_is_public:
        raise RequestError(
            "the features of the last layer, or which weights are pruned, were learnt too: if from the forget set, no "
            "change of the last layer removes what they know of it. With backbone_is_public=true they are taken as "
            "given, and the certificate is of the last layer alone: for features that were learnt from other data, or "
            "that everyone may know"
        )
    return "the last linear layer, with its features and the pruned weights taken as given"


def _learnt_elsewhere(model: nn.Module, head: Head) -> bool:
    """Whether there are weights, or statistics as those of batch normalisation, outside the head."""
    statistics = [
        module
        for module in model.modules()
        if not isinstance(module, InputNormalisation) and any(True for _ in module.buffers(recurse=False))
    ]
    return bool(statistics) or any(name not in head.names for name, _ in model.named_parameters())


def _newton(
    head: Head,
    weights: Tensor,
    inputs: Tensor,
    labels: Tensor,
    free: Tensor,
    l2: float,
    config: CertifiedRemovalConfig,
    context: Context,
) -> Tensor:
    """``-H^-1 grad F(W)`` over the free weights, (classes, d)."""
    loss = newton.of_head(head, weights, inputs, labels)
    right = head.vector(-certification.gradient(weights, inputs, labels, l2))
    system = NewtonConfig(l2=l2, damping=0.0, tolerance=config.tolerance, iterations=config.iterations)
    return head.matrix(newton.step([(1.0, loss)], right, head.vector(free), system, context))


def _from_seed(weights: Tensor, context: Context) -> Tensor:
    """N(0, I) in the shape of the weights, the same for the same seed."""
    generator = context.generator
    return torch.randn(weights.shape, generator=generator, dtype=weights.dtype, device=generator.device)
