"""Masks: one bool per weight, by ranking of scores, stored as bits.

A *sparsity mask* is false for pruned weights, which are zero; an *update mask* is false for frozen weights.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.core import files
from expunge.core.errors import RequestError
from expunge.core.packing import from_bits, to_bits
from expunge.core.weights import check_same, trainable


class Mask(Mapping[str, Tensor]):
    """An immutable set of bool tensors by parameter name, each of its parameter's shape."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise RequestError(f"a mask holds bool tensors, {name} is {tensor.dtype}")
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def density(self) -> float:
        """The share of weights that are true, in [0, 1]."""
        total = sum(tensor.numel() for tensor in self._tensors.values())
        return sum(int(tensor.sum()) for tensor in self._tensors.values()) / total if total else 0.0

    def inverted(self) -> "Mask":
        """True where this is false."""
        return Mask({name: ~tensor for name, tensor in self._tensors.items()})

    def check(self, model: nn.Module) -> None:
        """Raise a RequestError if a name or shape is not that of a trainable parameter of ``model``."""
        wanted = trainable(model)
        check_same(self._tensors, {name: wanted[name] for name in wanted if name in self}, "the mask")


def over(mask: Mapping[str, Tensor] | None, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A bool tensor for each of these weights, on its device: true for weights that the mask does not contain."""
    return {
        name: mask[name].to(weight.device)
        if mask is not None and name in mask
        else torch.ones_like(weight, dtype=torch.bool)
        for name, weight in weights.items()
    }


def at_least(scores: Mapping[str, Tensor], threshold: float) -> Mask:
    """True for the weights whose score is at least ``threshold``; O(p).

    Raises:
        RequestError: A score is not finite.
    """
    for name, score in scores.items():
        check_finite(name, score)
    return Mask({name: score >= threshold for name, score in scores.items()})


def largest(scores: Mapping[str, Tensor], fraction: float) -> Mask:
    """True for the floor(fraction p) weights with the largest scores, in one ranking over all tensors.

    O(p). Of equal scores at the threshold, the first in the order of names and positions are taken.

    Raises:
        RequestError: The fraction is outside [0, 1], or a score is not finite.
    """
    if not 0.0 <= fraction <= 1.0:
        raise RequestError(f"the fraction of weights must be in [0, 1], got {fraction}")
    flat = torch.cat([score.flatten() for score in scores.values()])
    check_finite("the model", flat)
    chosen = top(flat, int(fraction * len(flat) + 1e-9))
    pieces = chosen.split([score.numel() for score in scores.values()])
    return Mask({name: piece.view(scores[name].shape) for name, piece in zip(scores, pieces, strict=True)})


def check_finite(name: str, scores: Tensor) -> None:
    """Raise a RequestError if a score is not finite; synchronises with the device."""
    if not bool(torch.isfinite(scores).all()):
        raise RequestError(f"some scores of {name} are not finite: the model or its gradients hold NaN or infinity")


def top(flat: Tensor, count: int) -> Tensor:
    """Bool (p,): the ``count`` largest entries, ties by position."""
    if count == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    threshold = torch.kthvalue(flat, len(flat) - count + 1).values
    above, equal = flat > threshold, flat == threshold
    return above | (equal & (equal.cumsum(0) <= count - above.sum()))


def save(mask: Mask, path: Path) -> None:
    """Write a mask as safetensors, eight weights to a byte, with the shapes."""
    bits = {f"bits.{name}": to_bits(tensor) for name, tensor in mask.items()}
    shapes = {f"shape.{name}": torch.tensor(tensor.shape, dtype=torch.int64) for name, tensor in mask.items()}
    save_file(bits | shapes, str(path))


def load(path: Path) -> Mask:
    """Read what :func:`save` wrote.

    Raises:
        RequestError: The file is missing or is no mask.
    """
    with files.reading(path, "it is no mask file; give one that expunge or SalUn wrote"):
        files.check_regular(path)
        stored = load_file(str(path))
        names = [key.removeprefix("bits.") for key in stored if key.startswith("bits.")]
        shapes = {name: tuple(stored[f"shape.{name}"].tolist()) for name in names}
        return Mask({name: from_bits(stored[f"bits.{name}"], shapes[name]) for name in names})
