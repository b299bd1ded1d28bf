"""Every kind of image that people have: turned, transparent, palettes, CMYK, 16 bits, damaged, empty, hostile."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from expunge.core.errors import RequestError
from expunge.data import split_data
from expunge.data.split_data import DataConfig
from expunge.store.directory import RunDirectory
from tests import readers
from tests.command_line import Terminal
from tests.problems import dataset

COLOUR = readers.pixels(1, 6, 4, 3)[0]


def folder(path: Path, **images: bytes) -> str:
    """Two classes of good images in colour, and these beside the training images of class a."""
    good = {
        f"{part}/{label}/{n}.png": readers.encoded(COLOUR) for part in ("train", "test") for label in "ab" for n in "01"
    }
    readers.write(path, good | {f"train/a/{name}.img.png": content for name, content in images.items()})
    return f"folder:{path}"


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(tmp_path: Path, orientation: int) -> None:
    """The eight orientations of EXIF 2.3, section 4.6.4: where the first row and the first column of pixels lie."""
    shown = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a[::-1].transpose(1, 0, 2),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a[:, ::-1].transpose(1, 0, 2),
    }[orientation](COLOUR)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(COLOUR), "PNG", exif=exif)
    readers.write(tmp_path, {f"{part}/a/0.png": content for part in ("train", "test")})
    np.testing.assert_array_equal(dataset(f"folder:{tmp_path}").train.inputs[0].permute(1, 2, 0), shown)


def test_transparency_is_dropped_and_palettes_and_cmyk_become_rgb(tmp_path: Path) -> None:
    alpha = np.dstack([COLOUR, np.zeros((6, 4), np.uint8)])
    indices = (np.arange(24, dtype=np.uint8) % 2).reshape(6, 4)
    palette = Image.fromarray(indices, "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    ink = np.zeros((6, 4, 4), np.uint8)
    ink[..., 0] = 255
    cmyk = Image.fromarray(ink, "CMYK")
    images = {
        "a": saved(Image.fromarray(alpha, "RGBA"), "PNG"),
        "b": saved(palette, "PNG", transparency=0),
        "c": saved(cmyk, "TIFF"),
    }
    found = dataset(folder(tmp_path, **images)).train.inputs[2:5].permute(0, 2, 3, 1)
    np.testing.assert_array_equal(found[0], COLOUR)
    np.testing.assert_array_equal(found[1], np.array([[10, 20, 30], [200, 100, 50]])[indices])
    np.testing.assert_array_equal(found[2], np.broadcast_to([0, 255, 255], (6, 4, 3)))


def test_grey_images_among_coloured_ones_are_converted_and_counted(tmp_path: Path) -> None:
    grey = readers.pixels(1, 6, 4, seed=5)[0]
    data = dataset(folder(tmp_path, a=readers.encoded(grey), b=readers.encoded(grey)))
    assert data.notes == ("training: 2 grey images were converted to RGB",)
    np.testing.assert_array_equal(data.train.inputs[2].permute(1, 2, 0), np.dstack([grey] * 3))
    (tmp_path / "train/a/!.png").write_bytes(readers.encoded(grey))
    again = dataset(f"folder:{tmp_path}")
    assert again.notes == ("training: 3 grey images were converted to RGB",), "whichever comes first"
    assert again.train.shape == (3, 6, 4)


def bomb() -> bytes:
    """A PNG of 100 bytes that says that it has 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


UNREADABLE = {
    "0 bytes": (b"", "is damaged, or no image of a known format"),
    "a cut JPEG": (saved(Image.fromarray(readers.pixels(1, 60, 60, 3)[0]), "JPEG")[:900], "is damaged"),
    "no image": (b"<html>404</html>", "is damaged, or no image of a known format"),
    "16 bits": (saved(Image.fromarray(np.full((6, 4), 40_000, np.uint16)), "PNG"), "convert it to 8-bit grey or RGB"),
    "a bomb": (bomb(), "has too many pixels to be decoded safely"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_images_are_refused_or_left_out_and_counted(tmp_path: Path, name: str) -> None:
    content, message = UNREADABLE[name]
    text = folder(tmp_path, bad=content)
    with pytest.raises(RequestError, match=f"bad.img.png.*{message}"):
        dataset(text)
    data = dataset(f"{text},unreadable=skip")
    assert data.train.ids.tolist() == [0, 1, 3, 4], "the ids of the others do not change"
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.all_labels.tolist() == [0, 0, 0, 1, 1]
    assert data.train_names[3] == "train/b/0.png"
    left_out = f"training: 1 of 5 images cannot be read and are left out: {tmp_path}/train/a/bad.img.png"
    assert data.notes == (left_out,)
    whole = split_data.load(DataConfig(f"{text},unreadable=skip", limit=5, validation=0.0))
    assert len(whole.train) == 4
    with pytest.raises(RequestError, match="must hold 1 to 5 of them, got 6"):
        split_data.load(DataConfig(f"{text},unreadable=skip", limit=6))


def test_what_was_left_out_is_said_and_kept_in_the_record(tmp_path: Path, terminal: Terminal) -> None:
    text = folder(tmp_path / "own", bad=b"")
    words = ("train", "--data", f"{text},unreadable=skip", "--model", "logistic", "--epochs", "1", "--runs", tmp_path)
    words = (*words, "--validation", "0")
    terminal(*words)
    assert "training: 1 of 5 images cannot be read and are left out:" in " ".join(terminal.error.split())
    record = terminal.json(*words)
    assert record["notes"]["images"][0].endswith("bad.img.png")
    # The same images are found again by their names.
    words = ("unlearn", "--run", record["run"], "--forget", "ids:train/a/0.png", "finetune", "--epochs", "1")
    assert RunDirectory(terminal.folder(*words)).tensor("predictions", "forgotten.ids").tolist() == [0]


def test_nothing_but_unreadable_images(tmp_path: Path) -> None:
    readers.write(tmp_path, {f"{part}/a/0.png": b"" for part in ("train", "test")})
    with pytest.raises(RequestError, match=r"none of 1 images can be read; .*0.png is damaged"):
        dataset(f"folder:{tmp_path},unreadable=skip")


def test_a_class_may_be_missing_in_the_test_set_and_not_in_the_training_set(tmp_path: Path) -> None:
    text = folder(tmp_path)
    for number in "01":
        (tmp_path / f"test/b/{number}.png").unlink()
    assert dataset(text).test.labels.tolist() == [0, 0]
    (tmp_path / "test/b").rmdir()
    assert dataset(text).class_names == ("a", "b")
    (tmp_path / "train/b").rename(tmp_path / "test/b")
    with pytest.raises(RequestError, match=r"test has classes that .*train lacks: b"):
        dataset(text)


def test_the_test_folder_may_have_other_names(tmp_path: Path) -> None:
    text = folder(tmp_path)
    for name in ("val", "valid", "validation"):
        next(tmp_path.glob("[!t]*") if name != "val" else tmp_path.glob("test")).rename(tmp_path / name)
        assert len(dataset(text).test) == 4


def parquet(path: Path, labels: list[object], **columns: str) -> None:
    rows = [{"bytes": readers.encoded(COLOUR), "path": None}] * len(labels)
    table = pl.DataFrame({columns.get("image", "image"): rows, columns.get("label", "label"): labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path)


def test_labels_of_text_in_parquet_files_are_sorted(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", ["dog", "cat"])
    parquet(tmp_path / "train-1.parquet", ["emu"])
    parquet(tmp_path / "test.parquet", ["emu", "cat"])
    data = dataset(f"parquet:{tmp_path}")
    assert data.class_names == ("cat", "dog", "emu")
    assert data.train.labels.tolist() == [1, 0, 2]
    assert data.test.labels.tolist() == [2, 0]
    parquet(tmp_path / "test.parquet", ["fox"])
    with pytest.raises(RequestError, match="the test set has labels that the training set lacks: fox"):
        dataset(f"parquet:{tmp_path}")


def test_columns_of_parquet_files_by_name(tmp_path: Path) -> None:
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}.parquet", [1, 0], image="photo", label="person")
    assert dataset(f"parquet:{tmp_path},image=photo,label=person").train.labels.tolist() == [1, 0]
    with pytest.raises(RequestError, match="has no column img or image, only photo, person"):
        dataset(f"parquet:{tmp_path}")


def test_splits_of_parquet_files_are_not_mixed_up(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train-00000-of-00001.parquet", [0, 1])
    parquet(tmp_path / "data/validation-00000-of-00001.parquet", [1])
    parquet(tmp_path / "data/test-00000-of-00001.parquet", [0, 1, 1])
    parquet(tmp_path / "data/train_extra.parquet", [0] * 9)
    data = dataset(f"parquet:{tmp_path}")
    assert (len(data.train), len(data.test)) == (2, 3)
    (tmp_path / "data/test-00000-of-00001.parquet").unlink()
    assert len(dataset(f"parquet:{tmp_path}").test) == 1
    parquet(tmp_path / "other/train-00000-of-00001.parquet", [0, 1])
    with pytest.raises(RequestError, match=r"holds train\*.parquet in .*data and .*other: name one of these folders"):
        dataset(f"parquet:{tmp_path}")
