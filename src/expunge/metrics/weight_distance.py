"""Distance of weights."""

from dataclasses import dataclass

from expunge import parameters
from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@dataclass(frozen=True)
class WeightDistanceConfig:
    """There is nothing to choose."""


@metric(better="lower")
def measure(subject: Subject, config: WeightDistanceConfig, context: Context) -> dict[str, float]:
    """L2 distance of the weights to the original and to the reference, and the latter relative to doing nothing."""
    found: dict[str, float] = {}
    if subject.original_weights is not None:
        found["to_original"] = parameters.distance(subject.weights, subject.original_weights)
    if subject.reference is not None:
        found["to_reference"] = parameters.distance(subject.weights, subject.reference.weights)
        if subject.original_weights is not None:
            nothing = parameters.distance(subject.original_weights, subject.reference.weights)
            found["relative_to_nothing"] = found["to_reference"] / nothing if nothing else float("nan")
    return found
