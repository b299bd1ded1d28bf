"""What transformers on images share (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

from collections import OrderedDict

from torch import Tensor, nn

from expunge.core.errors import RequestError


def perceptron(width: int, first: str, second: str) -> nn.Module:
    """Two linear layers with these names: four times the width between them, exact GELU."""
    layers = (first, nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), (second, nn.Linear(4 * width, width))
    return nn.Sequential(OrderedDict(layers))


def attention(qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(size) + bias) v`` with all heads joined.

    ``qkv`` is (..., tokens, 3 heads size), ``bias`` (..., heads or 1, tokens, tokens), and the result
    (..., tokens, heads size). Not torch's fused function, which cannot be differentiated twice.
    """
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).transpose(-2, -4).unbind(-3)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return (weights @ v).transpose(-2, -3).flatten(-2)


def heads_of(width: int, count: int | None, size: int) -> int:
    """The number of heads for this width, by default one for every ``size`` channels.

    Raises:
        RequestError: They do not divide the width.
    """
    found = max(1, width // size) if count is None else count
    if width % found:
        raise RequestError(f"heads must divide the width of their blocks: {found} heads do not divide {width}")
    return found
