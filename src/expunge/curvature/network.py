"""A network as a function of its weights, in evaluation mode."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from expunge.core.errors import RequestError, RunError
from expunge.core.weights import check_plain, evaluating, trainable
from expunge.data.image_set import Batch, ImageSet

Vector = dict[str, Tensor]
"""A vector in the space of the trainable weights: a tensor of each weight's shape, by its name."""


@dataclass(frozen=True)
class Network:
    """The function ``weights -> logits`` of a model in evaluation mode."""

    model: nn.Module
    weights: Vector
    """The trainable weights, detached, in the precision of the computation."""
    constants: Vector
    """Frozen weights and buffers. In evaluation mode batch normalisation is a fixed affine map of its input."""
    dtype: torch.dtype

    def logits(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The logits (batch, classes) under these weights."""
        return functional_call(self.model, {**self.constants, **weights}, (inputs,))

    def losses(self, weights: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy (batch,) of each example, in nats."""
        return functional.cross_entropy(self.logits(weights, inputs), labels, reduction="none")

    def batches(self, images: ImageSet, size: int) -> Iterator[Batch]:
        """All images on the test transform, in their order, in the precision of the computation."""
        for batch in images.batches(size):
            yield Batch(batch.inputs.to(self.dtype), batch.labels, batch.ids)

    def without(self, names: Iterable[str]) -> "Network":
        """The network as a function of its other weights."""
        constants = {**self.constants, **{name: self.weights[name] for name in names}}
        weights = {name: weight for name, weight in self.weights.items() if name not in constants}
        return replace(self, weights=weights, constants=constants)

    def leaves(self) -> Vector:
        """The weights as leaves of a new graph."""
        return {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}


@contextmanager
def frozen(model: nn.Module, dtype: torch.dtype = torch.float32) -> Iterator[Network]:
    """Within the block, ``model`` as a function of its weights; afterwards every module is in its previous mode.

    The computation is in ``dtype`` (float32 or float64). The model itself is not changed. Memory: a copy of the model
    where its precision is another.

    Raises:
        RequestError: Nothing is trainable, or some layer mixes the examples of a batch even in evaluation mode.
    """
    trained = trainable(model)
    if not trained:
        raise RequestError("the model has no trainable weights: all have requires_grad=False")
    check_plain(model, "curvature")
    for name, module in model.named_modules():
        normalises = isinstance(module, nn.modules.batchnorm._BatchNorm)  # pyright: ignore
        if normalises and module.running_mean is None:
            raise RequestError(
                f"{name or 'the model'} normalises by the statistics of each batch even in evaluation mode: "
                "no example has a gradient of its own; give it track_running_stats=True"
            )
    weights = {name: weight.detach().to(dtype) for name, weight in trained.items()}
    constants = {
        name: value.detach().to(dtype) if value.is_floating_point() else value.detach()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if name not in trained
    }
    with evaluating(model):
        yield Network(model, weights, constants, dtype)


@contextmanager
def hooked(
    modules: Iterable[nn.Module], note: Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
) -> Iterator[None]:
    """Within the block, ``note(module, inputs, output)`` is called after every forward pass of these modules."""
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def kept_bytes(network: Network, images: ImageSet) -> int:
    """The bytes that autograd keeps of the forward pass of one image, without the weights; at least one."""
    kept = 1
    leaves = network.leaves()
    weights = {weight.data_ptr() for weight in leaves.values()}

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if tensor.data_ptr() in weights else tensor.nbytes
        return tensor

    first = next(network.batches(images, 1))
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network.losses(leaves, first.inputs, first.labels)
    return kept


def mean_gradient(network: Network, images: ImageSet, batch_size: int = 256) -> Vector:
    """``(1/n) sum_i grad CE_i`` over all n images; one forward and backward pass."""
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    for batch in network.batches(images, batch_size):
        weights = network.leaves()
        loss = network.losses(weights, batch.inputs, batch.labels).sum() / len(images)
        add(total, torch.autograd.grad(loss, list(weights.values()), materialize_grads=True))
    return total


def add(total: Vector, parts: tuple[Tensor, ...]) -> None:
    """Add tensors, in the order of the names, to ``total`` in place."""
    for name, part in zip(total, parts, strict=True):
        total[name] += part


def flat(vector: Mapping[str, Tensor]) -> Tensor:
    """A vector as one tensor (p,), in the order of its names."""
    return torch.cat([part.flatten() for part in vector.values()])


def shaped(vector: Tensor, like: Mapping[str, Tensor]) -> Vector:
    """The inverse of :func:`flat`: a tensor (p,) in the names and shapes of ``like``."""
    pieces = vector.split([part.numel() for part in like.values()])
    return {name: piece.view(like[name].shape) for name, piece in zip(like, pieces, strict=True)}


def check_finite(what: str, *tensors: Tensor) -> None:
    """Raise a RunError unless all numbers are finite; synchronises with the device."""
    if not all(bool(torch.isfinite(each).all()) for each in tensors):
        raise RunError(f"{what} not finite: the model or its images hold NaN or infinity")


def dot(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """The inner product of two vectors, ()."""
    return torch.stack([(first[name] * second[name]).sum() for name in first]).sum()


@contextmanager
def forward_mode() -> Iterator[None]:
    """Within the block, forward-mode differentiation does not warn that torch itself uses ``torch.jit.script``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        yield
