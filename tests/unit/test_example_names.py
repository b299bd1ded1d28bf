"""Names of examples: what a list means, the split by name, and data that changed on disk since the training."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from expunge.core import config
from expunge.core.errors import RequestError
from expunge.data import manifest, split_data
from expunge.data.dataset import Dataset
from expunge.data.forget_sets.group import GroupForget
from expunge.data.forget_sets.ids import ListedForget
from expunge.data.forgetting import forget_ids
from expunge.data.image_set import make
from expunge.data.manifest import Manifest
from expunge.data.names import By, Listed, Names, held_out, resolve
from expunge.data.split_data import DataConfig
from expunge.data.unlearning_data import UnlearningData
from expunge.unlearning import presets
from expunge.unlearning.unlearn import reads_forget_set, retain_only
from tests import problems
from tests.problems import dataset

NAMES = Names(("anna/1.png", "anna/2.png", "ben/1.png", "ben/käse.png"), ("carl/9.png", "anna/7.png"))
KEYS = Names(("3", "2", "x", "17"), ("5",))


@pytest.mark.parametrize(
    ("names", "listed", "by", "wanted"),
    [
        (NAMES, ["ben/1.png", "anna/2.png"], "any", [1, 2]),
        (NAMES, ["2.png", "photos/ben/1.png", "./anna/1.png", "C:\\photos\\anna\\1.png"], "any", [0, 1, 2]),
        (NAMES, ["ben/ka\u0308se.png"], "any", [3]),
        (NAMES, [3, "anna/1.png", 0], "any", [0, 3]),
        (NAMES, ["9.png", "anna/7.png", "2.png"], "any", [1]),  # the model was not trained on test images
        (Names(), [7, 5], "any", [5, 7]),
        (KEYS, [17, 0, "x"], "any", [0, 2, 3]),
        (KEYS, [3, 2], "name", [0, 1]),
        (KEYS, [3, 2], "id", [2, 3]),
    ],
)
def test_what_a_list_means(names: Names, listed: list[Listed], by: By, wanted: list[int]) -> None:
    assert resolve(listed, names, by).tolist() == wanted


@pytest.mark.parametrize(
    ("names", "listed", "by", "message"),
    [
        (NAMES, ["1.png"], "any", "'1.png' may be anna/1.png, ben/1.png: write more of the path"),
        (NAMES, ["anna/3.png", "q"], "any", r"no image called anna/3.png, q; did you mean anna/\d.png"),
        (NAMES, ["q"], "any", "names are such as anna/1.png; `expunge list ids RUN` shows all"),
        (NAMES, ["na/1.png"], "any", "no image called na/1.png"),  # only whole parts of a path
        (NAMES, ["9.png"], "any", "trained on none of the 1 listed images"),
        (Names(), ["a"], "any", "have only ids, no names"),
        (KEYS, [3], "any", "3 is the id of 17 and the name of the example with the id 0: add by=id or by=name"),
        (KEYS, ["x"], "id", "'x' is no id"),
        (KEYS, [4], "name", "no image called 4"),
    ],
)
def test_lists_that_are_refused(names: Names, listed: list[Listed], by: By, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        resolve(listed, names, by)


def test_named_images_that_the_model_was_not_trained_on_are_left_out_but_not_ids() -> None:
    train = make(torch.zeros(4, 1, 1, 1), torch.arange(4)).select(torch.tensor([0, 3]))
    generator = torch.Generator()

    def chosen(*listed: Listed) -> list[int]:
        return forget_ids(ListedForget(listed), train, generator, 4, names=NAMES).tolist()

    assert chosen("anna/1.png", "ben/1.png") == [0]
    with pytest.raises(RequestError, match="trained on none of the 1 listed"):
        chosen("ben/1.png")
    with pytest.raises(RequestError, match="not in the training set: 2"):
        chosen(0, 2)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.txt", "# people\nanna/1.png\n 17 # an id\n\nphoto #1.png\n"),
        ("list", "anna/1.png\n17,\nphoto #1.png"),
        ("a.json", '["anna/1.png", 17, "photo #1.png"]'),
        ("a.csv", 'why,photo\nasked,anna/1.png\nasked,17\n,"photo #1.png"\nagain,17\n'),
        ("a.tsv", "why\tphoto\n\tanna/1.png\n\t17\n\tphoto #1.png\n"),
    ],
)
def test_the_forms_of_a_list(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    wanted = ListedForget(("anna/1.png", 17, "photo #1.png"))
    assert config.parse("forget_sets", f"ids:{tmp_path / file}") == wanted
    assert config.parse("forget_sets", "ids:anna/1.png+17+photo #1.png") == wanted
    if file.endswith("sv"):
        assert config.parse("forget_sets", f"ids:{tmp_path / file},column=photo") == wanted


@pytest.mark.parametrize("names", [("a+b.png", "c,d.png", "(e).png", "k=v", "x:y", "17b", 3), ("(a)",), ("a+b",)])
def test_names_are_written_as_text_and_read_again(names: tuple[Listed, ...]) -> None:
    wanted = ListedForget(names)
    assert config.parse("forget_sets", config.text("forget_sets", wanted)) == wanted
    data = config.to_data(wanted)
    assert config.from_data(ListedForget, data) == wanted


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,b\n1,2\n", "", "its columns are a, b"),
        ("a,b\n1,2\n", ",column=c", "there is no column 'c'"),
        ("photo\n", "", "has no rows below its header"),
        ("x,photo\n1,a\n2\n", "", "line 3: no photo is given"),
        ('photo\n"a', "", "cannot be read"),
        ("", "", "its columns are"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: str, options: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(RequestError, match=message):
        config.parse("forget_sets", f"ids:{tmp_path / 't.csv'}{options}")


def test_all_images_of_people_by_value(tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_text("photo,person\na.png,anna\nb.png,ben\nc.png,anna\nd.png,carl\na.png,ben\n")
    read = config.parse("forget_sets", f"group:{table},people=anna+ben")
    assert read == GroupForget(("a.png", "b.png", "c.png"), "person", ("anna", "ben"))
    table.unlink()
    assert config.from_data(GroupForget, config.to_data(read)) == read
    with pytest.raises(RequestError, match="say whose images to forget"):
        config.parse("forget_sets", f"group:{table}")


@settings(max_examples=50, deadline=None)
@given(some.sets(some.text(min_size=1), max_size=30), some.sets(some.text(min_size=1)), some.floats(0.01, 0.99))
def test_the_split_by_name_depends_on_no_other_name(names: set[str], deleted: set[str], share: float) -> None:
    def sides(present: set[str]) -> dict[str, bool]:
        return {name: held_out(name, share) for name in present}

    before, after = sides(names), sides(names - deleted)
    assert after == {name: side for name, side in before.items() if name in after}


def test_the_split_by_name_has_about_its_share() -> None:
    held = sum(held_out(f"anna/{number}.png", 0.2) for number in range(5000))
    assert abs(held - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5
    share = int.from_bytes(bytes.fromhex(hashlib.sha256(b"anna/1.png").hexdigest()[:16]), "big") / 2**64
    assert held_out("anna/1.png", share + 1e-9)
    assert not held_out("anna/1.png", share - 1e-9)


def folder(root: Path, *names: str, side: int = 4) -> Path:
    """A folder with a picture of its own for each name."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side), np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def test_a_folder_without_train_and_test_is_split_and_deletions_move_nothing(tmp_path: Path) -> None:
    names = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(30)]
    root = folder(tmp_path / "photos", *names)
    before = dataset(f"folder:{root}")
    assert sorted((*before.train_names, *before.test_names)) == sorted(names)
    assert all(held_out(name, 0.2) for name in before.test_names)
    assert not any(held_out(name, 0.2) for name in before.train_names)
    for name in names[::3]:
        (root / name).unlink()
    after = dataset(f"folder:{root}")
    left = set(names) - set(names[::3])
    assert after.train_names == tuple(name for name in before.train_names if name in left)
    assert after.test_names == tuple(name for name in before.test_names if name in left)
    assert len(dataset(f"folder:{root},test=50%").test_names) > len(after.test_names)
    with pytest.raises(RequestError, match="test must be a share"):
        dataset(f"folder:{root},test=1")


def test_names_in_a_folder_with_train_and_test(tmp_path: Path) -> None:
    root = folder(tmp_path, "train/a/1.png", "train/b/images/1.png", "test/a/1.png")
    data = dataset(f"folder:{root}")
    assert (data.train_names, data.test_names) == (("train/a/1.png", "train/b/images/1.png"), ("test/a/1.png",))
    only = folder(tmp_path / "only", *(f"train/{label}/{number}.png" for label in "ab" for number in range(20)))
    data = dataset(f"folder:{only}")
    assert data.class_names == ("a", "b")
    assert len(data.train_names) + len(data.test_names) == 40


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: folder(root, "a/X.png", "a/x.png"), "differ in case alone: rename one"),
        (lambda root: (root / "b").symlink_to(root), "symbolic link to a folder that it is in"),
        (lambda root: (root / "a" / "l.png").symlink_to(root / "a" / "l.png"), "l.png cannot be read"),
        (lambda root: (root / "a" / "0.png").write_bytes(b""), "0.png is damaged"),
        (lambda root: folder(root, "a/\n.png"), r"the name .* is no printable text in UTF-8: rename the file"),
        (lambda root: os.rename(root / "a/0.png", os.fsencode(root / "a") + b"/\xff.png"), "no printable text"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    root = folder(tmp_path / "photos", *(f"a/{number}.png" for number in range(30)))
    spoil(root)
    with pytest.raises(RequestError, match=message):
        dataset(f"folder:{root},test=50%")


def test_names_of_other_sources(tmp_path: Path) -> None:
    images, labels = np.zeros((3, 4, 4), np.uint8), np.arange(3) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "a.npz", **arrays, train_names=np.array(["a", "käse", "c"]), test_names=np.array([7, 8, 9]))
    data = dataset(f"npz:{tmp_path / 'a.npz'}")
    assert (data.train_names, data.test_names) == (("a", "käse", "c"), ("7", "8", "9"))
    np.savez(tmp_path / "b.npz", **arrays, train_names=np.array(["a", "a", "c"]), test_names=np.array([7, 8, 9]))
    assert dataset(f"npz:{tmp_path / 'b.npz'}").train_names == ()


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"id": [5, 3]}, ("5", "3")),
        ({"file_name": ["b.png", "a.png"], "id": [1, 2]}, ("b.png", "a.png")),
        ({"name": ["a", "a"]}, ()),
        ({"name": ["a", None]}, ()),
        ({}, ("0.png", "1.png")),
    ],
)
def test_names_in_parquet_files(tmp_path: Path, columns: dict[str, list[object]], wanted: tuple[str, ...]) -> None:
    folder(tmp_path / "png", "0.png", "1.png")
    images = [{"bytes": (tmp_path / "png" / f"{n}.png").read_bytes(), "path": f"{n}.png"} for n in range(2)]
    for split in ("train", "test"):
        table = {"image": images, "label": [0, 1], **columns}
        pl.DataFrame(table).write_parquet(tmp_path / f"{split}.parquet")
    assert dataset(f"parquet:{tmp_path}").train_names == wanted


def named(names: list[str], seed: int, tests: int = 3) -> Dataset:
    """A data set whose images, labels and names belong together, whatever their order."""

    def pixels(name: str) -> torch.Tensor:
        return torch.randint(0, 256, (1, 2, 2), generator=torch.Generator().manual_seed(hash(name) % 2**31)).byte()

    labels = torch.tensor([len(name) % 3 for name in names])
    held = [f"t{number}" for number in range(tests)]
    return Dataset(
        make(torch.stack([pixels(name) for name in names]), labels),
        make(torch.stack([pixels(name) for name in held]), torch.zeros(tests)),
        ("a", "b", "c"),
        (0.5,),
        (0.5,),
        tuple(names),
        tuple(held),
    )


def known_of(data: Dataset) -> Manifest:
    """A manifest in which a fifth of the training images are for validation, and some left out."""
    ids = data.train.ids
    return manifest.of(
        data, data.train.select(ids % 5 > 1), data.train.select(ids % 5 == 1), data.test.select(torch.tensor([0, 2]))
    )


@pytest.mark.parametrize("seed", range(5))
def test_data_that_changed_on_disk_are_aligned_by_name(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"{'x' * int(random.integers(5))}{number}" for number in range(40)]
    before = named(names, seed)
    known = manifest.read(known_of(before).tensors())
    left = [*random.permutation(names)[:30], *(f"new{number}" for number in range(4))]
    on_disk = [str(name) for name in random.permutation(left)]
    found = manifest.align(known, named(on_disk, seed))
    wanted = [number for number in range(40) if number % 5 > 1]
    assert found.train.ids.tolist() == wanted
    assert found.train.labels.tolist() == [before.train.labels[number] for number in wanted]
    assert found.missing.tolist() == [number for number in wanted if names[number] not in left]
    for batch in found.train.batches(1):
        example = int(batch.ids)
        image = before.train.gather(batch.ids).inputs
        assert batch.inputs.equal(torch.zeros_like(image) if names[example] not in left else image)
    validation = [number for number in range(40) if number % 5 == 1 and names[number] in left]
    assert found.validation.ids.tolist() == validation
    assert found.test.ids.tolist() == [0, 2]
    gone = {"train": len(found.missing), "validation": 8 - len(validation)}
    gone["unused"] = 10 - sum(gone.values())
    assert found.notes["missing images"] == {split: count for split, count in gone.items() if count}
    assert found.notes["new images"] == 4


def test_other_pixels_and_other_labels_are_refused_by_name() -> None:
    data = named(list("abcdefg"), 0)
    known = known_of(data)
    with pytest.raises(RequestError, match="1 images have other pixels than when the model was trained: c; restore"):
        manifest.align(
            known,
            Dataset(
                data.train.mapped(lambda images, _: images + 1, torch.tensor([2])),
                data.test,
                data.class_names,
                data.mean,
                data.std,
                data.train_names,
                data.test_names,
            ),
        )
    labels = data.train.labels.clone()
    labels[3] = 2
    moved = Dataset(
        data.train.with_labels(labels),
        data.test,
        data.class_names,
        data.mean,
        data.std,
        data.train_names,
        data.test_names,
    )
    with pytest.raises(RequestError, match="1 images have another label than when the model was trained: d"):
        manifest.align(known, moved)


def test_a_class_whose_folder_is_gone_keeps_its_number(tmp_path: Path) -> None:
    names = [f"{label}/{number}.png" for label in ("a", "b", "c") for number in range(12)]
    root = folder(tmp_path / "photos", *names)
    wanted = DataConfig(config.parse("data", f"folder:{root}"), validation=0)
    before = split_data.load(wanted)
    for path in (root / "a").iterdir():
        path.unlink()
    (root / "a").rmdir()
    folder(root, "d/0.png")
    after = split_data.load(wanted, before.manifest)
    assert after.dataset.class_names == ("a", "b", "c")
    assert after.train.labels.equal(before.train.labels)
    gone = [before.names.train[each] for each in after.missing.tolist()]
    assert gone == [name for name in before.names.train if name.startswith("a/")]
    assert (
        after.train.select(~after.train.contains(after.missing)).fingerprint()
        == before.train.select(~before.train.contains(after.missing)).fingerprint()
    )


def test_a_damaged_manifest_is_refused() -> None:
    stored = known_of(named(list("abc"), 0)).tensors()
    for spoiled in ({**stored, "labels": stored["labels"][1:]}, {k: v for k, v in stored.items() if k != "splits"}):
        with pytest.raises(RequestError, match="the manifest of the data is damaged"):
            manifest.read(spoiled)


@pytest.mark.parametrize("name", retain_only())
def test_methods_of_the_retain_set_alone_read_no_image_to_forget(name: str) -> None:
    unlearning = presets.named(f"{name}:epochs=1")
    assert not reads_forget_set(unlearning)
    full = problems.data()
    empty = UnlearningData(full.forget.select(torch.arange(0)), full.retain, full.validation, full.num_classes)
    first, second = (problems.state(problems.unlearned(unlearning, None, seen)) for seen in (full, empty))
    assert problems.same(first, second)
