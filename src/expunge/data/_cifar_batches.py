"""The original python batches of CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from expunge.data import _pickled_arrays
from expunge.data._assemble import Arrays
from expunge.errors import RequestError


def present(folder: Path) -> bool:
    """Whether the folder looks like one of python batches."""
    return (folder / "data_batch_1").is_file() or (folder / "meta").is_file()


def read_folder(folder: Path) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    """Images uint8 (n, 3, 32, 32), labels (fine ones for CIFAR-100), and the class names."""
    if (folder / "data_batch_1").is_file():
        train = sorted(folder.glob("data_batch_[0-9]"))
        test, meta, key = [folder / "test_batch"], folder / "batches.meta", "label_names"
    else:
        train, test, meta, key = [folder / "train"], [folder / "test"], folder / "meta", "fine_label_names"
    names = cast("Sequence[object]", _pickled_arrays.read(meta).get(key, ())) if meta.is_file() else ()
    return _read(train), _read(test), tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names)


def _read(paths: Sequence[Path]) -> Arrays:
    parts = [_batch(path) for path in paths]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _batch(path: Path) -> Arrays:
    content = _pickled_arrays.read(path)
    data, labels = content.get("data"), content.get("labels", content.get("fine_labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise RequestError(f"{path} holds no CIFAR images: its data should be uint8 of shape (n, 3072)")
    if labels is None or len(cast("list[int]", labels)) != len(data):
        raise RequestError(f"{path} should hold one label for each of its {len(data)} images")
    return data.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)
