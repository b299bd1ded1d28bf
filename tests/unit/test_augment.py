"""RandAugment and rotation: each operation is that of Pillow; everything is drawn from one generator."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data import randaugment
from expunge.data.augment import Augmentation
from expunge.data.image_set import make
from tests.problems import dataset


def natural(count: int = 6, channels: int = 3, height: int = 20, width: int = 24) -> Tensor:
    """Images with smooth parts and edges, in which not every level occurs."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 5, 6, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (images * 200 + 20).to(torch.uint8)


def by_pillow(name: str, image: Image.Image, sign: float, strength: float) -> Image.Image:
    """The same operation of Pillow, which the published RandAugment is made of."""
    bits, affine, factor = 8 - round(4 * strength), Image.Transform.AFFINE, 1 + sign * 0.9 * strength
    across, down = (int(150 / 331 * side * strength) * sign for side in image.size)
    known: dict[str, Callable[[], Image.Image]] = {
        "Identity": lambda: image,
        "ShearX": lambda: image.transform(image.size, affine, (1, sign * 0.3 * strength, 0, 0, 1, 0)),
        "ShearY": lambda: image.transform(image.size, affine, (1, 0, 0, sign * 0.3 * strength, 1, 0)),
        "TranslateX": lambda: image.transform(image.size, affine, (1, 0, -across, 0, 1, 0)),
        "TranslateY": lambda: image.transform(image.size, affine, (1, 0, 0, 0, 1, -down)),
        "Rotate": lambda: image.rotate(sign * 30 * strength),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "Color": lambda: ImageEnhance.Color(image).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "Posterize": lambda: ImageOps.posterize(image, bits),
        "Solarize": lambda: ImageOps.solarize(image, int(np.ceil(255 * (1 - strength)))),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
    }
    return known[name]()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_each_operation_is_that_of_pillow(name: str, channels: int) -> None:
    """Geometry may differ where a pixel lies halfway, brightness by rounding (of a blend with rounded levels)."""
    images = natural(channels=channels)
    for strength, sign in product((0.0, 0.3, 0.5, 1.0), (1.0, -1.0)):
        signs = torch.full((len(images),), sign)
        found = randaugment.OPERATIONS[name](images, signs, strength)
        assert found.dtype == torch.uint8
        arrays = [image.squeeze() if channels == 1 else image for image in images.permute(0, 2, 3, 1).numpy()]
        others = [np.asarray(by_pillow(name, Image.fromarray(array), sign, strength)) for array in arrays]
        wanted = np.stack(others).reshape(len(images), *images.shape[2:], channels).transpose(0, 3, 1, 2)
        differ = (found.int() - torch.from_numpy(wanted).int()).abs()
        geometric = name in ("ShearX", "ShearY", "Rotate")
        assert (differ > (0 if geometric else 2)).float().mean() <= (0.02 if geometric else 0), (strength, sign)
        as_float = randaugment.OPERATIONS[name](images / 255, signs, strength) * 255
        assert (as_float - torch.from_numpy(wanted)).abs().median() <= 1


@pytest.mark.parametrize("degrees", [90.0, 180.0, 270.0, 360.0])
def test_right_angles_are_exact(degrees: float) -> None:
    images = natural(height=20, width=20)
    turned = randaugment.rotated(images, torch.full((6,), degrees))
    assert torch.equal(turned, torch.rot90(images, int(degrees / 90), (2, 3)))


def test_an_image_turns_counter_clockwise_about_its_centre() -> None:
    images = natural(1, 1, 32, 32)
    turned = randaugment.rotated(images, torch.tensor([17.0]))[0, 0].numpy()
    wanted = np.asarray(Image.fromarray(images[0, 0].numpy()).rotate(17))
    assert (turned != wanted).mean() < 0.03


def test_angles_are_uniform_from_zero_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    plain = randaugment.rotated
    monkeypatch.setattr(randaugment, "rotated", lambda images, angles: (seen.append(angles), plain(images, angles))[1])
    Augmentation(padding=0, flip=False, rotation=30)(natural(2000, 1, 4, 4), torch.Generator().manual_seed(0))
    assert seen[0].min() >= 0
    assert seen[0].max() <= 30
    assert seen[0].mean().item() == pytest.approx(15, abs=0.8)
    assert seen[0].std().item() == pytest.approx(30 / 12**0.5, abs=0.4)


def test_operations_are_drawn_by_image_and_by_seed() -> None:
    images = natural(1, 3).repeat(1400, 1, 1, 1)
    change = Augmentation(padding=0, flip=False, operations=1, magnitude=20)
    first = change(images, torch.Generator().manual_seed(3))
    assert torch.equal(first, change(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, change(images, torch.Generator().manual_seed(4)))
    kinds, counts = first.flatten(1).unique(dim=0, return_counts=True)
    assert 18 <= len(kinds) <= 23, "14 operations, eight of them in two directions, some of which change nothing here"
    assert counts.max() < 400
    untouched = (first == images).flatten(1).all(1)
    assert 0.04 < untouched.float().mean() < 0.2
    twice = Augmentation(padding=0, flip=False, operations=2, magnitude=20)(images, torch.Generator().manual_seed(3))
    assert len(twice.flatten(1).unique(dim=0)) > 100


def test_images_are_not_written_to_and_float_images_stay_in_range() -> None:
    for images in (natural(40), natural(40) / 255):
        before = images.clone()
        found = Augmentation(operations=3, magnitude=30, rotation=45)(images, torch.Generator().manual_seed(0))
        assert torch.equal(images, before)
        assert found.dtype == images.dtype
        assert found.shape == images.shape
        assert found.min() >= 0
        assert found.max() <= (255 if found.dtype == torch.uint8 else 1)
    with pytest.raises(RequestError, match=r"needs uint8 images, or float images in \[0, 1\]"):
        Augmentation(operations=1)(natural(2).float(), torch.Generator())


def test_crop_and_flip_draw_what_they_drew_before() -> None:
    images = natural(8)
    plain = Augmentation()(images, torch.Generator().manual_seed(1))
    turned = Augmentation(rotation=1e-9)(images, torch.Generator().manual_seed(1))
    assert torch.equal(plain, turned)


def test_training_batches_are_augmented_and_test_batches_are_not() -> None:
    images = make(natural(8), torch.zeros(8), Augmentation(padding=0, flip=False, rotation=40))
    passed = torch.cat([batch.inputs[batch.ids.argsort()] for batch in images.batches(8, torch.Generator())])
    assert not torch.equal(passed, images.inputs / 255)
    assert torch.equal(torch.cat([batch.inputs for batch in images.batches(8)]), images.inputs / 255)


@pytest.mark.parametrize(
    "text",
    ["augment=true,augmentation.rotation=30", "augment=true,augmentation.operations=2,augmentation.magnitude=15"],
)
def test_augmentation_in_the_text_of_a_source(text: str, tmp_path: object) -> None:
    from tests import readers

    readers.write(tmp_path, readers.READERS["npz"].good())  # type: ignore[arg-type]
    data = dataset(f"npz:{tmp_path}/own.npz,{text}")
    wanted = Augmentation(rotation=30) if "rotation" in text else Augmentation(operations=2, magnitude=15)
    assert data.train.augmentation == wanted
    assert data.test.augmentation is None


@pytest.mark.parametrize(
    "wrong", [{"padding": -1}, {"rotation": -1}, {"rotation": 361}, {"operations": -1}, {"magnitude": 31}]
)
def test_ranges(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Augmentation(**wrong)  # type: ignore[arg-type]
