"""Kronecker-factored curvature, K-FAC and EK-FAC, through curvlinops: the extra ``expunge[curvature]``."""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from expunge.core.errors import RequestError, RunError
from expunge.curvature.fisher import true_fisher
from expunge.curvature.network import Network, Vector, hooked
from expunge.curvature.solve import Operator
from expunge.data.image_set import ImageSet

Kind = Literal["kfac", "ekfac"]


@dataclass(frozen=True)
class Kronecker:
    """``A = damping I + F`` with F factored; a product or a solve costs ``sum_layers in out (in + out)`` operations."""

    product: Operator
    """``v -> A v``."""
    inverse: Operator
    """``v -> A^-1 v``, exactly."""


def factored(
    network: Network, images: ImageSet, damping: float, kind: Kind, memory: int, batch_size: int = 256
) -> Kronecker:
    """The damped Kronecker factorisation of the true Fisher matrix, with labels of the model in closed form.

    Layer by layer F is ``E[a a^T] kron E[g g^T]`` (kfac), a the inputs of the layer with a one for its bias and g the
    gradients in its outputs (Martens and Grosse 2015, arXiv:1503.05671; convolutions: Grosse and Martens 2016,
    arXiv:1602.01407, in the form "expand" of arXiv:2311.00636); or it has the eigenvectors of that matrix, and in
    their directions the exact second moments (ekfac; George et al. 2018, arXiv:1806.03884). Between layers it is
    zero. The damping is added to the eigenvalues of the product, not to the factors. Linear and Conv2d layers are
    factored; other weights, such as those of batch normalisation, have the diagonal of the true Fisher matrix.

    Cost: a forward pass and a backward pass for each class over the images (ekfac: twice; as much again where there
    are other weights), and for each layer ``in^3 + out^3`` operations and ``in^2 + out^2`` numbers. ``memory`` bytes
    are for the diagonal.

    Raises:
        RequestError: curvlinops is missing, two layers share a weight, or a layer is not called as a module.
        RunError: The curvature is not finite.
    """
    layers = _factored_names(network, images)
    names = [name for name in network.weights if name in layers]
    others = network.without(names)
    diagonal = true_fisher(others, images, memory) if others.weights else {}
    inverted = {name: 1 / (each + damping) for name, each in diagonal.items()}
    matrix, inverse = _operators(network, images, names, damping, kind, batch_size) if names else (None, None)

    def product(vector: Vector) -> Vector:
        return {name: each + damping * vector[name] for name, each in _apply(matrix, names, diagonal, vector).items()}

    return Kronecker(product, lambda vector: _apply(inverse, names, inverted, vector))


class _Matrix(Protocol):
    """An operator of curvlinops."""

    def __matmul__(self, vector: list[Tensor]) -> list[Tensor]: ...


def _apply(matrix: _Matrix | None, names: list[str], diagonal: Vector, vector: Vector) -> Vector:
    """The product of the matrix with the weights of these names, and of the diagonal with the others."""
    found = [] if matrix is None else matrix @ [vector[name] for name in names]
    parts = dict(zip(names, found, strict=True)) | {name: each * vector[name] for name, each in diagonal.items()}
    return {name: parts[name] for name in vector}


def _factored_names(network: Network, images: ImageSet) -> set[str]:
    """The names of the weights of Linear and Conv2d layers, each of which must be called as a module."""
    model, called = network.model, set[nn.Module]()
    layers = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    with hooked(layers, lambda module, *_: called.add(module)):
        network.logits(network.weights, next(network.batches(images, 1)).inputs)
    owners = Counter(id(weight) for module in layers for weight in module.parameters(recurse=False))
    for module, name in layers.items():
        if module not in called or any(owners[id(weight)] > 1 for weight in module.parameters(recurse=False)):
            raise RequestError(
                f"layer {name} shares a weight with another, or its weights are used without calling it: "
                "there are no Kronecker factors for it; take another solver"
            )
    return {name for name, weight in model.named_parameters() if id(weight) in owners}


@dataclass(frozen=True)
class _Pairs:
    """The pairs of images and labels, batch by batch, each time it is iterated over."""

    network: Network
    images: ImageSet
    size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.inputs, batch.labels) for batch in self.network.batches(self.images, self.size))


def _operators(
    network: Network, images: ImageSet, names: list[str], damping: float, kind: Kind, batch_size: int
) -> tuple[_Matrix, _Matrix]:
    """F and ``(F + damping I)^-1`` over the weights of these names, as operators of curvlinops."""
    try:
        with warnings.catch_warnings():  # it imports deprecated parts of torch
            warnings.simplefilter("ignore", DeprecationWarning)
            curvlinops = import_module("curvlinops")
    except ImportError:
        raise RequestError("K-FAC needs curvlinops: pip install 'expunge[curvature]'") from None
    model = copy.deepcopy(network.model).to(network.dtype)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in network.weights.items():
            weights[name].copy_(weight)
    make = curvlinops.KFACLinearOperator if kind == "kfac" else curvlinops.EKFACLinearOperator
    product = make(
        model,
        nn.CrossEntropyLoss(),
        [weights[name] for name in names],
        _Pairs(network, images, batch_size),
        check_deterministic=False,
        fisher_type="type-2",
        num_per_example_loss_terms=1,
        separate_weight_and_bias=False,
        num_data=len(images),
    )
    inverse = curvlinops.KFACInverseLinearOperator(product, damping=damping, use_exact_damping=True)
    try:  # the factors are computed when first needed
        _ = inverse @ [torch.zeros_like(network.weights[name]) for name in names]
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        raise RunError("the curvature is not finite: the model or its images hold NaN or infinity") from None
    return product, inverse
