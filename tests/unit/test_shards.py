"""WebDataset shards: read in order, never unpacked, and refused if they try to reach out of themselves."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from expunge.core.errors import RequestError
from expunge.data import split_data
from expunge.data.split_data import DataConfig
from tests import readers
from tests.problems import dataset

PIXELS = readers.pixels(6, 5, 4, 3)


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write(folder: Path, labels: list[object], test: str = "test") -> str:
    def members(numbers: range) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for number in numbers:
            found[f"a/{number:03}.png"] = readers.encoded(PIXELS[number])
            found[f"a/{number:03}.txt"] = b"a caption"
            if isinstance(labels[number], dict):
                found[f"a/{number:03}.json"] = json.dumps(labels[number]).encode()
            else:
                found[f"a/{number:03}.cls"] = str(labels[number]).encode()
        return found

    shard(folder / "train-000001.tar", members(range(2, 4)))
    shard(folder / "train-000000.tar", members(range(2)))
    shard(folder / f"{test}-000000.tar", members(range(4, 6)))
    return f"webdataset:{folder}"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 0, 1, 0, 1, 0], ("0", "1")),
        (["dog", "cat", "dog", "cat", "dog", "cat"], ("cat", "dog")),
        ([{"label": n} for n in (1, 0, 1, 0, 1, 0)], ("0", "1")),
    ],
)
@pytest.mark.parametrize("test", ["test", "val"])
def test_shards(tmp_path: Path, labels: list[object], classes: tuple[str, ...], test: str) -> None:
    data = dataset(write(tmp_path, labels, test))
    np.testing.assert_array_equal(data.train.inputs.permute(0, 2, 3, 1), PIXELS[:4])
    np.testing.assert_array_equal(data.test.inputs.permute(0, 2, 3, 1), PIXELS[4:])
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert data.class_names == classes
    assert data.train_names == ("a/000", "a/001", "a/002", "a/003")


def test_only_what_a_limit_leaves_is_read(tmp_path: Path) -> None:
    text = write(tmp_path, [1, 0, 1, 0, 1, 0])
    data = split_data.load(DataConfig(text, limit=2, validation=0.0))
    np.testing.assert_array_equal(data.train.inputs.permute(0, 2, 3, 1), PIXELS[data.train.ids])


def odd(name: str = "a.png", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member.tobuf()


IMAGE = readers.encoded(PIXELS[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (odd("../a.png"), "is refused: the name '../a.png' leads out of it"),
        (odd("a/../../a.png"), "leads out of it"),
        (odd("/etc/a.png"), "leads out of it"),
        (odd("a\\..\\b.png"), "leads out of it"),
        (odd(kind=tarfile.SYMTYPE, link="/etc/passwd"), "is a link, a device or a sparse file"),
        (odd(kind=tarfile.LNKTYPE, link="b.png"), "is a link, a device or a sparse file"),
        (odd(kind=tarfile.FIFOTYPE), "is a link, a device or a sparse file"),
        (odd(kind=tarfile.CHRTYPE), "is a link, a device or a sparse file"),
        (b"", "cannot be read"),
        (b"nonsense" * 100, "cannot be read"),
    ],
)
def test_hostile_shards_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    text = write(tmp_path, [1, 0, 1, 0, 1, 0])
    (tmp_path / "train-000001.tar").write_bytes(content + (bytes(1024) if content else b""))
    with pytest.raises(RequestError, match=f"train-000001.tar.*{message}"):
        dataset(text)
    assert not (tmp_path.parent / "a.png").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"b.png": IMAGE}, r"the example b lacks a label \(.cls, or .json\)"),
        ({"b.cls": b"1"}, "the example b lacks an image"),
        ({"b.png": IMAGE, "b.jpg": IMAGE, "b.cls": b"1"}, "the example b has two files for its image"),
        ({"b.png": IMAGE, "b.cls": b""}, "b.cls should hold a label, a number or text"),
        ({"b.png": IMAGE, "b.json": b"{}"}, "b.json should hold a label, a number or text under label"),
        ({"b.png": IMAGE, "b.json": b"[" * 9000}, "cannot be read as JSON"),
        ({"b.png": IMAGE, "b.cls": b"1" * 2**21}, "more than a label may have"),
        ({"b.png": b"", "b.cls": b"1"}, "b.png is damaged, or no image"),
        ({"a/000.png": IMAGE, "a/000.cls": b"1"}, "two training images have the name 'a/000'"),
    ],
)
def test_incomplete_shards_are_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    text = write(tmp_path, [1, 0, 1, 0, 1, 0])
    shard(tmp_path / "train-000001.tar", members)
    with pytest.raises(RequestError, match=message):
        dataset(text)


def test_a_shard_that_ends_within_an_image_is_refused(tmp_path: Path) -> None:
    text = write(tmp_path, [1, 0, 1, 0, 1, 0])
    path = tmp_path / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(RequestError, match=r"train-000000.tar cannot be read"):
        dataset(text)
    path.unlink()
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(RequestError, match=r"holds no train\*.tar: shards should be named train-000000.tar"):
        dataset(text)
