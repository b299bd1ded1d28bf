"""Exact and near duplicates: against brute force, on altered images, and in image folders."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from expunge.core.errors import RequestError
from expunge.data import duplicates, split_data
from expunge.data.check import check
from expunge.data.dataset import channel_statistics
from expunge.data.duplicates import groups, near, shared, small_copies
from expunge.data.image_set import make
from expunge.data.manifest import pixel_digests
from expunge.data.sources.folder import FolderConfig
from expunge.data.split_data import DataConfig
from expunge.runs._data import duplicate_notes
from tests import problems
from tests.command_line import Terminal

COUNT = 24


def scenes(count: int = COUNT, seed: int = 0) -> torch.Tensor:
    """Smooth colour images that differ: uint8 (count, 3, 32, 32)."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 1) * 200 + 20).to(torch.uint8)


def compressed(image: torch.Tensor, quality: int) -> torch.Tensor:
    """The image as a JPEG file gives it back."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def in_grey(image: torch.Tensor) -> torch.Tensor:
    """The image as Pillow converts it to grey, in three equal channels."""
    grey = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
    return torch.from_numpy(grey).expand(3, -1, -1)


def pairs_of(images: torch.Tensor, alike: float = duplicates.ALIKE) -> set[tuple[int, int]]:
    return {(one, other) for one, other in near(small_copies(images / 255), alike).pairs.tolist()}


@settings(max_examples=30, deadline=None)
@given(some.lists(some.integers(0, 5), max_size=12), some.integers(0, 12))
def test_groups_and_shared_are_those_of_comparing_all_pairs(values: list[int], cut: int) -> None:
    images = make(torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1), torch.zeros(len(values)))
    digests = pixel_digests(images)
    members = [[place for place, value in enumerate(values) if value == wanted] for wanted in dict.fromkeys(values)]
    assert groups(digests) == [each for each in members if len(each) > 1]
    cut = min(cut, len(values))
    first, second = values[:cut], values[cut:]
    wanted = [
        ([i for i, v in enumerate(first) if v == value], [i for i, v in enumerate(second) if v == value])
        for value in dict.fromkeys(first)
        if value in second
    ]
    assert shared(digests[:cut], digests[cut:]) == wanted


@settings(max_examples=25, deadline=None)
@given(some.integers(0, 1000), some.sampled_from([0, 1, 2, 40, 90]), some.sampled_from([0.5, 0.9, 0.99]))
def test_near_pairs_are_those_of_comparing_all_pairs(seed: int, count: int, alike: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=generator)[torch.randint(4, (count,), generator=generator)]
    vectors = centres + 0.3 * torch.rand(count, 1, generator=generator) * torch.randn(count, 12, generator=generator)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", 7)
        found = near(vectors, alike)
    similarities = vectors @ vectors.T
    wanted = {(i, j) for i in range(count) for j in range(i + 1, count) if similarities[i, j] >= alike}
    assert {(one, other) for one, other in found.pairs.tolist()} == wanted
    assert len(found.pairs) == len(wanted)
    assert found.similarities.tolist() == sorted(found.similarities.tolist(), reverse=True)
    assert found.complete


def test_the_search_ends_at_the_most_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST", 10)
    found = near(torch.ones(8, 4) / 2)
    assert (len(found.pairs), found.complete) == (10, False)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: (images + 25).to(torch.uint8),
        lambda images: (images * 0.7).to(torch.uint8),
        lambda images: torch.stack([compressed(image, 50) for image in images]),
        lambda images: (images + torch.randint(-6, 7, images.shape, generator=torch.Generator().manual_seed(1))).byte(),
        lambda images: torch.stack([in_grey(image) for image in images]),
    ],
    ids=["brighter", "less contrast", "jpeg", "noise", "grey"],
)
def test_altered_images_are_near_duplicates_and_others_are_not(
    change: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    images = scenes()
    both = torch.cat([images, change(images)])
    assert not torch.equal(both[:COUNT], both[COUNT:])
    assert pairs_of(both) == {(each, each + COUNT) for each in range(COUNT)}


def test_images_of_one_grey_and_vectors_are_like_none() -> None:
    flat = torch.arange(5).view(-1, 1, 1, 1).expand(5, 1, 8, 8).to(torch.uint8)
    assert pairs_of(flat) == set()
    assert near(small_copies(torch.rand(6, 10))).pairs.shape == (0, 2)


@pytest.mark.parametrize("poison", [None, "patch:count=6,size=2,target=1"])
def test_the_note_on_retained_duplicates_with_a_manifest_and_without(tmp_path: Path, poison: str | None) -> None:
    images = scenes(12).permute(0, 2, 3, 1).numpy()
    images[7], images[9], images[10] = images[2], images[2], images[4]
    labels = np.arange(12) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:2], "y_test": labels[:2]}
    np.savez(tmp_path / "ids.npz", **arrays)
    names = {"train_names": np.array(list("abcdefghijkl")), "test_names": np.array(["t", "u"])}
    np.savez(tmp_path / "names.npz", **arrays, **names)
    for file in ("ids.npz", "names.npz"):
        data = split_data.load(DataConfig(f"npz:{tmp_path / file}", validation=0, poison=poison))
        assert (data.manifest is None) == (file == "ids.npz")
        forgotten = torch.tensor([2, 3, 9])
        forget, retain = (data.train.select(data.train.contains(forgotten) == side) for side in (True, False))
        same = [2, 9] if poison is None else [9]  # all of class 0 have the patch
        assert duplicate_notes(data, forget, retain) == {"duplicates": {"forget": same, "retain": [7]}}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes; an image that is also in the other class, one also in the test set, a brighter one, damaged ones."""
    images = scenes(10, seed=3)
    brighter = (images[1] + 20).to(torch.uint8)
    files = {
        "train/cat/0.png": images[0],
        "train/cat/1.png": images[1],
        "train/cat/2.png": images[2],
        "train/dog/0.png": images[0],
        "train/dog/1.png": brighter,
        "train/dog/3.png": images[3],
        "train/owl/4.png": images[4],
        "test/cat/2.png": images[2],
        "test/dog/5.png": images[5],
    }
    for name, image in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    (tmp_path / "train/cat/damaged.png").write_bytes((tmp_path / "train/cat/0.png").read_bytes()[:200])
    (tmp_path / "test/dog/text.png").write_text("no image")
    return tmp_path


def test_a_folder_is_checked_from_the_command_line(photos: Path, terminal: Terminal) -> None:
    found = terminal.json("data", "check", photos)
    assert found["classes"] == {
        "cat": {"train": 3, "test": 1},
        "dog": {"train": 3, "test": 1},
        "owl": {"train": 1, "test": 0},
    }
    assert found["classes_without_test_images"] == ["owl"]
    assert (found["sizes"], found["types"]) == ({"32 x 32, colour": 9}, ["uint8"])
    assert set(found["unreadable"]) == {"train/cat/damaged.png", "test/dog/text.png"}
    named = [({member["name"] for member in group["images"]}, group) for group in found["duplicates"]]
    assert [names for names, _ in named] == [
        {"train/cat/0.png", "train/dog/0.png"},
        {"train/cat/2.png", "test/cat/2.png"},
    ]
    assert [(group["label_conflict"], group["train_and_test"]) for _, group in named] == [(True, False), (False, True)]
    (pair,) = found["near_duplicates"]
    assert [each["name"] for each in pair["images"]] == ["train/cat/1.png", "train/dog/1.png"]
    assert pair["images"][0] == {"name": "train/cat/1.png", "split": "train", "label": "cat"}
    assert pair["label_conflict"]
    assert 0.99 < pair["similarity"] <= 1
    assert found["near_duplicates_complete"]

    printed = terminal("data", "check", f"folder:{photos}")
    assert "unreadable files: 2\n  train/cat/damaged.png: is damaged" in printed
    assert "exact duplicates: 2 groups, 1 with different labels, 1 in training and test set\n" in printed
    assert "  train/cat/0.png (train, cat), train/dog/0.png (train, dog)\n" in printed
    assert "near duplicates: 1 pairs, 1 with different labels, 0 in training and test set\n" in printed
    assert "classes without test images: 1 (33%): owl" in printed
    mean = ",".join(f"{value:.4f}" for value in found["normalisation"]["mean"])
    assert f"normalisation of the training images: mean {mean}, std " in printed
    assert len(terminal.json("data", "check", photos, "--alike", 0.3)["near_duplicates"]) > 1
    assert "alike must be above 0" in terminal.refused("data", "check", photos, "--alike", 0)
    assert "holds no training images" in terminal.refused("data", "check", photos / "train" / "cat")
    assert "no data source 'nothing'" in terminal.refused("data", "check", "nothing")


def test_images_of_several_sizes_and_kinds_are_counted(photos: Path) -> None:
    grey = Image.open(photos / "train/cat/1.png").convert("L").resize((40, 40))
    grey.save(photos / "train/cat/grey.png")
    found = check(FolderConfig(str(photos)))
    assert found.sizes == {"32 x 32, colour": 9, "40 x 40, grey": 1}
    assert found.normalisation is None
    names = {frozenset(each.name for each in pair.members) for pair in found.near}
    assert frozenset({"train/cat/1.png", "train/cat/grey.png"}) in names
    resized = check(FolderConfig(str(photos), size=16))
    assert resized.sizes == found.sizes


def test_a_source_and_a_folder_agree_with_what_is_trained_on(photos: Path) -> None:
    for name in ("train/cat/damaged.png", "test/dog/text.png"):
        (photos / name).unlink()
    for text in (f"folder:{photos}", f"folder:{photos},size=20", "digits"):
        data = problems.dataset(text)
        source = FolderConfig(str(photos), 20 if "size" in text else None) if "folder" in text else None
        found = check(source or problems.config.parse("data", text))
        assert found.normalisation is not None
        for mine, wanted in zip(found.normalisation, (data.mean, data.std), strict=True):
            assert mine == pytest.approx(wanted, rel=1e-6)
        counts = torch.bincount(data.train.labels).tolist()
        assert [each["train"] for each in found.classes.values()] == counts


def test_the_deviation_of_a_constant_channel_is_one(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    images[..., 1] = 77
    labels = np.arange(6) % 2
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    found = check(problems.config.parse("data", f"npz:{tmp_path / 'a.npz'}"))
    mean, std = channel_statistics(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    assert found.normalisation is not None
    assert found.normalisation[0] == pytest.approx(mean)
    assert found.normalisation[1] == pytest.approx(std)
    assert std[1] == 1
    assert len(found.exact) == 6
    assert all(each.leak and not each.conflict for each in found.exact)


def test_a_folder_that_holds_no_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no training images"):
        check(FolderConfig(str(tmp_path)))
