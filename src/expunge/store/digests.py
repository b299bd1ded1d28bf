"""SHA-256 digests of a run's files, in its ``run.json``: made when the run is finished, compared when a file is read.

They find damage, and files that were exchanged or edited. They are no signature: a forgery of a file, of its digest and
of the digest of ``run.json`` is consistent in itself, and found only where another run names the digest it read.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import cast

from expunge.core import files
from expunge.core.errors import RequestError

RECORD = "run.json"
"""The file that is written last and holds the digests of all others."""
FILES = "files"
"""Its key with the digests by name of file."""
OWN = "sha256"
"""Its key with the digest of all its other keys."""
RECENT = 2.0
"""Seconds for which a file counts as just written: clocks of file systems are coarse, so it may change unseen."""


def sealed(record: Mapping[str, object], folder: Path) -> dict[str, object]:
    """The record of a run with the digest of every file in its folder, and its own.

    Cost: every byte is read once, about a second for 1.5 GB.
    """
    found = {path.name: files.digest(path) for path in sorted(folder.iterdir()) if path.name != RECORD}
    plain = cast("dict[str, object]", json.loads(json.dumps({**record, FILES: found})))
    return plain | {OWN: of_record(plain)}


def of_record(record: Mapping[str, object]) -> str:
    """The digest of a record, of its keys other than its own digest."""
    plain = {key: value for key, value in record.items() if key != OWN}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check(path: Path, declared: object, cure: str) -> None:
    """Raise a RequestError unless a file has the declared digest.

    Cost: the file is read, about a second for 1.5 GB, once per process until its size or times change.
    """
    files.check_regular(path, cure)
    if declared is None:
        raise RequestError(f"{path} is not a file that its run wrote, as {RECORD} does not name it: {cure}")
    if _of_file(path) != declared:
        raise RequestError(f"{path} is not as its run wrote it (its SHA-256 is not that in {RECORD}): {cure}")


def _of_file(path: Path) -> str:
    found = path.stat()
    if time.time() - max(found.st_mtime, found.st_ctime) < RECENT:
        return files.digest(path)
    return _remembered(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=4096)
def _remembered(path: Path, *_: int) -> str:
    return files.digest(path)
