"""The data that an unlearning method may see."""

from dataclasses import dataclass

from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class UnlearningData:
    """What an unlearning method may see: there is no test set here, by type."""

    forget: ImageSet
    retain: ImageSet
    validation: ImageSet | None
    num_classes: int

    def everything(self, forgotten: ImageSet | None = None) -> ImageSet:
        """All training images in the order of their ids, which does not tell which are to be forgotten.

        ``forgotten`` are those that were forgotten before, if they should be among them.
        """
        images = self.retain.merged(self.forget)
        return images if forgotten is None or not len(forgotten) else images.merged(forgotten)
