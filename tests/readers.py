"""Every reader of users' files, with good files for it and seeded mutations of them, for the tests and the fuzzing."""

import contextlib
import csv
import gzip
import io
import json
import pickle
import random
import re
import struct
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from expunge.bench import recipes
from expunge.cli import precompute
from expunge.core import checkpoints, config, masks
from expunge.core.masks import Mask
from expunge.data import _celeba_lists, _parquet
from expunge.data.forget_sets.ids import ListedForget
from expunge.data.id_lists import read_ids
from expunge.data.normalisation import with_normalisation
from expunge.evaluation.predictions import stored_predictions
from expunge.report import results
from expunge.store.directory import Draft, Store
from expunge.store.run import open_config
from expunge.trajectory import vectors
from tests import runs
from tests.problems import dataset

Files = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """One way in for users' files."""

    good: Callable[[], Files]
    """Files that it reads, by their paths within a folder; made once."""
    read: Callable[[Path], object]
    """Read those in a folder."""
    slow: bool = False
    """Takes a process for each reading."""


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def encoded(image: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


def _source(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        own = {"npz": "own.npz", "table": "own.csv"}.get(name, "")
        return dataset(f"{name}:({folder / own})")

    return read


def _idx(compress: bool = False) -> Files:
    def content(array: np.ndarray) -> bytes:
        plain = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        return gzip.compress(plain, mtime=0) if compress else plain

    end = ".gz" if compress else ""
    labels = np.arange(6, dtype=np.uint8) % 3
    return {
        f"train-images-idx3-ubyte{end}": content(pixels(6, 5, 4)),
        f"train-labels-idx1-ubyte{end}": content(labels),
        f"t10k-images-idx3-ubyte{end}": content(pixels(3, 5, 4)),
        f"t10k-labels-idx1-ubyte{end}": content(labels[:3]),
    }


def _npz(save: Callable[..., None]) -> Files:
    stream = io.BytesIO()
    labels = np.arange(6) % 3
    save(stream, train_images=pixels(6, 5, 4), train_labels=labels, test_images=pixels(3, 5, 4), test_labels=labels[:3])
    return {"own.npz": stream.getvalue()}


def _batches(protocol: int, fine: bool) -> Files:
    key = "fine_labels" if fine else "labels"
    batch = {"data": pixels(2, 3072), key: [0, 1], "filenames": ["a.png", "b.png"]}
    names = ["train", "test"] if fine else [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    meta = {"fine_label_names" if fine else "label_names": ["cat", "dog"]}
    found = {name: pickle.dumps(batch, protocol) for name in names}
    return found | {"meta" if fine else "batches.meta": pickle.dumps(meta, protocol)}


def _mat_files(compress: bool) -> Files:
    from scipy import io as matlab

    found: Files = {}
    for name in ("train_32x32.mat", "test_32x32.mat"):
        stream = io.BytesIO()
        images, labels = pixels(2, 32, 32, 3).transpose(1, 2, 3, 0), np.array([[10], [1]], np.uint8)
        matlab.savemat(stream, {"X": images, "y": labels}, do_compression=compress)
        found[f"svhn/{name}"] = stream.getvalue()
    return found


def _tiny() -> Files:
    image = encoded(pixels(1, 4, 4, 3)[0])
    words = ("n01443537", "n01629819")
    lines = "".join(f"val_{number}.JPEG\t{word}\t0\t0\t9\t9\n" for number, word in enumerate(words))
    train = {f"tiny_imagenet/train/{word}/images/{word}_0.JPEG": image for word in words}
    val = {f"tiny_imagenet/val/images/val_{number}.JPEG": image for number in (0, 1)}
    return train | val | {"tiny_imagenet/val/val_annotations.txt": lines.encode()}


def _shards() -> Files:
    def shard(name: str) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for number, end in ((0, "cls"), (1, "json")):
                label = str(number).encode() if end == "cls" else json.dumps({"label": number}).encode()
                for kind, content in (("png", encoded(pixels(1, 4, 4, 3)[0])), (end, label)):
                    member = tarfile.TarInfo(f"{name}{number}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    return {"train-0.tar": shard("a"), "test-0.tar": shard("b")}


def _table() -> Files:
    rows = "".join(f"{number},{'ab'[number % 2]},{number % 3}\n" for number in range(30))
    return {"own.csv": f"x,y,label\n{rows}".encode()}


def _folder() -> Files:
    forms = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "webp": "WEBP", "ppm": "PPM", "tif": "TIFF"}
    image = pixels(1, 6, 6, 3)[0]
    train = {f"train/{label}/{end}.{end}": encoded(image, form) for label in "ab" for end, form in forms.items()}
    return train | {f"test/{label}/0.png": encoded(image) for label in "ab"}


def _parquet_file() -> Files:
    import polars as pl

    rows = [{"bytes": encoded(image), "path": None} for image in pixels(2, 3, 3, 3)]
    kind = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    names = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    table = pl.DataFrame({"img": rows, "label": [0, 1]}, schema={"img": kind, "label": pl.Int64})
    stream = io.BytesIO()
    table.write_parquet(stream, metadata={"huggingface": json.dumps(names)})
    return {"train.parquet": stream.getvalue()}


def _lists() -> Files:
    names = [f"{number:06}.jpg" for number in range(1, 7)]
    attributes = "\n".join(f"{name} {(-1) ** index} 1" for index, name in enumerate(names))
    return {
        "list_attr_celeba.txt": f"6\nMale Young\n{attributes}\n".encode(),
        "list_eval_partition.txt": "".join(f"{name} {index % 3}\n" for index, name in enumerate(names)).encode(),
    }


def _celeba_csv() -> Files:
    names = [f"{number:06}.jpg" for number in range(1, 7)]
    rows = "\n".join(f"{name},{(-1) ** index},1" for index, name in enumerate(names))
    parts = "\n".join(f"{name},{index % 3}" for index, name in enumerate(names))
    return {
        "list_attr_celeba.csv": f"image_id,Male,Young\n{rows}\n".encode(),
        "list_eval_partition.csv": f"image_id,partition\n{parts}\n".encode(),
    }


def _ids() -> Files:
    stream = io.BytesIO()
    np.save(stream, np.array([3, 17, 40]))
    return {"ids.txt": b"# people\n3\n17,\n40 # the last\n", "ids.json": b"[3, 17, 40]", "ids.npy": stream.getvalue()}


def _read_ids(folder: Path) -> object:
    return [ListedForget(tuple(read_ids(str(path)))) for path in sorted(folder.iterdir())]


def _groups() -> Files:
    stream = io.StringIO()
    csv.writer(stream).writerows([("id", "group"), (3, "alice"), (17, "bob, junior"), (4, "alice")])
    return {"groups.csv": stream.getvalue().encode()}


@cache
def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def _checkpoint(zipped: bool) -> Files:
    state = dict(_network().state_dict())
    pruned = {"0.weight_orig": state.pop("0.weight"), "0.weight_mask": torch.ones(2, 1, 3, 3)}
    content = {"state_dict": state | pruned, "epoch": 3, "best": np.float64(93.5), "result": {"accuracy": [1.0, 2.0]}}
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return {"a.pt": stream.getvalue()}


def _checkpoint_of_run() -> Files:
    state = with_normalisation(_network(), (0.5,), (0.25,)).state_dict()
    kept = {"network.0.weight": torch.ones(2, 1, 3, 3).bool()}
    return _written(lambda folder: Draft(folder, folder / "target").model(state, list(state), kept))


def _read_checkpoint(folder: Path) -> object:
    found = checkpoints.read(next(folder.iterdir()))
    return checkpoints.translate(found, _network(), "a.pt")


def _mask(zipped: bool) -> Files:
    given = {name: (weight > 0) for name, weight in _network().named_parameters()}
    if zipped:
        stream = io.BytesIO()
        torch.save({name: mask.float() for name, mask in given.items()}, stream)
        return {"mask.pt": stream.getvalue()}
    return _written(lambda folder: masks.save(Mask(given), folder / "mask.safetensors"))


def _read_mask(folder: Path) -> object:
    if (folder / "mask.pt").exists():
        return checkpoints.read_mask(folder / "mask.pt", _network())
    found = masks.load(folder / "mask.safetensors")
    found.check(_network())
    return found


def _comparison() -> Files:
    found = config.to_data(recipes.find("demo"))
    texts = {
        "name": "mine",
        "data": {"source": "digits"},
        "model": "logistic",
        "forget": "random:10%",
        "methods": ["scrub"],
    }
    text = {**texts, "training": {"epochs": 1}, "variations": ["lr=0.1"], "prunings": ["dense", "magnitude:0.5"]}
    return {"a.json": json.dumps(found, indent=1).encode(), "b.json": json.dumps(text).encode()}


def _read_comparison(folder: Path) -> object:
    return [recipes.find(str(path)) for path in sorted(folder.glob("*.json"))]


@cache
def _evaluated() -> tuple[tuple[str, bytes], ...]:
    from expunge.runs.evaluate import EvaluateConfig
    from expunge.store import execute
    from expunge.store.execute import Session

    subject = runs.forgetting("finetune:epochs=1", original=runs.trained())
    wanted = EvaluateConfig(subject, None, (config.parse("metrics", "unlearning_accuracy"),))
    return tuple(_written(lambda folder: execute.run(wanted, Store(folder), Session())).items())


def _runs() -> Files:
    found = dict(_evaluated())
    name = next(path.partition("/")[0] for path in found if path.startswith("evaluate-"))
    subject = next(path.partition("/")[0] for path in found if path.startswith("unlearn-"))
    entry = {"label": "finetune", "seed": 0, "run": name, "subject": subject, "status": "finished"}
    return found | {"bench.json": json.dumps({"name": "mine", "entries": [entry]}).encode()}


def _read_runs(folder: Path) -> object:
    for path in folder.glob("*/run.json"):  # so that what follows the comparison of digests is read as well
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            runs.reseal(path.parent)
    found = results.load(folder)
    row = found.rows[0]
    results.history(found, row)
    results.predictions(found, row)
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        directory = Store(folder).directory(name)
        open_config(directory)
        if directory.finished and (directory.path / "model.safetensors").exists():
            directory.model(), directory.seconds(), stored_predictions(directory)
    return found


def _vectors() -> Files:
    def make(folder: Path) -> None:
        layout = vectors.Layout(2, (3, 17), (0, 1), "float32", 1, "0" * 64, False)
        made = vectors.begin(folder, layout)
        for chunk in range(2):
            made = made.write(chunk, torch.ones(1, 2), 0.1)

    return _written(make)


def _read_vectors(folder: Path) -> object:
    return vectors.open_store(folder).change(torch.tensor([3]))


def _written(make: Callable[[Path], object]) -> Files:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        paths = [path for path in sorted(Path(name).rglob("*")) if path.is_file()]
        return {str(p.relative_to(name)): p.read_bytes() for p in paths if p.suffix != ".lock"}


READERS: Mapping[str, Reader] = {
    "idx": Reader(_idx, _source("idx")),
    "idx, gzip": Reader(lambda: _idx(True), _source("idx")),
    "npz": Reader(lambda: _npz(np.savez), _source("npz")),
    "npz, deflated": Reader(lambda: _npz(np.savez_compressed), _source("npz")),
    "cifar_batches, 10": Reader(lambda: _batches(2, False), _source("cifar_batches")),
    "cifar_batches, 100": Reader(lambda: _batches(4, True), _source("cifar_batches")),
    "svhn": Reader(lambda: _mat_files(False), _source("svhn")),
    "svhn, compressed": Reader(lambda: _mat_files(True), _source("svhn")),
    "tiny_imagenet": Reader(_tiny, _source("tiny_imagenet")),
    "webdataset": Reader(_shards, _source("webdataset")),
    "table": Reader(_table, _source("table")),
    "folder": Reader(_folder, _source("folder")),
    "parquet": Reader(_parquet_file, lambda folder: _parquet._tables([folder / "train.parquet"]), slow=True),
    "celeba, .txt": Reader(_lists, lambda folder: _celeba_lists.read(folder, "Male")),
    "celeba, .csv": Reader(_celeba_csv, lambda folder: _celeba_lists.read(folder, "Male")),
    "ids": Reader(_ids, _read_ids),
    "groups": Reader(_groups, lambda folder: precompute.read_groups(folder / "groups.csv")),
    "checkpoint": Reader(lambda: _checkpoint(True), _read_checkpoint),
    "checkpoint, before torch 1.6": Reader(lambda: _checkpoint(False), _read_checkpoint),
    "checkpoint, of a run": Reader(_checkpoint_of_run, _read_checkpoint),
    "mask, .pt": Reader(lambda: _mask(True), _read_mask),
    "mask, .safetensors": Reader(lambda: _mask(False), _read_mask),
    "comparison": Reader(_comparison, _read_comparison),
    "runs": Reader(_runs, _read_runs),
    "vectors": Reader(_vectors, _read_vectors),
}

_NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"2147483647", b"4294967296", b"18446744073709551615", b"9" * 30, b"null")
_WORDS = (
    b"{}",
    b"[]",
    b'""',
    b"../../../x",
    b"\x00",
    b"\xff\xfe",
    b"[" * 300,
    b"(" * 300,
    b"\n",
    b",",
    b"=",
    b"\xf0\x9f\x98\x80",
)
_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four changes: of bits, bytes, numbers, lengths and parts."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.choice((1, 2, 4, 8, 64)))
        kind = chance.randrange(9)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at:end] = bytes(chance.choice(_BYTES) for _ in range(end - at))
        elif kind == 2:
            changed[at:end] = chance.randbytes(end - at)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at:end]
        elif kind == 5:
            changed[at:at] = changed[at:end] * chance.choice((1, 2, 100))
        elif kind == 6:
            changed[at:at] = chance.choice(_WORDS)
        elif kind == 7:
            width = chance.choice((2, 4, 8))
            number = chance.choice((2**31 - 1, 2**32 - 1, 2**63 - 1, 2**40, len(changed), 0)) % 256**width
            changed[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif found := list(re.finditer(rb"-?\d+(\.\d+)?|\"[^\"]{0,40}\"|true|false|null", changed[:100_000])):
            place = chance.choice(found)
            changed[place.start() : place.end()] = chance.choice(_NUMBERS + _WORDS)
    return bytes(changed)


def case(good: Files, seed: int) -> Files:
    """The good files, one of them mutated."""
    chance = random.Random(seed)
    name = chance.choice(sorted(good))
    return {name: mutated(good[name], chance)}


def write(folder: Path, content: Files) -> None:
    """Write the files."""
    for name, each in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(each)
