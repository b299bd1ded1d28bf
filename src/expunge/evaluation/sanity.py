"""Signs that a model does not belong to the data or to the split that it is judged on."""

import math
from collections.abc import Mapping

from expunge.evaluation.predictions import Predictions

NEAR = 0.1
"""How near to chance is suspicious: this share of the way from chance to 100%."""


def accuracies(splits: Mapping[str, Predictions]) -> dict[str, float]:
    """The accuracy in percent on each split that is not empty."""
    return {name: split.accuracy() for name, split in splits.items() if len(split)}


def warnings(splits: Mapping[str, Predictions]) -> list[str]:
    """What is suspicious in the predictions on ``train``, ``validation`` and ``test``, in words.

    Near chance is an accuracy on the training set that is not above the share of its largest class by ``NEAR`` of the
    rest and by three standard errors. The split is suspicious where validation images are classified better than
    test images by four standard errors, and nearer to the training images: the model has been trained on them.
    """
    found, train = accuracies(splits), splits["train"]
    chance = float(train.labels.bincount().max()) / len(train)
    margin = max(NEAR * (1 - chance), 3 * math.sqrt(chance * (1 - chance) / len(train)))
    if not found["train"] > 100 * (chance + margin):
        return [
            f"accuracy on the training split is {found['train']:.1f}%, near chance ({100 * chance:.1f}%): the data, "
            "the order of the classes, the architecture or its options may not be those of the checkpoint"
        ]
    if "validation" not in found or "test" not in found:
        return []
    size, other = len(splits["validation"]), len(splits["test"])
    mean = (found["validation"] * size + found["test"] * other) / (size + other)
    error = math.sqrt(mean * (100 - mean) * (1 / size + 1 / other))
    difference = found["validation"] - found["test"]
    if difference > 4 * error and found["validation"] > (found["train"] + found["test"]) / 2:
        return [
            f"accuracy on the validation images ({found['validation']:.1f}%) is nearer to that on the training images "
            f"({found['train']:.1f}%) than on the test images ({found['test']:.1f}%): the model was probably trained "
            "on them, that is on another split; name its own by --split, --split-seed or --validation-ids"
        ]
    return []
