"""CPU time of a training pass over 45,000 images with crop and flip: whole batches against one image at a time.

    python benchmarks/augmentation.py

Both sides run in this process on one thread, on real CIFAR-10 if EXPUNGE_DATA is set, else on noise.
"""

import os
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps

from expunge.data.augment import Augmentation
from expunge.data.image_set import ImageSet, make

COUNT, BATCH, PADDING = 45_000, 256, 4


def images() -> ImageSet:
    """The images of both sides."""
    if os.environ.get("EXPUNGE_DATA"):
        from expunge.data.sources import cifar10

        return cifar10.load(cifar10.Cifar10Config()).train.select(torch.arange(COUNT))
    pixels = torch.randint(256, (COUNT, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return make(pixels, torch.zeros(COUNT, dtype=torch.int64), Augmentation(PADDING))


def batched(data: ImageSet) -> None:
    """One pass as expunge makes it."""
    for batch in data.batches(BATCH, torch.Generator().manual_seed(0)):
        assert batch.inputs.shape[1:] == (3, 32, 32)


def one_by_one(data: ImageSet) -> None:
    """One pass as a data set of PIL images with a transform for each is read."""
    pictures = [Image.fromarray(array) for array in data.inputs.permute(0, 2, 3, 1).numpy()]
    generator = np.random.default_rng(0)
    order = generator.permutation(COUNT)
    started = time.process_time()
    for start in range(0, COUNT, BATCH):
        batch = torch.stack([_transformed(pictures[index], generator) for index in order[start : start + BATCH]])
        assert batch.shape[1:] == (3, 32, 32)
    one_by_one.seconds = time.process_time() - started  # type: ignore[attr-defined]


def _transformed(picture: Image.Image, generator: np.random.Generator) -> torch.Tensor:
    padded = ImageOps.expand(picture, PADDING)
    left, top = generator.integers(0, 2 * PADDING + 1, 2)
    crop = padded.crop((left, top, left + 32, top + 32))
    if generator.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float().div_(255)


def seconds(work: Callable[[ImageSet], None], data: ImageSet) -> float:
    """CPU seconds of one pass; the building of the PIL images is not counted."""
    started = time.process_time()
    work(data)
    total = time.process_time() - started
    return getattr(work, "seconds", total)


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = images()
    ours = min(seconds(batched, data) for _ in range(3))
    theirs = min(seconds(one_by_one, data) for _ in range(2))
    print("| 45,000 images, crop and flip | CPU seconds |\n|---|---:|")
    print(f"| whole batches (expunge) | {ours:.2f} |\n| one PIL image at a time | {theirs:.2f} |")
    print(f"\nratio: {ours / theirs:.3f}")
