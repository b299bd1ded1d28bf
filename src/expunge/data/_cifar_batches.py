"""The original python batches of CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np

from expunge.core.errors import RequestError
from expunge.data import _pickled_arrays
from expunge.data._assemble import Arrays, Found

Kind = Literal["fine", "coarse"]
"""The 100 classes of CIFAR-100, or its 20 superclasses."""


def present(folder: Path) -> bool:
    """Whether the folder holds python batches."""
    return any(folder.glob("data_batch_*")) or (folder / "meta").is_file()


def read_folder(folder: Path, kind: Kind = "fine") -> Found:
    """Read images uint8 (n, 3, 32, 32), labels (for CIFAR-100 of this kind), class names, and file names."""
    if any(folder.glob("data_batch_*")):
        train = [folder / f"data_batch_{number}" for number in range(1, 6)]
        test, meta, key = [folder / "test_batch"], folder / "batches.meta", "label_names"
    else:
        train, test, meta, key = [folder / "train"], [folder / "test"], folder / "meta", f"{kind}_label_names"
    (images, names), (tests, test_names) = _read(train, kind), _read(test, kind)
    return images, tests, _classes(meta, key) if meta.is_file() else (), (names, test_names)


def _classes(meta: Path, key: str) -> tuple[str, ...]:
    names = _pickled_arrays.read(meta).get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise RequestError(f"{meta} should hold the class names as a list under {key}: fetch it again")
    return _texts(names)


def _texts(names: Iterable[str | bytes]) -> tuple[str, ...]:
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)


def _read(paths: Sequence[Path], kind: Kind) -> tuple[Arrays, tuple[str, ...]]:
    """Images and labels of these batches, and the file names of all images, empty if one has none."""
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise RequestError(
            f"{paths[0].parent} holds no {', '.join(missing)}: CIFAR-10 is data_batch_1 to data_batch_5 and "
            "test_batch, CIFAR-100 is train and test"
        )
    contents = [_pickled_arrays.read(path) for path in paths]
    parts = [_batch(path, content, kind) for path, content in zip(paths, contents, strict=True)]
    names = [name for content in contents for name in _file_names(content.get("filenames"))]
    arrays = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    return arrays, tuple(names) if len(names) == len(arrays[1]) else ()


def _file_names(found: object) -> tuple[str, ...]:
    """The names of the images of a batch; empty if it has none."""
    names = cast("list[object]", found) if isinstance(found, list) else []
    return _texts([name for name in names if isinstance(name, str | bytes)])


def _batch(path: Path, content: Mapping[str, object], kind: Kind) -> Arrays:
    data = content.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise RequestError(f"{path} holds no CIFAR images: its data should be uint8 of shape (n, 3072)")
    labels = content.get("labels", content.get(f"{kind}_labels"))
    if not isinstance(labels, list | np.ndarray) or len(labels) != len(data):
        raise RequestError(f"{path} should hold one label for each of its {len(data)} images")
    if isinstance(labels, list) and not all(type(label) is int for label in labels):
        raise RequestError(f"{path} should hold whole numbers as labels")
    return data.reshape(-1, 3, 32, 32), np.asarray(labels)
