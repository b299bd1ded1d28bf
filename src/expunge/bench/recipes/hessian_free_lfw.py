"""Hessian-free unlearning of ResNet-18: 29 people of Labeled Faces in the Wild, from EXPUNGE_DATA/lfw, on a GPU."""

from expunge.bench.grid import Comparison
from expunge.bench.recipes import _hessian_free
from expunge.data.sources.lfw import LfwConfig
from expunge.data.split_data import DataConfig


def recipe() -> Comparison:
    """Fifty of 984 images forgotten at random, 49 epochs with batches of 41: the published 50 and 40 come to that.

    Images are cropped to 224 pixels as published, then made 56 wide, since the stem here does not divide the sides by
    four: maps of features are of the published size. Nothing is rotated. The network begins from random weights, not
    from those of ImageNet, and has one linear layer at its end, not two: with statistics of nothing, its normalisation
    only scales and shifts.
    """
    source = LfwConfig(_hessian_free.folder("lfw"), size=56)
    plan = _hessian_free.training(49, 41, lr=0.004, l2=1e-2, clip=5.5, decay=0.9995)
    return _hessian_free.residual("hessian-free-lfw", DataConfig(source, validation=0.0), plan)
