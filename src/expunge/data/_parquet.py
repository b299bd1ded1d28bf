"""Parquet files in the Hugging Face schema: an image column of encoded bytes and a label column."""

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from PIL import Image

from expunge.data._assemble import Array, Arrays
from expunge.errors import RequestError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def present(folder: Path) -> bool:
    """Whether the folder looks like one of Parquet files."""
    return bool(_files(folder, "train"))


def read_folder(folder: Path) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    """Images and labels for training and test, and the class names, empty if the files do not say them."""
    train, test = _require(folder, "train"), _require(folder, "test")
    return read(train), read(test), class_names(train[0])


def _files(folder: Path, split: str) -> list[Path]:
    return sorted([*folder.glob(f"{split}*.parquet"), *folder.glob(f"data/{split}*.parquet")])


def _require(folder: Path, split: str) -> list[Path]:
    found = _files(folder, split)
    if not found:
        raise RequestError(f"{folder} holds no {split}*.parquet")
    return found


def read(paths: Sequence[Path]) -> Arrays:
    """Images (n, height, width[, 3]) uint8 and labels of these files, in order.

    Raises:
        RequestError: A file is damaged, lacks a column, or an image is damaged or of another size.
    """
    tables = [_table(path) for path in paths]
    content = [value for table in tables for value in table["image"].to_list()]
    images = decode(content, str(paths[0]))
    return images, np.concatenate([table["label"].to_numpy() for table in tables])


def _table(path: Path) -> pl.DataFrame:
    try:
        columns = pl.read_parquet_schema(path)
        image, label = _column(path, columns, IMAGE_COLUMNS), _column(path, columns, LABEL_COLUMNS)
        chosen = pl.col(image).struct.field("bytes") if columns[image].base_type() is pl.Struct else pl.col(image)
        table = pl.read_parquet(path, columns=[image, label]).select(
            chosen.alias("image"), pl.col(label).alias("label")
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"{path} cannot be read ({reason}): it may be cut short; fetch it again") from error
    if table["image"].null_count() or table["label"].null_count():
        raise RequestError(f"{path} has rows without image bytes or label")
    return table


def _column(path: Path, columns: Sequence[str] | dict[str, pl.DataType], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in columns:
            return name
    raise RequestError(f"{path} has no column {' or '.join(wanted)}, only {', '.join(columns)}")


def class_names(path: Path) -> tuple[str, ...]:
    """The class names in the file's metadata, empty if it has none."""
    metadata = pl.read_parquet_metadata(path).get("huggingface")
    if not metadata:
        return ()
    features = cast("dict[str, dict[str, object]]", json.loads(metadata).get("info", {}).get("features", {}))
    for name in LABEL_COLUMNS:
        if "names" in features.get(name, {}):
            return tuple(cast("list[str]", features[name]["names"]))
    return ()


def decode(content: Sequence[bytes], where: str) -> Array:
    """Encoded images (JPEG, PNG, ...) as one array; grey ones (n, height, width), others (n, height, width, 3)."""
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda item: _pixels(item[1], f"{where}, image {item[0]}"), enumerate(content)))
    return stack(images, where)


def _pixels(content: bytes, where: str) -> Array:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise RequestError(f"{where} is damaged: {error}") from error


def stack(images: Sequence[Array], where: str) -> Array:
    """Images of one shape as one array; RequestError if their shapes differ."""
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        found = " and ".join(map(str, sorted(shapes))) or "none"
        raise RequestError(f"{where}: all images must have one size and kind, found {found}")
    return np.stack(images)
