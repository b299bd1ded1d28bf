"""Images that are twice in a data set: exactly, by the digests of their pixels, or nearly, by small grey copies."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

SIDE = 16
"""Rows and columns of a small copy."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as in JPEG, which keeps it best."""
ALIKE = 0.99
"""The similarity of near duplicates by default."""
MOST = 1_000_000
"""Pairs of near duplicates at which the search ends."""
BLOCK = 1024
"""Images that are compared at once: a block of similarities is 4 MB."""


def groups(digests: Tensor) -> list[list[int]]:
    """Return the positions of equal digests, uint8 (n, bytes), for each digest that is there at least twice. O(n)."""
    found: dict[bytes, list[int]] = {}
    text, width = digests.cpu().numpy().tobytes(), digests.shape[1]
    for position in range(len(digests)):
        found.setdefault(text[position * width : (position + 1) * width], []).append(position)
    return [positions for positions in found.values() if len(positions) > 1]


def shared(first: Tensor, second: Tensor) -> list[tuple[list[int], list[int]]]:
    """Return the positions in both sets of each digest that is in both."""
    count = len(first)
    halves = [
        ([each for each in group if each < count], [each - count for each in group if each >= count])
        for group in groups(torch.cat([first, second]))
    ]
    return [(one, other) for one, other in halves if one and other]


def small_copies(inputs: Tensor) -> Tensor:
    """Return the image of (n, channels, height, width) in 16 x 16 areas, grey, as unit vectors without their mean.

    The inner product of two is the correlation of the images, which brightness and contrast do not change. Images
    of one grey, and vectors (n, features), have copies of zeros, which are like none. float32 (n, 256).
    """
    if inputs.ndim != 4:
        return inputs.new_zeros(len(inputs), SIDE**2, dtype=torch.float32)
    channels = inputs.shape[1]
    weights = inputs.new_tensor(LUMA if channels == 3 else [1 / channels] * channels, dtype=torch.float32)
    luma = torch.einsum("nchw,c->nhw", inputs.float(), weights)
    grey = adaptive_avg_pool2d(luma[:, None], SIDE).flatten(1)
    centred = grey - grey.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-5 * grey.norm(dim=1, keepdim=True), centred / norms, 0)


@dataclass(frozen=True)
class Near:
    """Pairs of near duplicates, the most alike first."""

    pairs: Tensor
    """Positions: int64 (pairs, 2), the smaller first."""
    similarities: Tensor
    """Correlations of the small copies: float32 (pairs,)."""
    complete: bool
    """Whether these are all pairs: the search ends at a million."""


def near(copies: Tensor, alike: float = ALIKE) -> Near:
    """Find the pairs of unit vectors (n, d) whose inner product is at least ``alike``.

    All pairs are found: a pair that differs along one direction by more than the distance of the vectors,
    ``sqrt(2 - 2 alike)``, is no such pair, so vectors are sorted along the direction of their largest variance and
    compared with those within that distance.

    Cost: at most n^2 d multiplications and memory of O(n d): 4.5 s of one core for the small copies of 50,000 images.
    """
    places = copies.norm(dim=1).gt(0.5).nonzero()[:, 0]
    vectors = copies[places]
    along = vectors @ torch.linalg.eigh(torch.cov(vectors.T))[1][:, -1] if len(vectors) > 1 else vectors[:, 0]
    along, order = along.sort()
    vectors, places = vectors[order], places[order]
    reach = math.sqrt(max(2 - 2 * alike, 0)) + 1e-4  # of rounding
    pairs, similarities = [torch.empty(0, 2, dtype=torch.int64)], [torch.empty(0)]
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK]
        stop = int(torch.searchsorted(along, along[start + len(rows) - 1] + reach, right=True))
        for first in range(start, stop, BLOCK):
            products = (rows @ vectors[first : min(first + BLOCK, stop)].T).clamp(max=1)  # of rounding
            found = (products >= alike).nonzero()
            found = found[found[:, 0] + start < found[:, 1] + first]
            similarities.append(products[found[:, 0], found[:, 1]])
            pairs.append(places[found + torch.tensor([start, first])].sort(dim=1).values)
        if sum(map(len, pairs)) >= MOST:
            break
    every, how = torch.cat(pairs), torch.cat(similarities)
    ranks = torch.argsort(how, descending=True, stable=True)[:MOST]
    return Near(every[ranks], how[ranks], len(every) < MOST)
