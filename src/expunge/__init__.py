"""expunge makes a trained image classifier forget chosen training examples, and proves how well it did."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.adapters import LowRank
    from expunge.api import Audit, Result, evaluate, unlearn
    from expunge.data.augment import Augmentation
    from expunge.data.image_set import ImageSet, TensorImages
    from expunge.errors import RequestError, RunError
    from expunge.recording import Recorded, train_recorded
    from expunge.rules import PerRole, Rule
    from expunge.unlearning import Unlearning
    from expunge.update_masks import UpdateMask

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
    "TensorImages",
    "Unlearning",
    "UpdateMask",
    "evaluate",
    "train_recorded",
    "unlearn",
]

_HOMES = {
    "Audit": "api",
    "Augmentation": "data.augment",
    "ImageSet": "data.image_set",
    "LowRank": "adapters",
    "PerRole": "rules",
    "Recorded": "recording",
    "RequestError": "errors",
    "Result": "api",
    "Rule": "rules",
    "RunError": "errors",
    "TensorImages": "data.image_set",
    "Unlearning": "unlearning",
    "UpdateMask": "update_masks",
    "evaluate": "api",
    "train_recorded": "recording",
    "unlearn": "api",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``expunge --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"expunge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
