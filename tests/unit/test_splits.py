"""Splits by name and by ids, and the forget sets that go with them, from Python, JSON and text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.bench.grid import Comparison
from expunge.core import config
from expunge.core.errors import RequestError
from expunge.data import split_data, splits
from expunge.data.forgetting import forget_ids, is_fixed
from expunge.data.image_set import ImageSet, make
from expunge.data.published_order import FIRST_LABELS, in_published_order
from expunge.data.split_data import DataConfig, SplitData
from expunge.evaluation import sanity
from expunge.evaluation.predictions import Predictions
from tests.runs import digits


def ids(images: ImageSet) -> set[int]:
    return set(images.ids.tolist())


def every(limit: int | None = None, **more: object) -> SplitData:
    return split_data.load(digits(limit, **more))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.sampled_from([0.0, 0.1, 0.35]), st.integers(0, 99))
def test_the_released_split_is_class_balanced_and_whole(labels: list[int], share: float, seed: int) -> None:
    classes = torch.tensor(labels)
    train, validation = splits.released(classes, share, seed)
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(len(labels)))
    assert torch.equal(validation, validation.sort().values)
    counts = classes.bincount()
    assert torch.equal(classes[validation].bincount(minlength=len(counts)), (counts.double() * share).long())


def test_the_released_split_has_a_seed_of_its_own_and_the_default_is_unchanged() -> None:
    assert (DataConfig("digits").seed, DataConfig("digits", split="released").seed) == (0, 1)
    assert DataConfig("digits", split="released") == DataConfig("digits", split="released", seed=1)
    ours, theirs, other = every(), every(split="released"), every(split="released", seed=2)
    assert ids(ours.validation) != ids(theirs.validation) != ids(other.validation)
    assert ids(every(seed=0).validation) == ids(ours.validation)


def test_a_limit_moves_no_image_to_the_other_side_of_a_released_split() -> None:
    whole, part = every(split="released"), every(300, split="released")
    assert ids(part.train) < ids(whole.train)
    assert ids(part.validation) < ids(whole.validation)
    assert len(part.train) + len(part.validation) == 300


def test_validation_images_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("9\n3\n# and no more\n17\n")
    for listed in (str(tmp_path / "held.txt"), (3, 17, 9), "3+9+17"):
        wanted = digits(None, validation_ids=listed)
        assert wanted.validation_ids == (3, 9, 17)
        data = split_data.load(wanted)
        assert ids(data.validation) == {3, 9, 17}
        assert ids(data.train) == ids(data.dataset.train) - {3, 9, 17}


def test_splits_are_the_same_in_python_and_in_json(tmp_path: Path) -> None:
    np.save(tmp_path / "held.npy", np.array([4, 2]))
    listed = {"source": "digits", "validation_ids": str(tmp_path / "held.npy")}
    released = {"source": "digits", "split": "released"}
    assert config.from_data(DataConfig, listed) == DataConfig("digits", validation_ids=(2, 4))
    assert config.from_data(DataConfig, released) == DataConfig("digits", split="released")
    for data in (listed, released):
        wanted = config.from_data(DataConfig, data)
        assert config.from_data(DataConfig, config.to_data(wanted)) == wanted
        assert config.digest(wanted) != config.digest(DataConfig("digits"))
        comparison = {"name": "a", "data": data, "model": "logistic", "training": {}, "methods": ["finetune"]}
        read = config.from_data(Comparison, {**comparison, "forget": "released:9,seed=2"})
        assert read.data == wanted
        assert config.text("forget_sets", read.forget) == "released:9,seed=2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "theirs"}, "split must be one of ours, released, got 'theirs'"),
        ({"split": "released", "validation_ids": (3,)}, "give the released split or the ids"),
        ({"validation_ids": ()}, "list of validation images is empty"),
        ({"validation_ids": (3, 3)}, "ids repeat in the validation set: 3"),
    ],
)
def test_wrong_splits_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        digits(None, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "released", "seed": -1}, r"seed of a released choice must be in 0\.\."),
        ({"split": "released", "validation": 1.0}, r"validation share must be in \[0, 1\)"),
        ({"validation_ids": (3, 10**9)}, "no training image has the validation ids 1000000000"),
    ],
)
def test_splits_that_the_images_do_not_allow_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        every(**options)
    with pytest.raises(RequestError, match="none is left to train on"):
        every(validation_ids=tuple(every().dataset.train.ids.tolist()))


def released(text: str, seed: int = 0, count: int = 60) -> set[int]:
    train = make(torch.zeros(count, 1, 2, 2), torch.arange(count) % 3, first_id=100)
    wanted = config.parse("forget_sets", f"released:{text}" if text else "released")
    return set(forget_ids(wanted, train, torch.Generator().manual_seed(seed), 3).tolist())


def test_released_forget_sets_depend_on_their_own_seed_alone() -> None:
    assert released("9,seed=2") == released("9,seed=2", seed=5) != released("9,seed=3")
    assert released("9") == released("9,seed=1")
    assert (len(released("")), len(released("25%")), len(released("9"))) == (6, 15, 9)


def test_released_forget_sets_of_classes() -> None:
    assert released("classes=1") == set(range(101, 160, 3))
    both = released("7,classes=0+2,seed=4")
    assert len(both) == 7
    assert {number % 3 for number in both} == {(100 + c) % 3 for c in (0, 2)} == {1, 0}
    assert is_fixed(config.parse("forget_sets", "released:classes=1"))
    assert not is_fixed(config.parse("forget_sets", "released:7,classes=1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=0", "must be at least 1, got 0"),
        ("classes=1+1", "give each class to forget once"),
        ("classes=9", "no training example has the class 9"),
        ("count=3,share=10%", "give a count or a share"),
        ("61", "cannot take 61 of 60"),
    ],
)
def test_released_forget_sets_that_do_not_exist_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        released(text)


def test_published_order_is_told_by_the_first_labels() -> None:
    for (count, classes), first in FIRST_LABELS.items():
        labels = torch.zeros(count, dtype=torch.int64)
        assert not in_published_order(labels, classes)
        labels[: len(first)] = torch.tensor(first)
        assert in_published_order(labels, classes)
        assert in_published_order(labels[1:], classes), "a set of another size is not known"


def outputs(right: int, count: int, classes: int = 4) -> Predictions:
    """Predictions of so many examples, the first of which are right."""
    labels = torch.arange(count) % classes
    shown = torch.where(torch.arange(count) < right, labels, (labels + 1) % classes)
    return Predictions(torch.nn.functional.one_hot(shown, classes).float(), labels, torch.arange(count))


@pytest.mark.parametrize(
    ("train", "validation", "test", "suspicion"),
    [
        ((400, 400), (80, 100), (80, 100), ""),
        ((400, 400), (99, 100), (60, 100), "trained on them"),
        ((400, 400), (79, 100), (60, 100), ""),  # between the two, nearer to the test images
        ((400, 400), (10, 10), (80, 100), ""),  # ten images show nothing
        ((400, 400), (0, 0), (80, 100), ""),
        ((400, 400), (99, 100), (0, 0), ""),
        ((120, 400), (25, 100), (25, 100), "near chance (25.0%)"),
        ((140, 400), (25, 100), (25, 100), ""),  # little, and yet more than chance
        ((11, 20), (0, 0), (25, 100), ""),
        ((10, 20), (0, 0), (25, 100), "near chance"),  # of twenty, ten are right by luck
    ],
)
def test_what_is_suspicious_in_an_imported_model(
    train: tuple[int, int], validation: tuple[int, int], test: tuple[int, int], suspicion: str
) -> None:
    given_splits = {"train": outputs(*train), "validation": outputs(*validation), "test": outputs(*test)}
    found = sanity.warnings(given_splits)
    assert len(found) == bool(suspicion)
    assert suspicion in "".join(found)
