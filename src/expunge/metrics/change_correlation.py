"""Whether unlearning changes each example's loss as retraining does."""

import numpy as np
from scipy.stats import rankdata

from expunge.core.errors import RequestError
from expunge.core.registry import Measure, metric
from expunge.evaluation.membership import Floats
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context

SPLITS = ("forget", "retain", "test")


def _described(split: str, coefficient: str) -> Measure:
    kind = {"pearson": "size", "spearman": "order"}[coefficient]
    return Measure(
        f"{coefficient.capitalize()} correlation of the changes of loss by unlearning and by retraining, on {split} "
        "examples",
        "higher",
        name=f"{split}_{coefficient}",
        short=f"{coefficient.capitalize()}, {split}",
        range=(-1, 1),
        retrained=1,
        meaning=f"Correlation over {split} examples of two changes of loss, by their {kind}: from the original to the "
        "unlearned model, and from the original to the retrained one. Doing nothing has none.",
        decimals=3,
    )


@metric(*(_described(split, coefficient) for split in SPLITS for coefficient in ("pearson", "spearman")))
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Correlation of each example's change of loss, from the original to this model and to the retrained one.

    ``pearson`` compares their size, ``spearman`` their order, on forgotten, retained and test examples; 1 is best. NaN
    for fewer than two examples, or where all change by the same, as for an unchanged model.
    """
    if subject.original is None or subject.reference is None:
        return {}
    found: dict[str, float] = {}
    for split in SPLITS:
        now, before, retrained = (each.predictions(split) for each in (subject, subject.original, subject.reference))
        if not (now.ids.equal(before.ids) and now.ids.equal(retrained.ids)):
            raise RequestError(f"the {split} examples of the three models differ: predict the same ones, in one order")
        predicted, actual = (part.losses() - before.losses() for part in (now, retrained))
        found |= {f"{split}_{name}": value for name, value in correlations(predicted.numpy(), actual.numpy()).items()}
    return found


def correlations(first: Floats, second: Floats) -> dict[str, float]:
    """``pearson`` and ``spearman`` of two series (n,); NaN if one is constant or has fewer than two values."""
    return {"pearson": _pearson(first, second), "spearman": _pearson(rankdata(first), rankdata(second))}


def _pearson(first: Floats, second: Floats) -> float:
    if len(first) < 2 or not (np.ptp(first) > 0 and np.ptp(second) > 0):
        return float("nan")
    a, b = ((values - values.mean()) / np.ptp(values) for values in (first, second))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
