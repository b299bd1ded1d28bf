"""Whether numbers are finite, for tensors so large that nothing of their size may be made on the way."""

import torch
from torch import Tensor


def all_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite; one pass, and no memory."""
    return not values.numel() or bool(torch.isfinite(torch.stack(values.aminmax())).all())
