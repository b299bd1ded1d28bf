"""Distance of weights."""

from expunge import parameters
from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@metric(better="lower")
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """L2 distance of the weights to the original and to the retrained model, beside that of doing nothing.

    With weights w, those of the original w_o and of the retrained model w_r: ``to_original`` is ``|w - w_o|``,
    ``to_reference`` is ``|w - w_r|``, and ``relative_to_reference`` is ``|w - w_r| / |w_r|``. Doing nothing has
    ``nothing_to_reference``, ``|w_o - w_r|``, and ``nothing_relative_to_reference``, ``|w_o - w_r| / |w_r|``;
    ``relative_to_nothing`` is ``|w - w_r| / |w_o - w_r|``: 0 for the retrained model and 1 for the original.
    """
    found: dict[str, float] = {}
    original, reference = subject.original, subject.reference
    if original is not None:
        found["to_original"] = parameters.distance(subject.weights, original.weights)
    if reference is not None:
        size = parameters.norm(reference.weights)
        found["to_reference"] = parameters.distance(subject.weights, reference.weights)
        found["relative_to_reference"] = _ratio(found["to_reference"], size)
        if original is not None:
            nothing = parameters.distance(original.weights, reference.weights)
            found["nothing_to_reference"] = nothing
            found["nothing_relative_to_reference"] = _ratio(nothing, size)
            found["relative_to_nothing"] = _ratio(found["to_reference"], nothing)
    return found


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
