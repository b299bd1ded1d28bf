"""Machine unlearning of image classifiers: remove chosen training examples from a model, and measure the result."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.api.models import build_model
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
    "build_model",
    "evaluate",
    "train_recorded",
    "unlearn",
    "unlearn_sequence",
]

_HOMES = {
    "api.models": ("build_model",),
    "api.recorded": ("Recorded", "train_recorded"),
    "api.unlearn": ("Audit", "Result", "evaluate", "unlearn", "unlearn_sequence"),
    "core.errors": ("RequestError", "RunError"),
    "data.augment": ("Augmentation",),
    "data.image_set": ("ImageSet", "TensorImages"),
    "training.rules": ("PerRole", "Rule"),
    "unlearning.adapters": ("LowRank",),
    "unlearning.sequence": ("Sequence", "Step"),
    "unlearning.unlearn": ("Unlearning",),
    "unlearning.update_masks": ("UpdateMask",),
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``expunge --help`` does not import torch."""
    if name == "__version__":
        return importlib.metadata.version("expunge")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"expunge.{home}"), name)
    raise AttributeError(f"module 'expunge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
