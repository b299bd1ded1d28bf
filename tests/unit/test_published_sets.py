"""Sets of the original experiments in the layouts they are published in: SVHN, EMNIST, Tiny-ImageNet, ImageNet, ..."""

import gzip
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy import io

from expunge.core.errors import RequestError
from expunge.data import split_data
from expunge.data._pictures import CentreCrop, Resize
from expunge.data.split_data import DataConfig
from tests import readers
from tests.problems import dataset

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WORDS = ("n01443537", "n01629819", "n02000000")


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))


def write_svhn(folder: Path, count: int, compress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(exist_ok=True)
    images, labels = readers.pixels(count, 3, 32, 32), (np.arange(count) % 10).astype(np.uint8)
    stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    for name in ("train_32x32.mat", "test_32x32.mat"):
        content = {"X": images.transpose(2, 3, 1, 0), "y": stored}
        io.savemat(folder / name, content, do_compression=compress)
    return images, labels


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("count", [1, 12])
def test_svhn(tmp_path: Path, count: int, compress: bool) -> None:
    images, labels = write_svhn(tmp_path / "svhn", count, compress)
    data = dataset("svhn")
    np.testing.assert_array_equal(data.train.inputs, images)
    assert data.test.labels.tolist() == labels.tolist()
    assert data.class_names == tuple("0123456789")
    assert data.train.augmentation is None, "a flip changes digits"
    assert (data.mean, data.std) == ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    assert dataset("svhn:std=salun").std == (0.1201, 0.1231, 0.1052)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("compress", [True, False])
def test_matlab_files_are_read_as_scipy_reads_them(tmp_path: Path, kind: type, compress: bool) -> None:
    from expunge.data import _mat

    written = {
        "X": (readers.pixels(4, 3, 2) * 3.0).astype(kind),
        "y": np.arange(5, dtype=kind)[:, None],
        "none": np.zeros((0, 3), kind),
        "a": np.array([[7]], kind),
        "text": "abc",
        "cell": np.array([1, "b"], dtype=object),
        "complex": np.array([1j]),
    }
    io.savemat(tmp_path / "a.mat", written, do_compression=compress)
    wanted, found = io.loadmat(tmp_path / "a.mat"), _mat.read(tmp_path / "a.mat")
    assert set(found) == {"X", "y", "none", "a"}
    for name, array in found.items():
        assert array.dtype == wanted[name].dtype
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros((3, 1), np.uint8)}, r"y should hold the digits 1 to 10, where 10 is 0"),
        ({"y": np.full((3, 1), 11, np.uint8)}, r"y should hold the digits 1 to 10"),
        ({"y": np.ones((2, 1), np.uint8)}, r"got uint8 \(32, 32, 3, 3\) and 2 labels"),
        ({"X": np.zeros((32, 32, 3, 3), np.int16)}, r"X should be uint8 \(32, 32, 3, n\)"),
        ({"X": np.zeros((3, 32, 32, 3), np.uint8)}, r"got uint8 \(3, 32, 32, 3\)"),
        ({"X": "none"}, "holds no X: it is no file of SVHN"),
    ],
)
def test_damaged_svhn_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_svhn(tmp_path / "svhn", 3)
    good = {"X": np.zeros((32, 32, 3, 3), np.uint8), "y": np.ones((3, 1), np.uint8)}
    io.savemat(tmp_path / "svhn/test_32x32.mat", good | change)
    with pytest.raises(RequestError, match=f"test_32x32.mat.*{message}"):
        dataset("svhn")


def test_hostile_matlab_files(tmp_path: Path) -> None:
    write_svhn(tmp_path / "svhn", 3)
    path = tmp_path / "svhn/train_32x32.mat"
    header = path.read_bytes()[:128]
    for content, message in (
        (b"MATLAB 7.3 MAT-file" + bytes(105) + b"\x00\x02IM" + bytes(400) + b"\x89HDF", "no MATLAB file of version 5"),
        (header + struct.pack("<II", 14, 2**31), "an element is longer than the file"),
        (header + b"\x0f\x00\x00\x00" + struct.pack("<I", 20) + zlib.compress(struct.pack("<II", 14, 2**32 - 1)), ""),
        (b"", "no MATLAB file"),
        (path.read_bytes()[:3000], "fetch it again"),
    ):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=f"train_32x32.mat.*{message}"):
            dataset("svhn")


def write_emnist(folder: Path, split: str, labels: list[int]) -> np.ndarray:
    folder.mkdir(parents=True)
    images = readers.pixels(len(labels), 28, 28)
    for part in ("train", "test"):
        for kind, array in (("images", images.transpose(0, 2, 1)), ("labels", np.array(labels, np.uint8))):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            name = f"emnist-{split}-{part}-{kind}-idx{array.ndim}-ubyte.gz"
            (folder / name).write_bytes(gzip.compress(head + array.tobytes()))
    return images


@pytest.mark.parametrize(
    ("split", "labels", "wanted", "classes"),
    [
        ("letters", [1, 26, 3], [0, 25, 2], tuple("abcdefghijklmnopqrstuvwxyz")),
        ("balanced", [0, 46, 10], [0, 46, 10], tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")),
        ("digits", [0, 9, 3], [0, 9, 3], tuple("0123456789")),
    ],
)
def test_emnist(tmp_path: Path, split: str, labels: list[int], wanted: list[int], classes: tuple[str, ...]) -> None:
    images = write_emnist(tmp_path / "emnist" / "gzip", split, labels)
    data = dataset(f"emnist:split={split}")
    np.testing.assert_array_equal(data.train.inputs[:, 0], images)
    assert data.test.labels.tolist() == wanted
    assert data.class_names == classes


def test_superclasses_of_cifar100(tmp_path: Path) -> None:
    images = readers.pixels(3, 3, 32, 32)
    batch = {b"data": images.reshape(3, -1), b"fine_labels": [4, 2, 0], b"coarse_labels": [1, 1, 0]}
    meta = {b"fine_label_names": list("abcde"), b"coarse_label_names": ["fish", "trees"]}
    folder = tmp_path / "cifar100"
    readers.write(folder, {"train": pickle.dumps(batch), "test": pickle.dumps(batch), "meta": pickle.dumps(meta)})
    for text, labels, names in (
        ("cifar100", [4, 2, 0], tuple("abcde")),
        ("cifar100:superclasses=true", [1, 1, 0], ("fish", "trees")),
    ):
        data = dataset(text)
        assert data.train.labels.tolist() == labels
        assert data.class_names == names
    for path in folder.iterdir():
        path.unlink()
    rows = [{"bytes": readers.encoded(image.transpose(1, 2, 0)), "path": None} for image in images]
    for split in ("train", "test"):
        (folder / "cifar100").mkdir(exist_ok=True)
        table = pl.DataFrame({"img": rows, "fine_label": [4, 2, 0], "coarse_label": [1, 1, 0]})
        table.write_parquet(folder / "cifar100" / f"{split}-00000-of-00001.parquet")
    assert dataset("cifar100").train.labels.tolist() == [4, 2, 0]
    assert dataset("cifar100:superclasses=true").train.labels.tolist() == [1, 1, 0]


def picture(seed: int, height: int = 8, width: int = 8, grey: bool = False) -> bytes:
    shape = (height, width) if grey else (height, width, 3)
    return readers.encoded(readers.pixels(1, *shape, seed=seed)[0])


def tiny_as_published(folder: Path) -> None:
    """As it is unpacked: wnids.txt is not sorted, one image is grey, test/ has no labels."""
    train = {
        f"train/{word}/images/{word}_{number}.JPEG": picture(10 * label + number, grey=number == 1)
        for label, word in enumerate(WORDS)
        for number in range(3)
    }
    boxes = {f"train/{word}/{word}_boxes.txt": b"a\t0\t0\t9\t9\n" for word in WORDS}
    val = {f"val/images/val_{number}.JPEG": picture(100 + number) for number in range(12)}
    lines = "".join(f"val_{number}.JPEG\t{WORDS[number % 3]}\t0\t0\t62\t62\n" for number in reversed(range(12)))
    other = {
        "wnids.txt": "\n".join(reversed(WORDS)).encode(),
        "val/val_annotations.txt": lines.encode(),
        "test/images/test_0.JPEG": picture(200),
    }
    readers.write(folder, train | boxes | val | other)


def move_as_the_originals_do(folder: Path) -> None:
    for number in range(12):
        part = "val" if number < 6 else "test_"
        target = folder / part / WORDS[number % 3] / "images"
        target.mkdir(parents=True, exist_ok=True)
        (folder / "val/images" / f"val_{number}.JPEG").rename(target / f"val_{number}.JPEG")
    (folder / "val/images").rmdir()
    (folder / "test").rename(folder / "test_original")
    (folder / "test_").rename(folder / "test")


def test_tiny_imagenet(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    tiny_as_published(folder)
    with pytest.raises(RequestError, match="give a folder that they have changed, or as_released=false"):
        dataset("tiny_imagenet:as_released=true")
    data = dataset("tiny_imagenet")
    assert data.class_names == WORDS, "sorted, whatever wnids.txt says"
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.train_names[4] == "train/n01629819/images/n01629819_1.JPEG"
    assert data.test.labels.tolist() == [number % 3 for number in range(12)]
    assert data.notes == ("training: 3 grey images were converted to RGB",)
    assert (data.mean, data.std) == IMAGENET
    grey = readers.pixels(1, 8, 8, seed=11)[0]
    np.testing.assert_array_equal(data.train.inputs[4], np.stack([grey] * 3))
    np.testing.assert_array_equal(data.test.inputs[11].permute(1, 2, 0), readers.pixels(1, 8, 8, 3, seed=111)[0])
    assert dataset("tiny_imagenet:size=20").train.shape == (3, 20, 20)

    move_as_the_originals_do(folder)
    moved = dataset("tiny_imagenet")
    assert moved.test.fingerprint() == data.test.fingerprint(), "both forms are the same set"
    assert moved.train.fingerprint() == data.train.fingerprint()
    released = dataset("tiny_imagenet:as_released=true")
    assert len(released.train) == 8
    assert released.test_names == tuple(f"test/{word}/images/val_{n}.JPEG" for word, n in zip(
        (WORDS[0], WORDS[0], WORDS[1], WORDS[1], WORDS[2]), (6, 9, 10, 7, 11), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize(
    "line", ["val_0.JPEG n01443537", "val_0.JPEG\tn99999999", "../a.JPEG\tn01443537", "/a\tn01443537"]
)
def test_annotations_are_checked(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "tiny_imagenet"
    tiny_as_published(folder)
    (folder / "val/val_annotations.txt").write_text(f"{line}\n")
    with pytest.raises(
        RequestError, match=r"val_annotations.txt, line 1 should hold a file, a tab and a class of train"
    ):
        dataset("tiny_imagenet")


@pytest.mark.parametrize("split", ["valid", "validation"])
@pytest.mark.parametrize(
    "place", ["{}-00000-of-00001.parquet", "data/{}.parquet", "{}/0000.parquet", "default/{}/0.parquet"]
)
def test_hugging_face_copies_of_tiny_imagenet(tmp_path: Path, split: str, place: str) -> None:
    rows = [{"bytes": picture(seed, grey=seed == 0), "path": None} for seed in range(3)]
    for name in ("train", split):
        path = tmp_path / "tiny_imagenet" / place.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"image": rows, "label": [0, 1, 2]}).write_parquet(path)
    data = dataset("tiny_imagenet")
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.notes == tuple(f"{part}: 1 grey images were converted to RGB" for part in ("training", "test"))


def imagenet(folder: Path) -> None:
    train = {
        f"train/{word}/{word}_{number}.JPEG": picture(10 * label + number, 9 + number, 12)
        for label, word in enumerate(WORDS)
        for number in range(4)
    }
    val = {f"val/{word}/ILSVRC2012_val_{label:08}.JPEG": picture(label, 7, 9) for label, word in enumerate(WORDS)}
    readers.write(folder, train | val)


def test_imagenet(tmp_path: Path) -> None:
    imagenet(tmp_path / "imagenet")
    data = dataset("imagenet:resize=8,size=6")
    assert data.class_names == WORDS
    assert data.train.shape == (3, 6, 6)
    first = Image.fromarray(readers.pixels(1, 7, 9, 3, seed=1)[0])
    wanted = np.asarray(first.resize((8, 8), Image.Resampling.BILINEAR).crop((1, 1, 7, 7)))
    np.testing.assert_array_equal(data.test.inputs[1].permute(1, 2, 0), wanted)
    fewer = dataset("imagenet:resize=8,size=6,classes=2")
    assert fewer.class_names == WORDS[:2]
    assert len(fewer.train) == 8
    assert dataset("imagenet").train.shape == (3, 224, 224)
    assert CentreCrop(6)(Resize(8)(first)).size == (6, 6)


def test_hugging_face_copies_of_imagenet(tmp_path: Path) -> None:
    rows = [{"bytes": picture(seed, 9, 12), "path": None} for seed in range(2)]
    for name, labels in (("train", [0, 1]), ("validation", [1, 0]), ("test", [-1, -1])):
        path = tmp_path / f"imagenet-1k/data/{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"image": rows, "label": labels}).write_parquet(path)
    assert dataset("imagenet:resize=8,size=6").test.labels.tolist() == [1, 0]


def test_imagenet_as_it_is_unpacked_lacks_classes(tmp_path: Path) -> None:
    imagenet(tmp_path / "imagenet")
    for path in (tmp_path / "imagenet/val").glob("*/*"):
        path.rename(tmp_path / "imagenet/val" / path.name)
        path.parent.rmdir()
    with pytest.raises(RequestError, match="val holds images without classes, as they are unpacked: put each into"):
        dataset("imagenet")


def test_more_images_than_memory_are_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet(tmp_path / "imagenet")
    monkeypatch.setattr(os, "sysconf", lambda _: 10)
    with pytest.raises(RequestError, match=r"would take .* of memory.*: take fewer by limit, or smaller ones by size"):
        dataset("imagenet:resize=8,size=6")


def test_only_the_images_that_a_limit_leaves_are_decoded(tmp_path: Path) -> None:
    """The same images are chosen as among those that are all decoded."""
    imagenet(tmp_path / "imagenet")
    text = "imagenet:resize=8,size=6"
    whole, wanted = dataset(text), DataConfig(text, limit=6, test_limit=2, validation=0.5)
    chosen = split_data.load(wanted)
    assert len(chosen.train) == len(chosen.validation) == 3
    for images in (chosen.train, chosen.validation):
        same = whole.train.select(torch.isin(whole.train.ids, images.ids))
        assert same.fingerprint() == images.fingerprint()
    spared = [n for n, name in enumerate(whole.train_names) if n not in (*chosen.train.ids, *chosen.validation.ids)]
    for number in spared:
        (tmp_path / "imagenet" / whole.train_names[number]).write_bytes(b"no image")
    again = split_data.load(wanted)
    assert again.train.fingerprint() == chosen.train.fingerprint()
    assert again.dataset.train_names == whole.train_names, "names of all, by id"
    with pytest.raises(RequestError, match="must hold 1 to 12 of them, got 13"):
        split_data.load(DataConfig(text, limit=13))
    (tmp_path / "imagenet" / whole.train_names[int(chosen.train.ids[0])]).write_bytes(b"no image")
    with pytest.raises(RequestError, match="is damaged, or no image"):
        split_data.load(wanted)


def test_a_split_by_ids_and_a_released_split_are_splits_of_all_images(tmp_path: Path) -> None:
    imagenet(tmp_path / "imagenet")
    text = "imagenet:resize=8,size=6"
    held = DataConfig(text, validation_ids=(0, 5, 11))
    few = split_data.load(DataConfig(text, validation_ids=(0, 5, 11), limit=6))
    assert {*few.validation.ids.tolist()} <= {0, 5, 11}
    assert not {*few.train.ids.tolist()} & {0, 5, 11}
    assert split_data.load(held).validation.ids.tolist() == [0, 5, 11]
    with pytest.raises(RequestError, match="no training image has the validation ids 12"):
        split_data.load(DataConfig(text, validation_ids=(12,)))
    whole = split_data.load(DataConfig(text, split="released", validation=0.25))
    part = split_data.load(DataConfig(text, split="released", validation=0.25, limit=9))
    assert {*part.validation.ids.tolist()} <= {*whole.validation.ids.tolist()}
