"""Distance of the weights to those of other models."""

from expunge.core import weights as parameters
from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "distance of the weights to the retrained model's",
        "lower",
        name="to_reference",
        short="Distance",
        range=(0, None),
        retrained=0,
        meaning="Euclidean distance of the weights to those of the retrained model. It says something only where both "
        "began at the same weights, as after a recorded training: else it is about the same for every method.",
        column=70,
    ),
    Measure(
        "distance to retraining divided by that of the original",
        "lower",
        name="relative_to_nothing",
        short="Relative distance",
        range=(0, None),
        retrained=0,
        meaning="Distance of the weights to those of the retrained model as a share of the distance at which the "
        "original model lies. It says something only after a recorded training, and is else near 1 for every method.",
        column=80,
        decimals=3,
    ),
    Measure(
        "distance of the original's weights to the retrained model's",
        name="nothing_to_reference",
        short="Distance of original",
        range=(0, None),
        meaning="Euclidean distance of the original's weights to those of the retrained model.",
    ),
    Measure(
        "distance of the weights to the retrained model's, as a share of the norm of the latter",
        "lower",
        name="relative_to_reference",
        short="Distance / norm",
        range=(0, None),
        retrained=0,
        meaning="Euclidean distance of the weights to those of the retrained model, divided by the norm of the latter.",
    ),
    Measure(
        "distance of the original's weights to the retrained model's, as a share of the norm of the latter",
        name="nothing_relative_to_reference",
        short="Distance / norm of original",
        range=(0, None),
        meaning="Euclidean distance of the original's weights to those of the retrained model, divided by the norm of "
        "the latter.",
    ),
    Measure(
        "distance of the weights to the original's",
        name="to_original",
        short="Moved",
        range=(0, None),
        meaning="Euclidean distance of the weights to those of the original model.",
    ),
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """L2 distance of the weights to the original and to the retrained model, beside that of the original.

    With weights w, those of the original w_o and of the retrained model w_r: ``to_original`` is ``|w - w_o|``,
    ``to_reference`` is ``|w - w_r|``, and ``relative_to_reference`` is ``|w - w_r| / |w_r|``. For the original,
    ``nothing_to_reference`` is ``|w_o - w_r|``, and ``nothing_relative_to_reference`` ``|w_o - w_r| / |w_r|``;
    ``relative_to_nothing`` is ``|w - w_r| / |w_o - w_r|``: 0 for the retrained model and 1 for the original.
    Two trainings that begin at different weights end far apart whatever they learn: what is measured to a retrained
    model says something only after a recorded training, and is in the main table of a report only there.
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
