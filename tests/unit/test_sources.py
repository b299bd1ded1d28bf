"""Every layout of images on disk, whole and damaged; no pickle is ever executed."""

import gzip
import io
import os
import pickle
import struct
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from expunge.core.errors import RequestError
from expunge.data import _assemble, _pickled_arrays, _pictures
from expunge.data.augment import Augmentation
from expunge.data.dataset import channel_statistics
from tests.problems import dataset

GENERATOR = np.random.default_rng(0)


def pixels(count: int, *shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, (count, *shape), dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, compress: bool) -> dict[str, np.ndarray]:
    folder.mkdir(exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": pixels(6, 4, 5),
        "train-labels-idx1-ubyte": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "t10k-images-idx3-ubyte": pixels(3, 4, 5),
        "t10k-labels-idx1-ubyte": np.array([2, 1, 0], np.uint8),
    }
    for name, array in arrays.items():
        content = idx_bytes(array)
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(content) if compress else content)
    return arrays


@pytest.mark.parametrize("compress", [False, True])
def test_idx(tmp_path: Path, compress: bool) -> None:
    arrays = write_idx(tmp_path, compress)
    data = dataset(f"idx:{tmp_path}")
    np.testing.assert_array_equal(data.train.inputs[:, 0], arrays["train-images-idx3-ubyte"])
    assert data.test.labels.tolist() == [2, 1, 0]
    assert data.num_classes == 3
    scaled = arrays["train-images-idx3-ubyte"] / 255
    assert data.mean == pytest.approx((scaled.mean(),))
    assert data.std == pytest.approx((scaled.std(),))


def test_named_sets_are_found_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "mnist", compress=True)
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    assert dataset("mnist").mean == (0.1307,)
    assert len(dataset(f"mnist:{tmp_path}").train) == 6
    with pytest.raises(RequestError, match=r"there is no folder .*fashion_mnist; EXPUNGE_DATA"):
        dataset("fashion_mnist")
    monkeypatch.delenv("EXPUNGE_DATA")
    with pytest.raises(RequestError, match="set EXPUNGE_DATA"):
        dataset("mnist")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "magic":
        path.write_bytes(b"\x01\x02\x03\x04" + content[4:])
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("compress", "how", "message"),
    [
        (False, "cut", "where its header says"),
        (True, "cut", "cut short"),
        (False, "magic", "is no IDX file"),
        (False, "missing", "holds no train-images"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, compress: bool, how: str, message: str) -> None:
    write_idx(tmp_path, compress)
    damage(next(tmp_path.glob("train-images*")), how)
    with pytest.raises(RequestError, match=message) as caught:
        dataset(f"idx:{tmp_path}")
    assert str(tmp_path) in str(caught.value)


def encoded(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, images: list[bytes], labels: list[int], column: str = "img") -> None:
    rows = [{"bytes": content, "path": None} for content in images]
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pl.DataFrame(
        {column: rows, "label": labels},
        schema={column: pl.Struct({"bytes": pl.Binary, "path": pl.String}), "label": pl.Int64},
    )
    import json

    table.write_parquet(path, metadata={"huggingface": json.dumps(names)})


@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet(tmp_path: Path, column: str) -> None:
    train, test = pixels(4, 6, 6, 3), pixels(2, 6, 6, 3)
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [encoded(i) for i in train[:3]], [0, 1, 0], column)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [encoded(train[3])], [1], column)
    write_parquet(tmp_path / "test.parquet", [encoded(i) for i in test], [1, 0], column)
    data = dataset(f"parquet:{tmp_path},augment=true")
    np.testing.assert_array_equal(data.train.inputs.permute(0, 2, 3, 1), train)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.train.augmentation == Augmentation()
    assert data.test.augmentation is None


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    good = [encoded(image) for image in pixels(2, 6, 6, 3)]
    write_parquet(tmp_path / "train.parquet", good, [0, 1])
    with pytest.raises(RequestError, match=r"holds no test\*.parquet"):
        dataset(f"parquet:{tmp_path}")
    write_parquet(tmp_path / "test.parquet", good, [0, 7])
    with pytest.raises(RequestError, match=r"test labels must be in 0..1 for 2 classes, found 0..7"):
        dataset(f"parquet:{tmp_path}")
    write_parquet(tmp_path / "test.parquet", [good[0], b"no image"], [0, 1])
    with pytest.raises(RequestError, match=r"test.parquet, image 1 is damaged"):
        dataset(f"parquet:{tmp_path}")
    write_parquet(tmp_path / "test.parquet", [good[0], encoded(pixels(1, 5, 6, 3)[0])], [0, 1])
    with pytest.raises(RequestError, match="one size"):
        dataset(f"parquet:{tmp_path}")
    damage(tmp_path / "test.parquet", "cut")
    with pytest.raises(RequestError, match="cut short"):
        dataset(f"parquet:{tmp_path}")


def test_a_damaged_image_is_named_by_its_own_file(tmp_path: Path) -> None:
    good = [encoded(image) for image in pixels(2, 6, 6, 3)]
    write_parquet(tmp_path / "test.parquet", good, [0, 1])
    write_parquet(tmp_path / "train-0.parquet", good, [0, 1])
    write_parquet(tmp_path / "train-1.parquet", [b"no image"], [0])
    with pytest.raises(RequestError, match=r"train-1.parquet, image 0 is damaged, or no image of a known format$"):
        dataset(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    "metadata",
    ["{bad", "null", "[]", '{"info": null}', '{"info": {"features": {"label": {"names": null}}}}'],
)
def test_metadata_of_another_schema_only_lose_the_class_names(tmp_path: Path, metadata: str) -> None:
    content = [{"bytes": encoded(image)} for image in pixels(2, 6, 6, 3)]
    for split in ("train", "test"):
        table = pl.DataFrame({"img": content, "fine_label": [0, 1]})
        table.write_parquet(tmp_path / f"{split}.parquet", metadata={"huggingface": metadata})
    assert dataset(f"parquet:{tmp_path}").class_names == ("0", "1")


@pytest.mark.parametrize("column", [["a", "b"], [[1], [2]], [{"path": "a"}, {"path": "b"}]])
def test_a_column_without_encoded_images_is_refused(tmp_path: Path, column: list[object]) -> None:
    for split in ("train", "test"):
        pl.DataFrame({"image": column, "label": [0, 1]}).write_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(RequestError, match=r"train.parquet: the column image should hold encoded images"):
        dataset(f"parquet:{tmp_path}")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_every_8_bit_kind_of_image_becomes_grey_or_rgb(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.fromarray(pixels(1, 6, 6, 3)[0]).convert(mode)
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        image.save(tmp_path / split / "a" / "0.png")
    wanted = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(6, 6, channels)
    np.testing.assert_array_equal(dataset(f"folder:{tmp_path}").train.inputs[0].permute(1, 2, 0), wanted)


def test_images_of_16_bits_are_refused_rather_than_cut_off(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(tmp_path / split / "a" / "0.png")
    with pytest.raises(RequestError, match=r"0.png has pixels of mode I;16: convert it to 8-bit"):
        dataset(f"folder:{tmp_path}")


def test_hidden_files_and_folders_are_no_classes_and_no_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b", ".checkpoints"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels(1, 6, 6, 3)[0]).save(tmp_path / split / name / "0.png")
            (tmp_path / split / name / "._0.png").write_bytes(b"no image")
    data = dataset(f"folder:{tmp_path}")
    assert data.class_names == ("a", "b")
    assert data.train.labels.tolist() == [0, 1]


def test_a_named_set_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "cifar10", compress=False)
    with pytest.raises(RequestError, match="should have 3 channels, found 1"):
        dataset(f"cifar10:{tmp_path}")


def write_batches(folder: Path, protocol: int, text_keys: bool) -> tuple[np.ndarray, list[int]]:
    def key(name: str) -> object:
        return name if text_keys else name.encode()

    images, labels = pixels(10, 3072), [int(label) for label in GENERATOR.integers(0, 10, 10)]
    for index in range(5):
        part = slice(2 * index, 2 * index + 2)
        batch = {key("data"): images[part], key("labels"): labels[part], key("filenames"): [b"a.png", b"b.png"]}
        (folder / f"data_batch_{index + 1}").write_bytes(pickle.dumps(batch, protocol))
    (folder / "test_batch").write_bytes(pickle.dumps({key("data"): images[:2], key("labels"): labels[:2]}, protocol))
    meta = {key("label_names"): [f"class{index}".encode() for index in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return images, labels


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("text_keys", [True, False])
def test_cifar_batches(tmp_path: Path, protocol: int, text_keys: bool) -> None:
    images, labels = write_batches(tmp_path, protocol, text_keys)
    data = dataset(f"cifar_batches:{tmp_path}")
    np.testing.assert_array_equal(data.train.inputs, images.reshape(-1, 3, 32, 32))
    assert data.train.labels.tolist() == labels
    assert data.class_names[3] == "class3"


def short(text: bytes) -> bytes:
    """Text as Python 2 pickled it."""
    return b"U" + bytes([len(text)]) + text


def python2_array(content: bytes, shape: bytes, kind: bytes, order: bytes) -> bytes:
    """An array as Python 2 pickled it, in protocol 2: what the published files of CIFAR hold."""
    dtype = b"cnumpy\ndtype\n" + short(kind) + b"K\x00K\x01\x87R(K\x03" + short(order)
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85" + short(b"b") + b"\x87R"
    return made + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", len(content)) + content + b"tb"


def test_cifar_batches_as_python_2_wrote_them(tmp_path: Path) -> None:
    write_batches(tmp_path, 2, text_keys=True)
    images = pixels(2, 3072)
    data = python2_array(images.tobytes(), b"K\x02M\x00\x0c\x86", b"u1", b"|")
    labels = b"]q\x04(K\x06K\x09e"
    content = b"\x80\x02}q\x01(" + short(b"batch_label") + short(b"training batch 1 of 5")
    content += short(b"labels") + labels + short(b"data") + data + b"u."
    np.testing.assert_array_equal(pickle.loads(content, encoding="bytes")[b"data"], images)
    (tmp_path / "data_batch_1").write_bytes(content)
    found = dataset(f"cifar_batches:{tmp_path}").train
    np.testing.assert_array_equal(found.inputs[:2], images.reshape(2, 3, 32, 32))
    assert found.labels[:2].tolist() == [6, 9]


@pytest.mark.parametrize(("order", "kind"), [(b"<", "<i2"), (b">", ">i2")])
def test_the_byte_order_of_python_2_is_kept(tmp_path: Path, order: bytes, kind: str) -> None:
    values = np.array([1, 2, -3], kind)
    path = tmp_path / "batch"
    path.write_bytes(
        b"\x80\x02}(" + short(b"data") + python2_array(values.tobytes(), b"K\x03\x85", b"i2", order) + b"u."
    )
    assert _pickled_arrays.read(path)["data"].tolist() == [1, 2, -3]


def test_circles_and_knots_in_a_pickle_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    circle: list[object] = []
    circle.append(circle)
    path.write_bytes(pickle.dumps({"data": circle}, 2))
    assert list(_pickled_arrays.read(path)) == ["data"]
    knot: list[object] = []
    for _ in range(100):
        knot = [knot, knot]
    path.write_bytes(pickle.dumps({"data": knot}, 2))
    assert list(_pickled_arrays.read(path)) == ["data"]


def test_a_pickle_without_its_mark_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02]e.")
    with pytest.raises(RequestError, match="batch cannot be read"):
        _pickled_arrays.read(path)


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_3", "test_batch"])
def test_a_missing_batch_is_named(tmp_path: Path, name: str) -> None:
    write_batches(tmp_path, 2, text_keys=True)
    (tmp_path / name).unlink()
    with pytest.raises(RequestError, match=f"holds no {name}: CIFAR-10 is data_batch_1 to data_batch_5"):
        dataset(f"cifar_batches:{tmp_path}")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x", "y"], "whole numbers"),
        ([0.5, 1.0], "whole numbers"),
        (5, "one label for each"),
        ([1], "one label for each"),
    ],
)
def test_batches_with_bad_labels_are_named(tmp_path: Path, labels: object, message: str) -> None:
    write_batches(tmp_path, 2, text_keys=True)
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps({"data": pixels(2, 3072), "labels": labels}, 2))
    with pytest.raises(RequestError, match=f"data_batch_2 should hold {message}"):
        dataset(f"cifar_batches:{tmp_path}")


def test_class_names_that_are_none_are_refused(tmp_path: Path) -> None:
    write_batches(tmp_path, 2, text_keys=True)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": 5}, 2))
    with pytest.raises(RequestError, match=r"batches.meta should hold the class names"):
        dataset(f"cifar_batches:{tmp_path}")


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    images = pixels(3, 3072)
    for name in ("train", "test"):
        batch = {b"data": images, b"fine_labels": [4, 2, 0], b"coarse_labels": [1, 1, 0]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, 2))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"a", b"b", b"c", b"d", b"e"]}, 2))
    assert dataset(f"cifar_batches:{tmp_path}").train.labels.tolist() == [4, 2, 0]


class Payload:
    """What a hostile pickle holds: reading it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_hostile_pickle_executes_nothing(tmp_path: Path, protocol: int) -> None:
    write_batches(tmp_path, 2, text_keys=True)
    victim = tmp_path / "created"
    hostile = {"data": Payload(victim), "labels": [1]}
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(hostile, protocol))
    with pytest.raises(RequestError, match="refused"):
        dataset(f"cifar_batches:{tmp_path}")
    assert not victim.exists()
    pickle.loads(pickle.dumps(hostile, protocol))
    assert victim.exists(), "the payload would have worked"


ENCODE, DTYPE, ARRAY = b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    "stream",
    [
        b"Nr" + struct.pack("<I", 2**31 - 1),  # a memo of gigabytes
        b"\x95" + struct.pack("<Q", 2**40),
        b"\x8e" + struct.pack("<Q", 2**40),
        b"\x96" + struct.pack("<Q", 2**40),
        ENCODE + b"q\x00X\x64\x00\x00\x00" + b"a" * 100 + b"q\x01" + b"h\x00h\x01h\x01\x86R" * 20,
        *(name + b"}X\x04\x00\x00\x00textK\x01sb" for name in (ENCODE, DTYPE, ARRAY)),  # state of a class
        *(name + b"N}X\x08\x00\x00\x00__init__K\x01s\x86b" for name in (ENCODE, DTYPE, ARRAY)),
        DTYPE + b"X\x02\x00\x00\x00u1\x85\x81",  # NEWOBJ
        b"(" + DTYPE + b"o",  # OBJ
        b"(inumpy\ndtype\n",  # INST
        b"\x82\x01",  # EXT1
        b"K\x01Q",  # BINPERSID
        b"\x97",  # NEXT_BUFFER
        b"]K\x01\x85R",  # a list is called
        ENCODE + b"]\x85R",
        DTYPE + b"]\x85R",
        b"cnumpy\nload\n",
        b"cnumpy\ndtype.__class__\n",
    ],
)
def test_hostile_streams_are_refused_and_leave_nothing_behind(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "batch"
    kinds = [kind for kind in vars(_pickled_arrays).values() if isinstance(kind, type)]
    before = [dict(vars(kind)) for kind in kinds]
    path.write_bytes(b"\x80\x04(" + stream + b"l.")
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=r"batch (is refused|cannot be read)"):
            _pickled_arrays.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert [dict(vars(kind)) for kind in kinds] == before


def test_arrays_of_objects_and_cut_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": np.array([{}, None], dtype=object)}, 2))
    with pytest.raises(RequestError, match="batch"):
        _pickled_arrays.read(path)
    path.write_bytes(pickle.dumps({"data": pixels(3, 3072)}, 2)[:100])
    with pytest.raises(RequestError, match="batch"):
        _pickled_arrays.read(path)
    path.write_bytes(b"")
    with pytest.raises(RequestError, match="batch"):
        _pickled_arrays.read(path)


@pytest.mark.parametrize(
    "names",
    [("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test")],
)
@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3), (3, 6, 6), (6, 6, 1)])
def test_npz(tmp_path: Path, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    path = tmp_path / "own.npz"
    arrays = (pixels(5, *shape), np.array([0, 1, 2, 1, 0]), pixels(2, *shape), np.array([2, 0], np.uint8))
    np.savez(path, **dict(zip(names, arrays, strict=True)))
    data = dataset(f"npz:{path}")
    assert data.train.shape == ((3, 6, 6) if 3 in shape else (1, 6, 6))
    assert data.test.labels.tolist() == [2, 0]
    assert data.train.inputs.is_contiguous()
    first = data.train.inputs[0].permute(1, 2, 0).numpy() if shape == (6, 6, 3) else data.train.inputs[0].numpy()
    np.testing.assert_array_equal(first.reshape(arrays[0][0].shape), arrays[0][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.array([0, 1])}, "one label each"),
        ({"train_labels": np.array([0, 1, 2, 1, -1])}, "labels must be in"),
        ({"train_labels": np.array([0.5] * 5)}, "whole numbers"),
        ({"train_images": np.zeros((5, 6, 6, 7), np.uint8)}, "1 or 3 channels"),
        ({"train_images": np.zeros((5, 6, 6), np.int32)}, "uint8 or float"),
        ({"train_images": np.full((5, 6, 6), np.nan)}, "NaN or infinite"),
        ({"train_images": np.zeros((5, 9, 9), np.uint8)}, "test images"),
        ({"train_images": np.zeros((0, 6, 6), np.uint8), "train_labels": np.zeros(0, int)}, "no images"),
        ({"train_images": np.array([None] * 5, dtype=object)}, "cannot be read"),
    ],
)
def test_bad_npz_files_are_named(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "own.npz"
    arrays = {
        "train_images": pixels(5, 6, 6),
        "train_labels": np.array([0, 1, 2, 1, 0]),
        "test_images": pixels(2, 6, 6),
        "test_labels": np.array([2, 0]),
    }
    np.savez(path, **(arrays | change))
    with pytest.raises(RequestError, match=message) as caught:
        dataset(f"npz:{path}")
    assert "own.npz" in str(caught.value)


def test_npz_without_its_arrays(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, images=pixels(1, 2, 2))
    with pytest.raises(RequestError, match="no array train_images or x_train, only images"):
        dataset(f"npz:{path}")
    path.write_bytes(b"nonsense")
    with pytest.raises(RequestError, match="cannot be read"):
        dataset(f"npz:{path}")
    with pytest.raises(RequestError, match="cannot be read"):
        dataset(f"npz:{tmp_path / 'missing.npz'}")
    with path.open("wb") as file:
        np.save(file, pixels(1, 2, 2))
    with pytest.raises(RequestError, match="one bare array"):
        dataset(f"npz:{path}")


def test_npz_with_damaged_contents_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(path, train_images=pixels(4, 40, 40))
    content = bytearray(path.read_bytes())
    content[120:160] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"own.npz, array train_images, cannot be read"):
        dataset(f"npz:{path}")


def test_image_folders(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(pixels(1, 6, 6, 3)[0]).save(tmp_path / split / name / f"{index}.png")
    data = dataset(f"folder:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.shape == (3, 6, 6)
    assert dataset(f"folder:{tmp_path},size=4").train.shape == (3, 4, 4)
    Image.fromarray(pixels(1, 5, 6, 3)[0]).save(tmp_path / "train" / "cat" / "odd.png")
    with pytest.raises(RequestError, match="one size"):
        dataset(f"folder:{tmp_path}")
    (tmp_path / "train" / "cat" / "odd.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match=r"odd.png is damaged"):
        dataset(f"folder:{tmp_path}")
    (tmp_path / "test" / "bird").mkdir()
    with pytest.raises(RequestError, match="lacks: bird"):
        dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_many_pictures_are_decoded_into_the_memory_of_the_data_set(shape: tuple[int, ...]) -> None:
    drawn = pixels(2 * _pictures.TOGETHER + 3, *shape)
    named = [(str(index), partial(io.BytesIO, encoded(image))) for index, image in enumerate(drawn)]
    images = _pictures.read(named, "here").images
    np.testing.assert_array_equal(images, drawn)
    labels = np.zeros(len(drawn), np.int64)
    data = _assemble.dataset((images, labels), (images, labels), "here")
    assert np.shares_memory(data.train.inputs.numpy(), images)
    with pytest.raises(RequestError, match="here: there are no images"):
        _pictures.read([], "here")


@pytest.mark.parametrize("name", ["idx", "parquet", "cifar_batches", "folder"])
def test_a_missing_folder(name: str) -> None:
    with pytest.raises(RequestError, match="there is no folder /nowhere/at/all"):
        dataset(f"{name}:/nowhere/at/all")


def test_digits_are_embedded_and_fixed() -> None:
    first, second = dataset("digits"), dataset("digits")
    assert first.train.fingerprint() == second.train.fingerprint()
    assert len(first.train) + len(first.test) == 1797
    assert not set(first.train.ids.tolist()) & set(first.test.ids.tolist())
    assert first.train.inputs.max() == 255


def test_channel_statistics() -> None:
    images = torch.tensor([[[[0]], [[10]]], [[[255]], [[10]]]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((0.5, 10 / 255))
    assert std == (0.5, 1.0)
    mean, std = channel_statistics(torch.tensor([[0.0, 3.0], [1.0, 3.0]]))
    assert (mean, std) == ((0.5, 3.0), (0.5, 1.0)), "vectors, by feature"


@pytest.mark.skipif("EXPUNGE_DATA" not in os.environ, reason="needs the real data sets")
@pytest.mark.parametrize(
    ("name", "train", "shape"), [("fashion_mnist", 60_000, (1, 28, 28)), ("mnist", 5_000, (1, 28, 28))]
)
def test_real_grey_sets(name: str, train: int, shape: tuple[int, ...]) -> None:
    data = dataset(name)
    assert (len(data.train), len(data.test), data.train.shape) == (train, 10_000, shape)
    assert torch.bincount(data.train.labels).tolist() == [train // 10] * 10
    assert channel_statistics(data.train.inputs)[0] == pytest.approx(data.mean, abs=2e-3)


@pytest.mark.slow
@pytest.mark.skipif("EXPUNGE_DATA" not in os.environ, reason="needs the real data sets")
def test_real_cifar10() -> None:
    data = dataset("cifar10")
    assert (len(data.train), len(data.test), data.train.shape) == (50_000, 10_000, (3, 32, 32))
    assert data.class_names[:2] == ("airplane", "automobile")
    assert channel_statistics(data.train.inputs)[0] == pytest.approx(data.mean, abs=5e-3)
