"""The data that an unlearning method may see."""

from dataclasses import dataclass, replace

import torch

from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class UnlearningData:
    """What an unlearning method may see: there is no test set here, by type."""

    forget: ImageSet
    retain: ImageSet
    validation: ImageSet | None
    num_classes: int

    def everything(self) -> ImageSet:
        """All training images in the order of their ids, which does not tell which are to be forgotten: a copy."""
        parts = (self.forget, self.retain)
        inputs, labels = torch.cat([part.inputs for part in parts]), torch.cat([part.labels for part in parts])
        ids, order = torch.cat([part.ids for part in parts]).sort()
        return replace(self.retain, inputs=inputs[order], labels=labels[order], ids=ids)
