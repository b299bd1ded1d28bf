"""Machine unlearning of image classifiers: remove chosen training examples from a model, and measure the result."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.api.recorded import Recorded, train_recorded
    from expunge.api.unlearn import Audit, Result, evaluate, unlearn, unlearn_sequence
    from expunge.core.errors import RequestError, RunError
    from expunge.data.augment import Augmentation
    from expunge.data.image_set import ImageSet, TensorImages
    from expunge.training.rules import PerRole, Rule
    from expunge.unlearning.adapters import LowRank
    from expunge.unlearning.sequence import Sequence, Step
    from expunge.unlearning.unlearn import Unlearning
    from expunge.unlearning.update_masks import UpdateMask

__all__ = [
    "Audit",
    "Augmentation",
    "ImageSet",
    "LowRank",
    "PerRole",
    "Recorded",
    "RequestError",
    "Result",
    "Rule",
    "RunError",
    "Sequence",
    "Step",
    "TensorImages",
    "Unlearning",
    "UpdateMask",
    "evaluate",
    "train_recorded",
    "unlearn",
    "unlearn_sequence",
]

_HOMES = {
    "Audit": "api.unlearn",
    "Augmentation": "data.augment",
    "ImageSet": "data.image_set",
    "LowRank": "unlearning.adapters",
    "PerRole": "training.rules",
    "Recorded": "api.recorded",
    "RequestError": "core.errors",
    "Result": "api.unlearn",
    "Rule": "training.rules",
    "RunError": "core.errors",
    "Sequence": "unlearning.sequence",
    "Step": "unlearning.sequence",
    "TensorImages": "data.image_set",
    "Unlearning": "unlearning.unlearn",
    "UpdateMask": "unlearning.update_masks",
    "evaluate": "api.unlearn",
    "train_recorded": "api.recorded",
    "unlearn": "api.unlearn",
    "unlearn_sequence": "api.unlearn",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``expunge --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"expunge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
