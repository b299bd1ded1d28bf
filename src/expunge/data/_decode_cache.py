"""Decoded images on disk, by a digest of the encoded ones, mapped into memory that all processes share.

The environment variable EXPUNGE_CACHE names the folder, ``~/.cache/expunge`` by default; ``off`` turns it off. It
takes at most :data:`MOST` bytes and never more than half of the free space: the entries used longest ago are deleted.
An entry is an array (``DIGEST.npy``) and, written last, a JSON file with its checksum. Deleting files is always safe.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from filelock import FileLock

from expunge.data._assemble import Array

VARIABLE = "EXPUNGE_CACHE"
MOST = 2**35
BLOCK = 2**24


@dataclass(frozen=True)
class Entry:
    """An array, and facts about it that JSON can hold."""

    array: Array
    about: Mapping[str, object]


def cached(digest: str, make: Callable[[], Entry]) -> Entry:
    """The entry of this digest, mapped into memory (writes to it stay private); it is made if it is not there.

    Processes that want the same entry make it once. A damaged entry is made anew; where nothing can be written,
    the entry is only returned.
    """
    folder = _folder()
    if folder is None:
        return make()
    with _locked(folder / f"{digest}.lock") as writable:
        if not writable:
            return make()
        found = _read(folder / digest)
        if found is None:
            found = make()
            if _write(folder / digest, found):
                found = _read(folder / digest) or found
        return found


def _folder() -> Path | None:
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    with suppress(RuntimeError):  # there is no home
        return Path(chosen or os.environ.get("XDG_CACHE_HOME", "") or "~/.cache").expanduser() / (
            "" if chosen else "expunge"
        )
    return None


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of an entry; False if the folder cannot be written to."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _read(stem: Path) -> Entry | None:
    """The entry, and note its use; None if it is missing or damaged."""
    try:
        facts = json.loads(stem.with_suffix(".json").read_text())
        array = cast("Array", np.load(stem.with_suffix(".npy"), mmap_mode="c", allow_pickle=False))
        if facts["checksum"] != _checksum(array):
            return None
        os.utime(stem.with_suffix(".json"))
        return Entry(array, dict(facts["about"]))
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        return None


def _write(stem: Path, entry: Entry) -> bool:
    """Write an entry if there is room; whether it was written."""
    pixels, facts, draft = stem.with_suffix(".npy"), stem.with_suffix(".json"), stem.with_suffix(".draft")
    try:
        if not _make_room(stem.parent, entry.array.nbytes):
            return False
        facts.unlink(missing_ok=True)
        with draft.open("wb") as file:
            np.save(file, entry.array, allow_pickle=False)
        draft.replace(pixels)
        draft.write_text(json.dumps({"checksum": _checksum(entry.array), "about": dict(entry.about)}))
        draft.replace(facts)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        return False
    return True


def _make_room(folder: Path, wanted: int) -> bool:
    """Delete the entries used longest ago until the new one fits; whether it does."""
    if wanted > min(MOST, shutil.disk_usage(folder).free / 2):
        return False
    entries = [(path.stat().st_mtime, path) for path in folder.glob("*.json")]
    taken = sum(path.stat().st_size for path in folder.glob("*.npy"))
    for _, path in sorted(entries):
        if taken + wanted <= MOST:
            break
        taken -= path.with_suffix(".npy").stat().st_size
        for end in (".json", ".npy", ".lock"):
            path.with_suffix(end).unlink(missing_ok=True)
    return True


def _checksum(array: Array) -> int:
    content, found = array.reshape(-1).view(np.uint8).data, 0
    for start in range(0, len(content), BLOCK):
        found = zlib.crc32(content[start : start + BLOCK], found)
    return found
