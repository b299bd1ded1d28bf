"""RandAugment and rotation: each operation is torchvision's; everything is drawn from one generator."""

import numpy as np
import pytest
import torch
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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 9, 15, 30])
def test_each_operation_is_that_of_torchvision(name: str, magnitude: int, channels: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")
    images = natural(channels=channels)
    space = transforms.RandAugment()._augmentation_space(31, images.shape[2:])
    values, signed = space[name]
    value = float(values[magnitude]) if values.ndim else float(values)
    for sign in (1.0, -1.0) if signed else (1.0,):
        signs = torch.full((len(images),), sign)
        found = randaugment.OPERATIONS[name](images, signs, magnitude / 30)
        mode, fill = transforms.InterpolationMode.NEAREST, None
        wanted = autoaugment._apply_op(images, name, sign * value, interpolation=mode, fill=fill)
        assert found.dtype == torch.uint8
        differ = (found.int() - wanted.int()).abs()
        geometric = name in ("ShearX", "ShearY", "Rotate")
        assert (differ > (0 if geometric else 1)).float().mean() < (0.02 if geometric else 1e-9), name
        as_float = randaugment.OPERATIONS[name](images / 255, signs, magnitude / 30) * 255
        assert (as_float - wanted).abs().median() <= 1


@pytest.mark.parametrize("degrees", [90.0, 180.0, 270.0, 360.0])
def test_right_angles_are_exact(degrees: float) -> None:
    images = natural(height=20, width=20)
    turned = randaugment.rotated(images, torch.full((6,), degrees))
    assert torch.equal(turned, torch.rot90(images, int(degrees / 90), (2, 3)))


def test_an_image_turns_counter_clockwise_about_its_centre() -> None:
    pillow = pytest.importorskip("PIL.Image")
    images = natural(1, 1, 32, 32)
    turned = randaugment.rotated(images, torch.tensor([17.0]))[0, 0].numpy()
    wanted = np.asarray(pillow.fromarray(images[0, 0].numpy()).rotate(17))
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
