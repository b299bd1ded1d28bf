"""Images, augmentation, splits and forget sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from expunge.core.config import parse
from expunge.core.errors import RequestError
from expunge.data import forgetting, splits
from expunge.data.augment import Augmentation
from expunge.data.forget_sets.class_ import ClassForget
from expunge.data.forget_sets.ids import ListedForget
from expunge.data.forget_sets.random import RandomForget
from expunge.data.image_set import ImageSet, TensorImages, make


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, classes: int = 3, **more: object) -> ImageSet:
    pixels = torch.randint(256, (count, 2, 4, 5), dtype=torch.uint8, generator=seeded())
    return make(pixels, torch.arange(count) % classes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_equals_a_crop_and_flip_of_each_image(padding: int, flip: bool) -> None:
    batch = images(50).inputs
    augmentation = Augmentation(padding, flip)
    got = augmentation(batch, seeded(3))
    draws = seeded(3)
    offsets = torch.randint(2 * padding + 1, (2, 50, 1), generator=draws)[..., 0]
    mirrored = torch.rand(50, generator=draws) < 0.5 if flip else torch.zeros(50, dtype=torch.bool)
    for index, image in enumerate(batch):
        padded = torch.zeros(2, 4 + 2 * padding, 5 + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + 4, padding : padding + 5] = image
        row, column = offsets[:, index].tolist()
        crop = padded[:, row : row + 4, column : column + 5]
        assert torch.equal(got[index], crop.flip(2) if mirrored[index] else crop)
    assert got.dtype == batch.dtype


def test_every_place_and_both_directions_occur() -> None:
    marked = torch.zeros(4000, 1, 3, 3, dtype=torch.uint8)
    marked[:, 0, 1, 2] = 1
    seen = Augmentation(padding=1, flip=True)(marked, seeded()).flatten(1)
    shares = seen.float().mean(0)
    # Moved by -1, 0 or 1 on each axis, the mark leaves the image by one of three columns; mirrored likewise.
    expected = torch.tensor([1 / 18, 1 / 9, 1 / 18]).repeat(3)
    assert torch.allclose(shares, expected, atol=0.02)


def test_a_pass_of_training_sees_each_example_once_and_scales_pixels() -> None:
    data = images(23)
    batches = list(data.batches(5, seeded()))
    ids = torch.cat([batch.ids for batch in batches])
    assert sorted(ids.tolist()) == list(range(23))
    assert ids.tolist() != list(range(23))
    for batch in batches:
        assert torch.equal(batch.inputs, data.inputs[batch.ids].float() / 255)
        assert torch.equal(batch.labels, data.labels[batch.ids])


def test_without_a_generator_nothing_is_random() -> None:
    data = images(11, augmentation=Augmentation())
    joined = torch.cat([batch.inputs for batch in data.batches(4)])
    assert torch.equal(joined, data.inputs.float() / 255)
    assert [len(batch.labels) for batch in data.batches(4)] == [4, 4, 3]
    assert [len(batch.labels) for batch in data.batches(100)] == [11]


def test_training_never_ends_in_a_batch_of_one() -> None:
    data = images(9)
    assert [len(batch.labels) for batch in data.batches(4, seeded())] == [4, 5]
    assert data.steps(4) == 2
    assert [len(batch.labels) for batch in images(1).batches(4, seeded())] == [1]


def test_the_same_generator_seed_gives_the_same_batches() -> None:
    data = images(20, augmentation=Augmentation(1))
    first, second = (torch.cat([b.inputs for b in data.batches(6, seeded(4))]) for _ in range(2))
    assert torch.equal(first, second)


def test_float_images_are_left_alone() -> None:
    pixels = torch.randn(4, 1, 2, 2)
    assert torch.equal(next(make(pixels, torch.zeros(4)).batches(4)).inputs, pixels)


@pytest.mark.parametrize(
    ("inputs", "labels", "ids", "message"),
    [
        (torch.zeros(2, 1, 1, 1, dtype=torch.int32), torch.zeros(2).long(), torch.arange(2), "uint8 or float"),
        (torch.zeros(2, 1, 1, 1), torch.zeros(3).long(), torch.arange(2), "as many labels"),
        (torch.zeros(2, 1, 1, 1), torch.zeros(2), torch.arange(2), "int64"),
        (torch.zeros(2, 1, 1, 1), torch.zeros(2).long(), torch.tensor([1, 1]), "ids repeat"),
    ],
)
def test_bad_sets_are_refused(inputs: Tensor, labels: Tensor, ids: Tensor, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TensorImages(inputs, labels, ids)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(RequestError, match="at least 1, got 0"):
        next(images(3).batches(0))


def test_the_fingerprint_tells_contents_apart() -> None:
    first, second = images(5), images(5)
    assert first.fingerprint() == second.fingerprint()
    second.inputs[0, 0, 0, 0] += 1
    assert first.fingerprint() != second.fingerprint()


labels_strategy = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


@given(labels=labels_strategy, share=st.floats(0, 0.99), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_split_is_a_class_balanced_partition(labels: Tensor, share: float, seed: int) -> None:
    kept, aside = splits.class_balanced(labels, share, seeded(seed))
    assert sorted([*kept.tolist(), *aside.tolist()]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    for label in range(5):
        count = int((labels == label).sum())
        assert int((labels[aside] == label).sum()) == int(share * count + 1e-9)


@given(labels=labels_strategy, seed=st.integers(0, 5), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_subset_is_exact_and_balanced(labels: Tensor, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(labels)))
    chosen = splits.balanced_subset(labels, count, seeded(seed))
    assert len(set(chosen.tolist())) == count
    for label in range(5):
        exact = int((labels == label).sum()) * count / len(labels)
        assert abs(int((labels[chosen] == label).sum()) - exact) < 1


def test_bad_shares_are_refused() -> None:
    with pytest.raises(RequestError, match=r"in \[0, 1\), got 1"):
        splits.class_balanced(torch.zeros(3).long(), 1.0, seeded())
    with pytest.raises(RequestError, match="1 to 3 of them, got 4"):
        splits.balanced_subset(torch.zeros(3).long(), 4, seeded())


def test_forget_sets_from_text(tmp_path: Path) -> None:
    assert parse("forget_sets", "random:45") == RandomForget(count=45)
    assert parse("forget_sets", "random:12.5%") == RandomForget(share=0.125)
    assert parse("forget_sets", "class:3+5") == ClassForget((3, 5))
    assert parse("forget_sets", "class:3,count=50") == ClassForget((3,), count=50)
    assert parse("forget_sets", "class:50%,classes=3") == ClassForget((3,), share=0.5)
    text = tmp_path / "ids.txt"
    text.write_text("# asked to be deleted\n7\n\n 3  # again\n")
    np.save(tmp_path / "ids.npy", np.array([7, 3]))
    (tmp_path / "ids.json").write_text("[7, 3]")
    for name in ("ids.txt", "ids.npy", "ids.json"):
        assert parse("forget_sets", f"ids:{tmp_path / name}") == ListedForget((7, 3))


def test_forget_ids() -> None:
    data = images(30).select(torch.arange(5, 30))
    assert forgetting.forget_ids(ClassForget((1,)), data, seeded(), 3).tolist() == list(range(7, 30, 3))
    assert forgetting.forget_ids(ListedForget((9, 6)), data, seeded(), 3).tolist() == [6, 9]
    part = forgetting.forget_ids(ClassForget((1,), count=3), data, seeded(), 3).tolist()
    assert len(set(part)) == 3
    assert set(part) <= set(range(7, 30, 3))
    assert len(forgetting.forget_ids(ClassForget((0, 1), share=0.5), data, seeded(), 3)) == 8
    drawn = forgetting.forget_ids(RandomForget(share=0.2), data, seeded(), 3)
    assert len(set(drawn.tolist())) == 5
    assert set(drawn.tolist()) <= set(range(5, 30))
    assert torch.equal(drawn, forgetting.forget_ids(RandomForget(count=5), data, seeded(), 3))
    assert not torch.equal(drawn, forgetting.forget_ids(RandomForget(count=5), data, seeded(1), 3))
    forget, retain = forgetting.partition(data, drawn)
    assert sorted([*forget.ids.tolist(), *retain.ids.tolist()]) == list(range(5, 30))
    assert torch.equal(forget.ids, drawn)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("randm:3", "did you mean random"),
        ("random:0", "count must be a finite number, at least 1"),
        ("random:ten", "expected int, got 'ten'"),
        ("random:0%", "share must be a finite number, above 0"),
        ("random:100%", "nothing would be retained"),
        ("random:1%", "1% of 30 training examples is less than one"),
        ("random:31", "cannot take 31 of 30"),
        ("random:30", "nothing would be retained"),
        ("class:3", r"no class 3: classes are 0\.\.2"),
        ("class:-1", "no class -1"),
        ("class:1+1", "once"),
        ("class:x", "expected int, got 'x'"),
        ("class:0,1", "classes is given twice.*joined by"),
        ("class:0+1+2", "nothing would be retained"),
        ("ids:/nowhere/ids.txt", "cannot be read"),
    ],
)
def test_bad_forget_sets_say_the_cure(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        forgetting.forget_ids(parse("forget_sets", text), images(30), seeded(), 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("1\n2\n1\n", "repeat in the forget set: 1"),
        ("1\nx\n", "have only ids, no names, so there is no x: give ids"),
        ("99\n", "not in the training set: 99"),
    ],
)
def test_bad_lists_of_ids_say_the_cure(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(content)
    with pytest.raises(RequestError, match=message):
        forgetting.forget_ids(parse("forget_sets", f"ids:{path}"), images(30), seeded(), 3)


def test_a_list_of_all_ids_is_refused() -> None:
    with pytest.raises(RequestError, match="nothing would be retained"):
        forgetting.forget_ids(ListedForget(tuple(range(6))), images(6), seeded(), 3)


def test_object_arrays_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RequestError, match="cannot be read"):
        parse("forget_sets", f"ids:{path}")
