"""Numbers for every training example of a model; one file each."""

from dataclasses import dataclass

from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class ScoreData:
    """What a score may look at. It does not change the model, so that test images may be among it."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    num_classes: int
