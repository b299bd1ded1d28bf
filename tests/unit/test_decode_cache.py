"""Decoded images are kept on disk: made once, mapped, checked, limited in size, and never needed."""

import os
from pathlib import Path

import numpy as np
import pytest

from expunge.data import _decode_cache, _pictures
from expunge.data._decode_cache import Entry
from tests import readers
from tests.problems import dataset


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_pictures, "CACHED", 0)
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are decoded to be kept."""
    seen: list[str] = []
    plain = _pictures._filled

    def counted(pictures: list[_pictures.Picture], *rest: object) -> Entry:
        seen.extend(name for name, _ in pictures)
        return plain(pictures, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_pictures, "_filled", counted)
    return seen


def folder(path: Path, colour: bool = True) -> str:
    images = readers.pixels(6, 5, 4, 3) if colour else readers.pixels(6, 5, 4)
    names = [f"{part}/{label}/{number}.png" for part in ("train", "test") for label in "ab" for number in "01"][:6]
    readers.write(path, {name: readers.encoded(image) for name, image in zip(names, images, strict=True)})
    return f"folder:{path}"


@pytest.mark.parametrize("colour", [True, False])
def test_images_are_decoded_once(tmp_path: Path, cache: Path, decoded: list[str], colour: bool) -> None:
    text = folder(tmp_path / "own", colour)
    first = dataset(text)
    assert len(decoded) == 6
    second = dataset(text)
    assert len(decoded) == 6
    assert first.train.fingerprint() == second.train.fingerprint()
    assert first.test.fingerprint() == second.test.fingerprint()
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".json", ".lock", ".lock", ".npy", ".npy"]


def test_memory_is_mapped_and_writes_stay_private(tmp_path: Path, cache: Path, decoded: list[str]) -> None:
    text = folder(tmp_path / "own")
    dataset(text).train.inputs.zero_()
    again = dataset(text).train.inputs
    assert again.any(), "the file was not written to"
    assert len(decoded) == 6
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(cache) in maps.read_text()


@pytest.mark.parametrize("change", ["content", "options", "order"])
def test_other_content_or_options_are_another_entry(
    tmp_path: Path, cache: Path, decoded: list[str], change: str
) -> None:
    text = folder(tmp_path / "own")
    first = dataset(text).train.fingerprint()
    a, b = tmp_path / "own/train/a/0.png", tmp_path / "own/train/a/1.png"
    if change == "content":
        stamp = a.stat()
        a.write_bytes(readers.encoded(readers.pixels(1, 5, 4, 3, seed=9)[0]))
        os.utime(a, (stamp.st_atime, stamp.st_mtime))
    elif change == "order":
        one, two = a.read_bytes(), b.read_bytes()
        a.write_bytes(two)
        b.write_bytes(one)
    assert dataset(f"{text},size=5" if change == "options" else text).train.fingerprint() != first


@pytest.mark.parametrize("how", ["a pixel", "cut", "facts", "empty", "no pixels"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, cache: Path, decoded: list[str], how: str) -> None:
    text = folder(tmp_path / "own")
    wanted = dataset(text).train.fingerprint()
    for path in cache.glob("*.json" if how == "facts" else "*.npy"):
        content = bytearray(path.read_bytes())
        if how == "a pixel":
            content[-1] ^= 1
        path.write_bytes({"cut": content[:-3], "facts": b"[1]", "empty": b""}.get(how, content))
        if how == "no pixels":
            path.unlink()
    assert dataset(text).train.fingerprint() == wanted
    assert len(decoded) == 12
    assert dataset(text).train.fingerprint() == wanted
    assert len(decoded) == 12


def test_the_cache_is_turned_off(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", "off")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    dataset(folder(tmp_path / "own"))
    assert not cache.exists()
    assert not (tmp_path / "home").exists()
    monkeypatch.setenv("EXPUNGE_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    dataset(folder(tmp_path / "own"))
    assert list((tmp_path / "home/.cache/expunge").glob("*.npy"))


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    assert len(dataset(folder(tmp_path / "own")).train) == 4


def test_few_pixels_are_not_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pictures, "CACHED", 10_000)
    dataset(folder(tmp_path / "own"))
    assert not cache.exists()


def test_the_entries_used_longest_ago_are_deleted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decode_cache, "MOST", 2500)
    made: list[str] = []

    def entry(name: str, size: int = 900) -> Entry:
        def make() -> Entry:
            made.append(name)
            return Entry(np.zeros(size, np.uint8), {})

        return _decode_cache.cached(name, make)

    for age, name in ((30, "a"), (20, "b")):
        entry(name)
        os.utime(cache / f"{name}.json", (age, age))
    entry("a")  # is used now
    entry("c")
    assert {path.stem for path in cache.glob("*.npy")} == {"a", "c"}
    entry("large", 3000)
    assert {path.stem for path in cache.glob("*.npy")} == {"a", "c"}, "what does not fit is not kept"
    assert made == ["a", "b", "c", "large"]


def test_what_was_left_out_and_converted_is_kept_too(tmp_path: Path, cache: Path, decoded: list[str]) -> None:
    text = folder(tmp_path / "own") + ",unreadable=skip"
    (tmp_path / "own/train/a/0.png").write_bytes(b"")
    (tmp_path / "own/train/b/0.png").write_bytes(readers.encoded(readers.pixels(1, 5, 4)[0]))
    first, second = dataset(text), dataset(text)
    assert len(decoded) == 6
    assert first.notes == second.notes
    assert first.notes[0] == "training: 1 grey images were converted to RGB"
    assert "training: 1 of 4 images cannot be read and are left out: " in first.notes[1]
    assert first.train.ids.tolist() == second.train.ids.tolist() == [1, 2, 3]
