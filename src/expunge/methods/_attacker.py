"""The attacker of discriminative adversarial unlearning: its network, its inputs, its first training."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import randomness
from expunge.curvature.network import forward_mode
from expunge.data.image_set import Batch, ImageSet
from expunge.training.losses import cross_entropy
from expunge.training.rules import Rule
from expunge.training.stepper import Stepper

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images to logits (batch, classes) and features (batch, d)."""


class Attacker(nn.Module):
    """Tells training images (1) from images never seen (0): a transformer over the classes of each example.

    The token of a class is its logit, whether it is the label, and how sensitive the logit is to noise. Tokens are
    normalised over the batch, embedded in 64 dimensions, attend to each other in 3 layers (post-norm, 4 heads, 128
    hidden units, no positions) and are read together. Sharma et al. 2024 (arXiv:2402.06864).
    """

    def __init__(self, classes: int, dropout: float = 0.2) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.bn = nn.BatchNorm1d(3 * classes)
        self.fc1 = nn.Linear(3, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout, functional.gelu, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.fc2 = nn.Linear(64 * classes, 64)
        self.fc3 = nn.Linear(64, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, 2), from the inputs of :class:`View`."""
        tokens = self.bn(inputs.float()).unflatten(1, (3, -1)).transpose(1, 2)
        encoded = self.transformer_encoder(functional.gelu(self.fc1(tokens)))
        return self.fc3(functional.relu(self.fc2(encoded.flatten(1))))


def learner(attacker: Attacker, lr: float, steps: int, device: torch.device) -> Stepper:
    """What trains the attacker: Adam in float32. Its losses are checked, but are no part of the run's history."""
    adam = Rule(optimizer="adamw", lr=lr, weight_decay=0.0)
    return Stepper(attacker, adam, steps, device=device, precision="float32")


def recognition(attacker: Callable[[Tensor], Tensor], members: Tensor, others: Tensor) -> Tensor:
    """The attacker's cross-entropy where ``members`` are of class 1 and ``others`` of class 0, judged as one batch."""
    ones, zeros = members.new_ones(len(members)), others.new_zeros(len(others))
    return cross_entropy(attacker(torch.cat([members, others])), torch.cat([ones, zeros]).long())


@dataclass(frozen=True)
class Probe:
    """How the sensitivity of logits to noise is measured."""

    kind: Literal["copies", "derivative"]
    directions: int
    noise: float


@dataclass(frozen=True)
class Noisy:
    """A batch with directions of noise for it: (directions, batch, channels, height, width)."""

    batch: Batch
    directions: Tensor


@dataclass(frozen=True)
class View:
    """What the model shows of a batch, with gradients to the weights."""

    inputs: Tensor
    """For the attacker: per example the logits, the one-hot label and the sensitivities: (batch, 3 classes)."""
    features: Tensor
    """The inputs of the last layer: (batch, d)."""


def noisy(batch: Batch, probe: Probe, generator: torch.Generator) -> Noisy:
    """The batch with directions drawn from the standard normal distribution."""
    shape, images = (probe.directions, *batch.inputs.shape), batch.inputs
    drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=images.dtype)
    return Noisy(batch, drawn.to(images.device))


def observe(model: nn.Module, forward: Forward, probe: Probe, seen: Noisy) -> View:
    """What the model shows of a batch.

    In float32 where the weights are, whatever the precision of the run: a difference under noise of 1e-3 is below
    the rounding of bfloat16 or TF32. The running statistics of batch normalisation stay as they are.
    """
    inputs = seen.batch.inputs
    with _exact(inputs.device), _undisturbed(model):
        if probe.kind == "copies":
            logits, features, sensitivity = by_copies(forward, inputs, seen.directions, probe.noise)
        else:
            logits, features, sensitivity = by_derivative(forward, inputs, seen.directions)
    labels = functional.one_hot(seen.batch.labels, logits.shape[1])
    return View(torch.cat([logits, labels, sensitivity], dim=1), features)


def by_copies(forward: Forward, inputs: Tensor, directions: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, features, and per logit the sensitivity ``mean_k |z(x + e u_k) - z(x)| / e``: (batch, classes).

    One pass over the batch, and one over all its copies together, copy k of the batch after copy k - 1.
    """
    logits, features = forward(inputs)
    copies, _ = forward((inputs + noise * directions).flatten(0, 1))
    differences = copies.unflatten(0, (len(directions), len(inputs))) - logits
    return logits, features, differences.abs().mean(0) / noise


def by_derivative(forward: Forward, inputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, features, and per logit the sensitivity ``mean_k |J u_k|``, J the Jacobian of logits in images.

    The limit of :func:`by_copies` as the noise vanishes, by one pass in forward mode with all directions side by
    side. Where the model uses statistics of the batch, a direction moves them alone, while copies share theirs:
    there the two differ a little even in the limit.
    """

    def along(direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = torch.func.jvp(forward, (inputs,), (direction,), has_aux=True)
        logits, slopes, features = cast("tuple[Tensor, Tensor, Tensor]", found)
        return logits, features, slopes

    per_direction = (None, None, 0)  # logits and features are the same for all
    together = torch.func.vmap(along, out_dims=per_direction, randomness="same")  # pyright: ignore
    with forward_mode():
        logits, features, slopes = together(directions)
    return logits, features, slopes.abs().mean(0)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Within the block, no autocast, and on a GPU no TF32 in convolutions."""
    cudnn = torch.backends.cudnn
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(
                cudnn.flags(
                    enabled=cudnn.enabled,
                    benchmark=cudnn.benchmark,
                    deterministic=cudnn.deterministic,
                    allow_tf32=False,
                )
            )
        yield


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Within the block, passes do not change running statistics, and dropout is off.

    Batch normalisation goes on using the statistics of the batch. Without dropout the model is a function, whose
    sensitivity to noise can be told.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]  # pyright: ignore
    dropouts = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]  # pyright: ignore
    tracked = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            norm.track_running_stats = False
        for dropout in dropouts:
            dropout.training = False
        yield
    finally:
        for norm, tracking in zip(norms, tracked, strict=True):
            norm.track_running_stats = tracking
        for dropout in dropouts:
            dropout.training = True


@contextmanager
def tapped(model: nn.Module, classifier: nn.Linear) -> Iterator[Forward]:
    """Within the block, forward passes that also give the features: what the classifier takes as input."""
    seen: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    def forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen.clear()
        logits = model(inputs)
        return logits, seen.pop().flatten(1)

    try:
        yield forward
    finally:
        hook.remove()


@dataclass(frozen=True)
class Pretraining:
    """All that the attacker depends on before the unlearning, besides the model, the images and the seed."""

    steps: int
    batch_size: int
    lr: float
    probe: Probe


def pretrained(
    model: nn.Module,
    classifier: nn.Linear,
    members: ImageSet,
    others: ImageSet,
    plan: Pretraining,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The state of an attacker that has learned to tell ``members`` from ``others`` by what the model shows of them.

    The model stays as it is. Cost: ``steps`` forward passes over two batches and their noisy copies.
    """
    size = min(plan.batch_size, len(members), len(others))
    streams = draws(members, size, generator), draws(others, size, generator)
    with randomness.seeded(generator), tapped(model, classifier) as forward:
        attacker = Attacker(classifier.out_features).to(members.device)
        learn = learner(attacker, plan.lr, plan.steps, members.device)
        for _, *batches in zip(range(plan.steps), *streams, strict=False):
            with torch.no_grad():
                seen = [observe(model, forward, plan.probe, noisy(batch, plan.probe, generator)) for batch in batches]
            learn(attacker=lambda v=seen: recognition(attacker, v[0].inputs, v[1].inputs))
    return attacker.state_dict()


def draws(images: ImageSet, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Batches of exactly ``size`` without end: each pass is shuffled and augmented; a smaller last batch is dropped.

    A rest of two or three examples would give correlations and statistics of noise alone.
    """
    while True:
        for batch in images.batches(size, generator):
            if len(batch.labels) >= size:
                yield Batch(batch.inputs[:size], batch.labels[:size], batch.ids[:size])
