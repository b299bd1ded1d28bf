"""A forget set of the poisoned examples."""

import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet


@registry.forget_set(words=lambda _: "the poisoned ones", fixed=lambda _: True)
def forget(train: ImageSet, generator: torch.Generator, *, poisoned: Tensor | None) -> Tensor:
    """The poisoned training examples (``expunge train --poison``)."""
    if poisoned is None or not len(poisoned):
        raise RequestError(
            "there are no poisoned examples to forget: the model was not trained on poisoned data; begin with "
            "expunge train --poison patch:share=10%"
        )
    return poisoned
