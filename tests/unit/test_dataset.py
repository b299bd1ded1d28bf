"""Statistics of many images, and passes that shuffle them."""

import numpy as np
import pytest
import torch

from expunge.core.errors import RequestError
from expunge.data import _assemble
from expunge.data.dataset import channel_statistics
from expunge.data.image_set import make


@pytest.mark.parametrize("floating", [False, True])
def test_statistics_over_several_parts_are_those_of_numpy(floating: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (700, 3, 2, 5), dtype=np.uint8)
    images[:, 1] = images[:, 1] // 4 + 100
    scaled = images.astype(np.float32) if floating else images
    mean, std = channel_statistics(torch.from_numpy(scaled))
    wanted = scaled.astype(np.float64) / (1 if floating else 255)
    assert mean == pytest.approx(tuple(wanted.mean(axis=(0, 2, 3))), rel=1e-12)
    assert std == pytest.approx(tuple(wanted.std(axis=(0, 2, 3))), rel=1e-12)


def test_a_large_offset_costs_no_digits() -> None:
    """Sums of squares would lose a deviation of 1 about a mean of 1e9: float64 has 16 digits, they need 18."""
    images = torch.tensor([1e9 - 1, 1e9 + 1], dtype=torch.float64).repeat(300)[:, None, None, None]
    mean, std = channel_statistics(images)
    assert mean == (1e9,)
    assert std == pytest.approx((1.0,), rel=1e-12)


def test_shuffled_batches_of_images_whose_memory_is_not_contiguous() -> None:
    images = torch.arange(24 * 6, dtype=torch.uint8).view(24, 2, 1, 3).transpose(2, 3)
    data = make(images, torch.zeros(24))
    for batch in data.batches(5, torch.Generator().manual_seed(0)):
        assert torch.equal(batch.inputs * 255, images[batch.ids].float())


@pytest.mark.parametrize(("names", "wrong"), [(("a",), "one name each, got 1"), (("a", "a"), "the name 'a'")])
def test_each_example_has_a_name_of_its_own(names: tuple[str, ...], wrong: str) -> None:
    images = np.zeros((2, 2, 2), np.uint8), np.array([0, 1])
    with pytest.raises(RequestError, match=wrong):
        _assemble.dataset(images, images, "here", names=(names, ()))
    assert _assemble.dataset(images, images, "here", names=(("b", "a"), ())).train_names == ("b", "a")
