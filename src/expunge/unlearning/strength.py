"""Whether an unlearning changed the outputs on the forget set, and which option makes it stronger."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from expunge.core import registry
from expunge.data.image_set import ImageSet
from expunge.evaluation.predictions import Predictions, predict
from expunge.training.rules import PerRole

SHOWN = 256
"""Forget images that are compared: the first ones."""
SHARE = 0.02
"""A rise of the mean loss by less than this share of log(classes), the loss of a uniform prediction, is no change."""


def outputs(model: nn.Module, forget: ImageSet, device: torch.device) -> Predictions:
    """The predictions on at most ``SHOWN`` forget images; one forward pass over these."""
    return predict(model, forget.select(torch.arange(min(len(forget), SHOWN))), device)


@dataclass(frozen=True)
class Change:
    """Accuracy (percent) and mean cross-entropy on the forget set, before and after an unlearning."""

    accuracy: tuple[float, float]
    loss: tuple[float, float]

    def __str__(self) -> str:
        accuracy, loss = self.accuracy, self.loss
        return f"accuracy {accuracy[0]:.1f}% -> {accuracy[1]:.1f}%, loss {loss[0]:.3g} -> {loss[1]:.3g}"


def hardly_changed(before: Predictions, after: Predictions) -> Change | None:
    """The change of the outputs on the forget set if it is within noise, else None.

    It is if the accuracy fell by at most one standard error, that of k correct of n being ``sqrt(p (1 - p) / n)`` with
    ``p = (k + 1) / (n + 2)``, and the mean loss rose by less than ``SHARE log(classes)``.
    """
    n, classes = len(before), before.logits.shape[1]
    p = (float(before.correct().sum()) + 1) / (n + 2)
    found = Change((before.accuracy(), after.accuracy()), (float(before.losses().mean()), float(after.losses().mean())))
    fall, rise = found.accuracy[0] - found.accuracy[1], found.loss[1] - found.loss[0]
    within = fall <= 100 * math.sqrt(p * (1 - p) / n) and rise < SHARE * math.log(max(classes, 2))
    return found if within else None


def sentence(name: str, notes: Mapping[str, object]) -> str:
    """What the notes of an unlearning say if it did nothing, or hardly anything, and the cure; else empty."""
    found = notes.get("hardly_changed")
    if name == "original" or not (isinstance(found, Mapping) or "unchanged" in notes):
        return ""
    given = cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {}
    option = str(given.get("stronger", ""))
    what = "left the model as it was" if "unchanged" in notes else f"hardly changed the forget set ({given['change']})"
    stronger = f"{option} makes it stronger" if option else "give it more epochs, or a larger rate or scale"
    return f"{name} {what}: {stronger}"


def cure(method: object) -> str:
    """The option that makes a method stronger, as ``lr=0.05``; empty if it has none.

    It is the first of those that ``expunge tune`` searches, times the factor in the method's decorator.
    """
    mark, rule = registry.of_config("methods", method).mark, getattr(method, "rule", None)
    role, rule = ("forget.", rule.forget) if isinstance(rule, PerRole) else ("", rule)
    for key in mark.search:
        prefix, place = ("", method) if hasattr(method, key) else (role, rule)
        value = getattr(place, key, None)
        if isinstance(value, (int, float)) and value:
            return f"{prefix}{key}={mark.stronger * value:.3g}"
    return f"epochs={2 * getattr(method, 'epochs', 1)}" if hasattr(method, "epochs") else ""
