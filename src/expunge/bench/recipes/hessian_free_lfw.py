"""Hessian-free unlearning of ResNet-18: 29 people of Labeled Faces in the Wild, from EXPUNGE_DATA/lfw, on a GPU."""

from expunge.bench import hessian_free
from expunge.bench.grid import Comparison
from expunge.data.sources.lfw import LfwConfig
from expunge.data.split_data import DataConfig


def recipe() -> Comparison:
    """Fifty of 984 images forgotten at random, 49 epochs with batches of 41 (published: 50 and 40, equivalently).

    Images are cropped to 224 pixels as published, then resized to 56, since the stem here does not downsample by four,
    so that feature maps have the published size. Images are not rotated. The initial weights are random, not from
    ImageNet, and there is one final linear layer, not two; batch normalisation with its initial statistics only scales
    and shifts.
    """
    source = LfwConfig(hessian_free.folder("lfw"), size=56)
    plan = hessian_free.training(49, 41, lr=0.004, l2=1e-2, clip=5.5, decay=0.9995)
    return hessian_free.residual("hessian-free-lfw", DataConfig(source, validation=0.0), plan)
