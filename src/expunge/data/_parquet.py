"""Parquet files in the Hugging Face schema: an image column of encoded bytes and a label column."""

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from expunge.core.errors import RequestError
from expunge.data import _pictures
from expunge.data._assemble import Arrays

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def present(folder: Path) -> bool:
    """Whether the folder holds Parquet files."""
    return bool(_files(folder, "train"))


def read_folder(folder: Path) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    """Read images and labels for training and test, and class names, which are empty if the files lack them."""
    train, test = _files(folder, "train"), _files(folder, "test")
    for split, files in (("train", train), ("test", test)):
        if not files:
            raise RequestError(f"{folder} holds no {split}*.parquet")
    return read(train), read(test), class_names(train[0])


def _files(folder: Path, split: str) -> list[Path]:
    return sorted([*folder.glob(f"{split}*.parquet"), *folder.glob(f"data/{split}*.parquet")])


def read(paths: Sequence[Path]) -> Arrays:
    """Read images uint8 (n, height, width[, 3]) and labels of these files, in order.

    Raises:
        RequestError: A file is damaged or lacks a column, or an image is damaged or differs in size.
    """
    tables = [_table(path) for path in paths]
    pictures = [
        (f"{path}, image {index}", partial(io.BytesIO, content))
        for path, table in zip(paths, tables, strict=True)
        for index, content in enumerate(table["image"].to_list())
    ]
    labels = np.concatenate([table["label"].to_numpy() for table in tables])
    return _pictures.read(pictures, str(paths[0].parent)), labels


def _table(path: Path) -> pl.DataFrame:
    try:
        columns = pl.read_parquet_schema(path)
        image, label = _column(path, columns, IMAGE_COLUMNS), _column(path, columns, LABEL_COLUMNS)
        content = _content(path, image, columns[image])
        table = pl.read_parquet(path, columns=[image, label]).select(
            content.alias("image"), pl.col(label).alias("label")
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"{path} cannot be read ({reason}): it may be cut short; fetch it again") from error
    if table["image"].null_count() or table["label"].null_count():
        raise RequestError(f"{path} has rows without image bytes or label")
    return table


def _content(path: Path, name: str, kind: pl.DataType) -> pl.Expr:
    """The encoded images of a column: its field ``bytes``, or the column itself."""
    if isinstance(kind, pl.Struct) and pl.Field("bytes", pl.Binary) in kind.fields:
        return pl.col(name).struct.field("bytes")
    if isinstance(kind, pl.Binary):
        return pl.col(name)
    raise RequestError(f"{path}: the column {name} should hold encoded images as struct {{bytes, path}}, not {kind}")


def _column(path: Path, columns: Sequence[str] | dict[str, pl.DataType], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in columns:
            return name
    raise RequestError(f"{path} has no column {' or '.join(wanted)}, only {', '.join(columns)}")


def class_names(path: Path) -> tuple[str, ...]:
    """Read the class names in the Hugging Face metadata of a file; empty if there are none."""
    try:
        features = json.loads(pl.read_parquet_metadata(path)["huggingface"])["info"]["features"]
        names = next(features[label]["names"] for label in LABEL_COLUMNS if label in features)
        return tuple(str(name) for name in names) if isinstance(names, list) else ()
    except (KeyError, TypeError, StopIteration, json.JSONDecodeError):
        return ()
