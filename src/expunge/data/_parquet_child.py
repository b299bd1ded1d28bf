"""Read Parquet files and write their content to standard output: a program, started by ``_parquet.py``.

polars ends the process on some damaged files, or takes all memory, so that it reads them in a process of its own.
Arguments: as JSON, the paths of Python's modules, the names of the columns, which may be empty, and whether whole
tables are wanted; then the files. For each file comes a line of JSON with its number, then one with an error, or one
with the number of rows, the names of classes and images and the labels that are text, after which come the labels and
the sizes of the images, int64, and their bytes. Where whole tables are wanted, the line says the number of bytes, and
the table follows as CSV.
"""

import contextlib
import json
import os
import sys
from typing import Any

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
NAME_COLUMNS = ("name", "filename", "file_name", "id", "key")


class Refused(Exception):
    """The file cannot be used, with the reason."""


def main() -> None:
    """Read the files that the arguments name."""
    sys.path[:], image, label, whole = json.loads(sys.argv[1])
    paths = sys.argv[2:]
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on every system

        most = 2**32 + 16 * sum(os.path.getsize(path) for path in paths)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number, path in enumerate(paths):
        _say({"file": number})
        try:
            if whole:
                _send_table(path)
                continue
            _send(path, (image,) if image else IMAGE_COLUMNS, (label,) if label else LABEL_COLUMNS)
        except Refused as error:
            _say({"error": str(error)})
            break
        except (Exception, MemoryError) as error:  # noqa: BLE001 - polars raises many kinds
            _say({"error": f"cannot be read ({_first(error)}): it may be cut short; fetch it again"})
            break


def _send(path: str, image_columns: tuple[str, ...], label_columns: tuple[str, ...]) -> None:
    import polars as pl  # noqa: PLC0415 - once its place is known

    columns = pl.read_parquet_schema(path)
    image, label = _column(columns, image_columns), _column(columns, label_columns)
    kind = columns[image]
    if isinstance(kind, pl.Struct) and pl.Field("bytes", pl.Binary) in kind.fields:
        content = pl.col(image).struct.field("bytes")
    elif isinstance(kind, pl.Binary):
        content = pl.col(image)
    else:
        raise Refused(f": the column {image} should hold encoded images as struct {{bytes, path}}, not {kind}")
    if not columns[label].is_integer() and columns[label] != pl.String:
        raise Refused(f": labels must be whole numbers or text, got {columns[label]}")
    names = _examples(columns, image)
    table = pl.read_parquet(path, columns=[*{image, label, *names.meta.root_names()}]).select(
        content.alias("image"), pl.col(label).alias("label"), names.cast(pl.String).alias("name")
    )
    if table["image"].null_count() or table["label"].null_count():
        raise Refused("has rows without image bytes or label")
    images = table["image"].to_list()
    words = table["label"].to_list() if columns[label] == pl.String else None
    classes = _names(pl.read_parquet_metadata(path).get("huggingface", ""), label)
    examples = [] if table["name"].null_count() else table["name"].to_list()
    _say({"rows": len(images), "names": classes, "words": words, "examples": examples})
    labels = table["label"].cast(pl.Int64) if words is None else pl.zeros(len(images), pl.Int64, eager=True)
    sys.stdout.buffer.write(labels.to_numpy().tobytes())
    sys.stdout.buffer.write(pl.Series([len(each) for each in images], dtype=pl.Int64).to_numpy().tobytes())
    for each in images:
        sys.stdout.buffer.write(each)
    sys.stdout.buffer.flush()


def _examples(columns: Any, image: str) -> Any:
    """The expression of the names of the images, null if there are none."""
    import polars as pl  # noqa: PLC0415 - once its place is known

    for name in NAME_COLUMNS:
        if name in columns and (columns[name] == pl.String or columns[name].is_integer()):
            return pl.col(name)
    kind = columns[image]
    if isinstance(kind, pl.Struct) and pl.Field("path", pl.String) in kind.fields:
        return pl.col(image).struct.field("path")
    return pl.lit(None)


def _send_table(path: str) -> None:
    import polars as pl  # noqa: PLC0415 - once its place is known

    table = pl.read_parquet(path)
    nested = [name for name, kind in table.schema.items() if kind.is_nested() or kind == pl.Binary]
    if nested:
        raise Refused(f": the column {nested[0]} holds neither numbers nor text")
    content = table.write_csv().encode()
    _say({"bytes": len(content)})
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _column(columns: Any, wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if name in columns:
            return name
    there = ", ".join([*columns][:20])[:400]
    raise Refused(f"has no column {' or '.join(wanted)}, only {there}")


def _names(text: str, label: str) -> list[str]:
    """The class names in the metadata, none if they are not in the Hugging Face schema."""
    try:
        features = json.loads(text)["info"]["features"]
        names = features[label]["names"]
        return [str(name) for name in names] if isinstance(names, list) else []
    except (KeyError, TypeError, ValueError, RecursionError):
        return []


def _first(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


def _say(message: dict[str, object]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
