"""Scores of the training examples of a model, one per file."""

from dataclasses import dataclass

from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class ScoreData:
    """The data of a score, including test images, since a score does not change the model."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    num_classes: int
