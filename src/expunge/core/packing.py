"""Packing of bool tensors as bits, and of sparse tensors as their nonzeros."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def to_bits(mask: Tensor) -> Tensor:
    """A bool tensor as uint8, eight to a byte; the last byte is padded with zeros."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def from_bits(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`to_bits`.

    Raises:
        ValueError: The number of bits is not that of the shape.
    """
    count = math.prod(shape)
    if any(type(each) is not int or each < 0 for each in shape):
        raise ValueError(f"{shape} is no shape")
    if bits.dtype != torch.uint8 or bits.ndim != 1 or len(bits) != (count + 7) // 8:
        raise ValueError(f"{len(bits)} bytes cannot hold {count} bits")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool).reshape(shape))


def pack(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """The tensors, those with a mask in ``kept`` as ``values:NAME`` and ``bits:NAME``; and the shapes of the latter."""
    packed = {name: tensor for name, tensor in tensors.items() if name not in kept}
    for name, mask in kept.items():
        where = mask.to(tensors[name].device)
        packed[f"values:{name}"] = tensors[name][where]
        packed[f"bits:{name}"] = to_bits(mask)
    return packed, {name: list(mask.shape) for name, mask in kept.items()}


def unpack(
    packed: Mapping[str, Tensor], shapes: Mapping[str, list[int]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inverse of :func:`pack`: the tensors and the masks.

    Raises:
        KeyError, ValueError, IndexError, RuntimeError: They are not consistent.
    """
    kept = {name: from_bits(packed[f"bits:{name}"], tuple(shape)) for name, shape in shapes.items()}
    whole = {name: tensor for name, tensor in packed.items() if not name.startswith(("values:", "bits:"))}
    for name, mask in kept.items():
        values = packed[f"values:{name}"]
        whole[name] = torch.zeros(mask.shape, dtype=values.dtype)
        whole[name][mask] = values
    return whole, kept
