"""CelebA: photographs of faces, told apart by one of forty attributes (Liu et al. 2015): celeba:FOLDER."""

import os
from dataclasses import dataclass
from pathlib import Path

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.core.registry import source
from expunge.data import _assemble, _celeba_lists, _pictures
from expunge.data._assemble import FilesConfig, Part
from expunge.data._celeba_lists import Listed
from expunge.data._pictures import Decoding, Resize
from expunge.data.dataset import Dataset
from expunge.data.splits import Limits

IMAGES = "img_align_celeba"


@dataclass(frozen=True)
class CelebaConfig(FilesConfig):
    """Options of CelebA."""

    path: str
    """The folder that holds img_align_celeba/, list_attr_celeba.txt and list_eval_partition.txt (or .csv)."""
    attribute: str = "Male"
    """The attribute whose presence is class 1, as in the list: Male, Smiling, Eyeglasses, ..."""
    size: int = 128
    """Resize every image to this many pixels on each side."""
    first: int | None = None
    """Use this many of the first training images; all by default, 8 GB at 128 pixels. Published: 50000."""
    first_test: int | None = None
    """Use this many of the first test images; all by default. Published: 20000, which are all."""

    def __post_init__(self) -> None:
        checks.at_least(1, size=self.size, first=self.first, first_test=self.first_test)


@source()
def load(config: CelebaConfig, *, limits: Limits | None = None) -> Dataset:
    """CelebA: photographs of faces, told apart by one of forty attributes (Liu et al. 2015): celeba:FOLDER.

    Training images are those of partition 0 and test images those of partition 2, in the order of the list; partition
    1 is not read, since a run chooses its own validation set. Images are resized to squares by bilinear interpolation
    and normalised by ImageNet's mean and deviation, as in the experiments of arXiv:2404.01712.

    Memory: 3 size^2 bytes an image: 8.0 GB for all 162,770 training images at 128 pixels, 1.0 GB for the test images.

    Raises:
        RequestError: A list or an image is missing or damaged, the lists disagree, or one class has no training image.
    """
    folder = _assemble.existing_folder(config.path)
    train, test = _celeba_lists.read(folder, config.attribute)
    train, test = train.first(config.first), test.first(config.first_test)
    for listed, what in ((train, "training"), (test, "test")):
        if not listed.images:
            raise RequestError(f"{folder}: {_celeba_lists.PARTITIONS} gives no image to the {what} partition")
    if len(set(train.has)) < 2:
        raise RequestError(
            f"{folder}: {'all' if train.has[0] else 'none'} of the {len(train.has)} training images are "
            f"{config.attribute}: take more of them by first, or another attribute"
        )
    images = folder / IMAGES
    # Some archives hold the folder of images within one of the same name.
    images = images / IMAGES if (images / IMAGES).is_dir() else _assemble.existing_folder(str(images))
    return _assemble.dataset(
        _read(images, train, config.size),
        _read(images, test, config.size),
        folder,
        class_names=(f"not {config.attribute}", config.attribute),
        config=config,
        names=(train.images, test.images),
        statistics=_assemble.IMAGENET,
        limits=limits,
    )


def _read(folder: Path, listed: Listed, size: int) -> Part:
    present = set(os.listdir(folder))
    missing = [image for image in listed.images if image not in present]
    if missing:
        raise RequestError(
            f"{folder} lacks {len(missing)} of {len(listed.images)} images of the list, the first being {missing[0]}: "
            "unpack the archive again, or take fewer by first and first_test"
        )
    files = [(folder / image, int(has)) for image, has in zip(listed.images, listed.has, strict=True)]
    return _pictures.of_files(files, folder, Decoding((Resize(size, bilinear=True),), colour=True))
