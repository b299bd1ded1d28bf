"""Files of images: their suffixes and names."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import RequestError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def names(labelled: Sequence[tuple[Path, int]], root: Path) -> tuple[str, ...]:
    """Return the name of each file: its path within ``root``, with slashes, in Unicode's composed form (NFC).

    Raises:
        RequestError: A name is no printable text, or two differ only in case or in the form of their characters.
    """
    found = tuple(unicodedata.normalize("NFC", path.relative_to(root).as_posix()) for path, _ in labelled)
    wrong = next((name for name in found if not name.isprintable()), None)
    if wrong is not None:
        raise RequestError(f"{root}: the name {wrong!r} is no printable text in UTF-8: rename the file")
    twice = [name for name, count in Counter(map(str.casefold, found)).items() if count > 1]
    if twice:
        same = [name for name in found if name.casefold() == twice[0]]
        raise RequestError(f"{root}: {' and '.join(map(repr, same))} differ in case alone: rename one")
    return found
