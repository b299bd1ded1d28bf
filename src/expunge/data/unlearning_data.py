"""The data that an unlearning method may see."""

from dataclasses import dataclass

from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class UnlearningData:
    """The data that an unlearning method may see; it does not contain the test set."""

    forget: ImageSet
    retain: ImageSet
    validation: ImageSet | None
    num_classes: int

    def everything(self, forgotten: ImageSet | None = None) -> ImageSet:
        """Return all training images in the order of their ids, which does not reveal the forget set.

        ``forgotten`` are images forgotten before, to include as well.
        """
        images = self.retain.merged(self.forget)
        return images if forgotten is None or not len(forgotten) else images.merged(forgotten)
