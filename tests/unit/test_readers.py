"""Damaged and hostile files: one clear refusal that names the file, in bounded time and memory, for every reader."""

import base64
import contextlib
import io
import json
import os
import pickle
import re
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.bench import recipes
from expunge.bench.grid import Comparison
from expunge.cli.precompute import read_groups
from expunge.core import checkpoints, files, masks
from expunge.core.errors import RequestError
from expunge.data import _pickled_arrays
from expunge.data.id_lists import read_ids
from expunge.evaluation.predictions import stored_predictions
from expunge.report import results
from expunge.store.directory import RunDirectory, Store, read_json
from expunge.store.run import open_config
from tests import readers, runs
from tests.problems import dataset

PANIC = (
    "c-oy*J8u&~5Z-&(7-S)Xva37kgsvbbC!oYR9DGI=(w<|Sgpk-)L<pie$3EMV<FjnzM>;6@2~>!JjxG%?LKOT0id2Y#UqBCGXZP%c"
    "0wGx4?R>K{^UdQPC0bd*2ruH?O{_8y#ZlunN-E>=Sc45Alzg}R!^Ce9QkbG#;(}R1f#do-it0(Fb=ZhhCxdz)$B9as<j9KUerICz"
    "m$7*+k2+<)kPX=*=scg=^#)B&=a5b7M9M(~3pcU71uS87;u)GPDU>Y5ReT+CC8j;arZz2h<}Vm7ZXhHxMU^B)#;U%Gq6uA#w7qJ*"
    "&GWyO$VbUKR;+LGAF1>!vd%jdJ4QNzLrK>VyFgWi&n$+)vwFF=L1OrbAdXHXycxn{1rGsYS%0#w_JUx5RkSK=FeHX>d|uYX@CD|B"
    "n@3v)#He88tstW6hMu#YOU6GuHu5Tp=g7+lUPRU#+4$=NBF9lo$cG5NhOF<Z@xS9FpMd5|1m8vEy-a?do{|^J9E?MY(@JG$?@s@q"
    "SwHl&uktdi5p^l01$I+s$n<fU3Y{O_r?gM=T$bsL68Mkce1p<P=*J+Z2>0R<b8-SYB^7?I5NwrpnLR6TS=jSsaBWZ*^y0X=fB3Ku"
    "mM-K=!=al7J<o#*+f(>pMzU6bR*JJCcu|yA%3;!c3hdmp?lx;hQA`H-CyiN=MZv$zN!<;gVzLnC9SN!(-rqfd`<-^`@gt~W%?bGn"
    "qAIsr-8-O2+b#uduh%z|-N~RCbQa8Ez1MFA9n)S~SxTA7>eE)cW@h|s%C6RK`F_pL_`YM;R?>FH@lsjO&aV2t?Pt7tEo(36Ire6X"
    "3w>rEUWxsMegRPg<(d"
)
"""A Parquet file of 1.2 kB, compressed, on which polars ends with an exception that is no Exception."""


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read a good file by every reader, so that no test measures an import."""
    for name, reader in readers.READERS.items():
        folder = tmp_path_factory.mktemp(re.sub(r"\W", "", name))
        readers.write(folder, reader.good())
        reader.read(folder)


def refused(read: Callable[[], object], *words: str, most: float = 2.0, memory: int = 50_000_000) -> None:
    """Reading raises one RequestError with these words, quickly, in little memory."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(RequestError) as caught:
            read()
        assert time.perf_counter() - started < most
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_parquet_file_that_ends_polars_is_refused(tmp_path: Path) -> None:
    readers.write(tmp_path, readers.READERS["parquet"].good())
    (tmp_path / "test.parquet").write_bytes(zlib.decompress(base64.b85decode(PANIC)))
    refused(lambda: dataset(f"parquet:{tmp_path}"), "test.parquet cannot be read", "fetch it again", most=20)


@pytest.mark.parametrize("end", ["kill -ABRT $$", "echo '{\"file\": 0}'", "echo '{\"file\": 0}'; kill -SEGV $$"])
def test_a_parquet_file_may_end_the_process_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    readers.write(tmp_path, readers.READERS["parquet"].good())
    (tmp_path / "test.parquet").write_bytes((tmp_path / "train.parquet").read_bytes())
    (tmp_path / "python").write_text(f"#!/bin/sh\n{end}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    refused(lambda: dataset(f"parquet:{tmp_path}"), "train.parquet cannot be read (it ended the process that read it")


def npy(header: str, content: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + content


HEADERS = {
    "an open parenthesis": npy("{'descr': '<i8', 'fortran_order': False, 'shape': ((((("),
    "no Python": npy("{'descr': $ ?"),
    "an odd character": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (3,)\x00}"),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"N."),
    "a structure": npy("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,), }", b"12345678"),
    "five gigabytes": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (700000000,), }", b"12345678"),
    "an exabyte": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999999, 0, 9), }", b"1"),
    "negative": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }", b"12345678"),
    "deep": npy("{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 9000 + ")" * 900, version=2),
    "a long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    "another version": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"12345678", version=9),
    "float 3": npy("{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }", b"123"),
    "cut": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", b"12345678"),
    "more": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"1234567890"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_arrays_are_not_evaluated(name: str, tmp_path: Path) -> None:
    (tmp_path / "ids.npy").write_bytes(HEADERS[name])
    refused(lambda: read_ids(str(tmp_path / "ids.npy")), "ids.npy cannot be read", "numpy")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "own.npz", "w", method) as archive:
            archive.writestr("train_images.npy", HEADERS[name])
        refused(lambda: dataset(f"npz:{tmp_path / 'own.npz'}"), "own.npz, array train_images, cannot be read")


def test_headers_of_all_versions_and_orders_are_read(tmp_path: Path) -> None:
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "ids.npy").open("wb") as file:
            np.lib.format.write_array(file, np.asfortranarray([[3, 5], [4, 6]]), version=version)
        assert read_ids(str(tmp_path / "ids.npy")) == [3, 5, 4, 6]


@pytest.mark.parametrize("damage", ["method", "encrypted", "size"])
def test_damaged_archives_are_refused(damage: str, tmp_path: Path) -> None:
    content = bytearray(readers.READERS["npz, deflated"].good()["own.npz"])
    at = content.index(b"PK\x01\x02")
    if damage == "method":
        content[at + 10] = 99
    elif damage == "encrypted":
        content[at + 8] |= 1
    else:
        content[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    (tmp_path / "own.npz").write_bytes(content)
    refused(lambda: dataset(f"npz:{tmp_path / 'own.npz'}"), "own.npz", "cannot be read")


def test_an_array_that_says_everywhere_that_it_is_large_allocates_nothing(tmp_path: Path) -> None:
    content = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2000000000,), }", bytes(3))
    with zipfile.ZipFile(tmp_path / "own.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", content)
    written = bytearray((tmp_path / "own.npz").read_bytes())
    says = (len(content) - 3 + 2_000_000_000).to_bytes(4, "little")
    at = written.index(b"PK\x01\x02")
    written[22:26] = written[at + 24 : at + 28] = says
    (tmp_path / "own.npz").write_bytes(written)
    refused(lambda: dataset(f"npz:{tmp_path / 'own.npz'}"), "own.npz, array train_images, cannot be read: it says")


def test_a_gzip_file_is_read_up_to_what_its_header_says(tmp_path: Path) -> None:
    import gzip

    good = readers.READERS["idx, gzip"].good()
    bomb = gzip.decompress(good["train-images-idx3-ubyte.gz"]) + bytes(200_000_000)
    readers.write(tmp_path, good | {"train-images-idx3-ubyte.gz": gzip.compress(bomb, 1)})
    del bomb
    refused(lambda: dataset(f"idx:{tmp_path}"), "train-images-idx3-ubyte.gz holds another number of bytes")
    sizes = bytes((0, 0, 8, 3)) + struct.pack(">III", 2**32 - 1, 2**32 - 1, 2)
    readers.write(tmp_path, {"train-images-idx3-ubyte.gz": gzip.compress(sizes)})
    refused(lambda: dataset(f"idx:{tmp_path}"), "train-images-idx3-ubyte.gz holds another number of bytes")


@pytest.mark.parametrize("label", [10**7, 2**62])
def test_one_large_label_does_not_make_as_many_classes(label: int, tmp_path: Path) -> None:
    labels = np.array([0, 1, label])
    images = np.zeros((3, 4, 4), np.uint8)
    path = tmp_path / "own.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    refused(lambda: dataset(f"npz:{path}"), "own.npz", f"{label + 1} classes", "number the classes from 0")


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "..", "a/b", "a\\b", "", "a\nb", "a" * 200])
def test_the_name_of_a_comparison_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    content = json.loads(readers.READERS["comparison"].good()["b.json"]) | {"name": name}
    (tmp_path / "a.json").write_text(json.dumps(content))
    refused(lambda: recipes.find(str(tmp_path / "a.json")), "a.json", "name of a comparison")


def test_recipes_have_names_of_folders() -> None:
    assert all(isinstance(recipes.find(name), Comparison) for name in recipes.names())


@pytest.mark.parametrize("name", ["..", ".", "../other", "/etc", "a/../b", ""])
def test_a_run_that_is_referred_to_lies_in_the_store(name: str, tmp_path: Path) -> None:
    refused(lambda: Store(tmp_path).directory(name), "is no name of a run")
    entry = {"label": "scrub", "seed": 0, "run": name, "subject": None, "status": "finished"}
    if name:
        (tmp_path / "bench.json").write_text(json.dumps({"name": "x", "entries": [entry]}))
        refused(lambda: results.load(tmp_path), "is no name of a run")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(start: str, tmp_path: Path) -> None:
    from expunge.report import tables
    from tests.unit._report_fixture import write_folder

    write_folder(tmp_path, methods=("retrain", "original", "scrub"), seeds=1, sizes=(30, 60, 30))
    found = results.load(tmp_path)
    import dataclasses

    rows = tuple(dataclasses.replace(row, label=f"{start}{row.label}") for row in found.rows)
    written = tables.csv(tables.summarise(dataclasses.replace(found, rows=rows)))
    import polars as pl

    labels = pl.read_csv(io.StringIO(written))["method"].to_list()
    assert labels
    assert all(label.startswith(f"'{start}") for label in labels if label.lstrip("'")[0] == start)
    assert any(label.startswith(f"'{start}") for label in labels)


@pytest.mark.parametrize("written", ["[" * 100_000, '{"a":' * 100_000, "[" * 60 + "]" * 60])
def test_deep_json_is_refused_by_every_reader_of_it(written: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(written)
    for name in ("run.json", "config.json", "bench.json", "vectors.json"):
        (tmp_path / name).write_text(written)
    from expunge.trajectory.vectors import open_store

    for read in (
        lambda: recipes.find(str(path)),
        lambda: read_ids(str(path)),
        lambda: RunDirectory(tmp_path).record(),
        lambda: open_config(RunDirectory(tmp_path)),
        lambda: results.load(tmp_path),
        lambda: open_store(tmp_path),
    ):
        refused(read, ".json cannot be read as JSON")


def test_json_of_as_many_levels_as_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a":' * files.DEPTH + "1" + "}" * files.DEPTH)
    assert "a" in read_json(path)
    forget = '{"name": "union", "sets": [' * 15 + '"random:10%"' + "]}" * 15
    content = json.loads(readers.READERS["comparison"].good()["b.json"]) | {"forget": json.loads(forget)}
    path.write_text(json.dumps(content))
    refusals: list[str] = []
    try:
        recipes.find(str(path))
    except RequestError as error:
        refusals = [str(error)]
    assert all("a.json" in message for message in refusals)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    names = {end: tmp_path / f"x{end}" for end in (".npy", ".json", ".npz", ".txt", ".csv", ".pt", ".safetensors")}
    for other in names.values():
        other.symlink_to(path)
    (tmp_path / "run").mkdir()
    for name in ("run.json", "config.json", "model.safetensors"):
        (tmp_path / "run" / name).symlink_to(path)
    from expunge.unlearning.update_masks import UpdateMask

    for read in (
        *(lambda end=end: read_ids(str(names[end])) for end in (".npy", ".json", ".txt")),
        lambda: dataset(f"npz:{names['.npz']}"),
        lambda: read_groups(names[".csv"]),
        lambda: recipes.find(str(names[".json"])),
        lambda: checkpoints.read(names[".pt"]),
        lambda: masks.load(names[".safetensors"]),
        lambda: UpdateMask(file=str(names[".pt"])),
        lambda: files.digest(path),
        lambda: RunDirectory(tmp_path / "run").record(),
        lambda: RunDirectory(tmp_path / "run").config(),
        lambda: RunDirectory(tmp_path / "run").model(),
        lambda: RunDirectory(tmp_path / "run").tensor("model", "x"),
        lambda: _pickled_arrays.read(path),
    ):
        refused(read, str(tmp_path))


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    readers.write(tmp_path, readers.READERS["folder"].good())
    os.mkfifo(tmp_path / "train" / "a" / "zz.png")
    refused(lambda: dataset(f"folder:{tmp_path}"), "zz.png cannot be read: it is a pipe or a device")
    readers.write(tmp_path / "parquet", readers.READERS["parquet"].good())
    os.mkfifo(tmp_path / "parquet" / "test.parquet")
    refused(lambda: dataset(f"parquet:{tmp_path / 'parquet'}"), "test.parquet cannot be read: it is a pipe")


def test_images_that_take_more_than_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers.write(tmp_path, readers.READERS["folder"].good())
    monkeypatch.setattr(os, "sysconf", lambda name: 100 if name == "SC_PHYS_PAGES" else 1)
    refused(lambda: dataset(f"folder:{tmp_path}"), "of memory", "take fewer by limit, or smaller ones by size")


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


TUPLES = b"\x80\x02})q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60))
"""A dictionary, and a tuple of 60 levels, each of which holds the one below twice."""


@pytest.mark.parametrize(
    "stream",
    [
        TUPLES + b"K\x01s.",
        b"\x80\x02(" + TUPLES[3:] + b"K\x01d.",
        b"\x80\x02}(" + TUPLES[3:] + b"K\x01u.",
    ],
)
def test_a_key_of_nested_tuples_is_refused(stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(stream)
    refused(lambda: _pickled_arrays.read(tmp_path / "batch"), "batch is refused: it would be larger")


@pytest.mark.parametrize(
    "stream",
    [
        lambda n: b"\x80\x02}" + b"(" * n + b"t" * n + b".",
        lambda n: b"\x80\x02(" + b"]" * (2 * n) + b"l.",
        lambda n: b"\x80\x02}" + b"q\x00" * n + b".",
        lambda n: b"\x80\x02]" + b"(I1\ne" * (n // 3) + b".",
        lambda n: b"\x80\x02(" + b"cnumpy\ndtype\n" * (n // 6) + b"l.",
        lambda n: b"\x80\x02\x8b" + struct.pack("<I", 2 * n) + b"\x7f" * 2 * n + b".",
        lambda n: b"\x80\x02V" + b"\\u" * n + b"\n.",
        lambda n: b"\x80\x02]cnumpy\ndtype\n" + text(b"i4," * (n // 2)) + b"\x85R0.",
    ],
)
def test_the_time_of_a_pickle_is_linear(stream: Callable[[int], bytes], tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(stream(20_000))
    try:
        refused(lambda: _pickled_arrays.read(tmp_path / "batch"), most=3, memory=200_000_000)
    except pytest.fail.Exception:
        assert _pickled_arrays.read(tmp_path / "batch") == {}


class Calls:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_a_few_bytes_takes_no_gigabytes(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    content = {"state_dict": {"a": torch.ones(2)}, "b": Calls(bytearray, 3 * 10**9)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(lambda: checkpoints.read(path), "a.pt is refused: it asks for '", "bytearray'")
    nested = TUPLES + b"K\x01s."
    encoded = b"\x80\x02]q\x00(c_codecs\nencode\nq\x01" + text(b"a" * 20_000) + b"q\x02" + text(b"latin1") + b"q\x03"
    for stream in (nested, encoded + b"h\x01h\x02h\x03\x86R" * 5000 + b"e."):
        if zipped:
            torch.save({}, path)
            with zipfile.ZipFile(path) as archive:
                parts = {member.filename: archive.read(member) for member in archive.infolist()}
            with zipfile.ZipFile(path, "w") as archive:
                for name, part in parts.items():
                    archive.writestr(name, stream if name.endswith("data.pkl") else part)
        else:
            torch.save({}, path, _use_new_zipfile_serialization=False)
            path.write_bytes(path.read_bytes().replace(pickle.dumps({}, 2), stream, 1))
        refused(lambda: checkpoints.read(path), "a.pt is refused: it would be larger in memory than in the file")


def test_a_length_in_an_old_checkpoint_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(b"\x80\x02\x8d" + struct.pack("<Q", 2**62) + path.read_bytes())
    refused(lambda: checkpoints.read(path), "a.pt is damaged", memory=10**7)


def test_tensors_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    tensor = torch.ones(4)
    torch.save(
        {"a": Calls(torch._utils._rebuild_tensor_v2, tensor.untyped_storage(), 0, (10**6,), (1,), False, {})}, path
    )
    refused(lambda: checkpoints.read(path), "a.pt", "damaged")
    with zipfile.ZipFile(path) as archive:
        parts = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    refused(lambda: checkpoints.read(path), "a.pt is refused: it would be larger in memory than in the file")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "should say the status"),
        ({"status": "happy"}, "should say the status"),
        ({"status": ["finished"]}, "should say the status"),
        ({"status": "finished", "reason": 3}, "damaged (reason is 3)"),
        ({"status": "finished", "finished": None}, "damaged (finished is None)"),
        ({"status": "finished", "format": 999}, "of a newer expunge"),
        ({"status": "finished", "format": "x"}, "of a newer expunge"),
    ],
)
def test_records_of_runs_are_checked(record: dict[str, object], words: str, tmp_path: Path) -> None:
    good = readers.READERS["runs"].good()
    readers.write(tmp_path, good)
    for path in [path for path in good if path.endswith("run.json")]:
        (tmp_path / path).write_text(json.dumps(record))
    directory = RunDirectory((tmp_path / path).parent)
    for read in (directory.record, lambda: directory.finished, directory.seconds, directory.config):
        refused(read, str(tmp_path / path), words)
    refused(lambda: results.load(tmp_path), "run.json", words)


def test_seconds_that_are_none_are_refused(tmp_path: Path) -> None:
    for changes in ({}, {"seconds": {"work": "long"}}):
        runs.reseal(tmp_path, **changes)
        refused(RunDirectory(tmp_path).seconds, "run.json holds no seconds")


def test_a_record_says_its_format(tmp_path: Path) -> None:
    from expunge.core.config import FORMAT
    from expunge.store import execute
    from expunge.store.execute import Session

    assert execute.run(runs.trained(), Store(tmp_path), Session()).record()["format"] == FORMAT


def test_tiny_imagenet_as_it_is_unpacked(tmp_path: Path) -> None:
    image = readers.encoded(readers.pixels(1, 8, 8, 3)[0], "JPEG")
    train = {
        f"train/{word}/images/{word}_{number}.JPEG": image for word in ("n01443537", "n01629819") for number in "01"
    }
    boxes = {f"train/{word}/{word}_boxes.txt": b"a\t0\t0\t9\t9\n" for word in ("n01443537", "n01629819")}
    readers.write(tmp_path, train | boxes | {"test/images/test_0.JPEG": image})
    refused(lambda: dataset(f"folder:{tmp_path}"), "images without classes", "val_annotations.txt")
    (tmp_path / "test/images/test_0.JPEG").unlink()
    (tmp_path / "test/images").rmdir()
    readers.write(tmp_path, {"test/n01629819/images/val_0.JPEG": image})
    data = dataset(f"folder:{tmp_path}")
    assert data.class_names == ("n01443537", "n01629819")
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [1]


def test_ids_beyond_all_numbers_are_refused(tmp_path: Path) -> None:
    refused(lambda: read_ids("9" * 5000), "cannot be read")
    for name, content in (("a.json", "[" + "9" * 5000 + "]"), ("a.txt", "9" * 5000)):
        (tmp_path / name).write_text(content)
        refused(lambda path=tmp_path / name: read_ids(str(path)), name)
    (tmp_path / "a.csv").write_text(f"{'9' * 5000},alice\n17,bob\n{'9' * 5000},bob\n")
    refused(lambda: read_groups(tmp_path / "a.csv"), "a.csv: entry 2 should be ID,GROUP")


def test_an_image_of_few_bytes_is_not_of_many_pixels(tmp_path: Path) -> None:
    readers.write(tmp_path, readers.READERS["folder"].good())
    (tmp_path / "train/a/0.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 9000, 9000, 1, 24, *[0] * 6)
    )
    refused(lambda: dataset(f"folder:{tmp_path}"), "0.bmp has too many pixels")


def test_a_length_in_an_image_allocates_nothing(tmp_path: Path) -> None:
    good = readers.READERS["folder"].good()
    picture = bytearray(good["test/a/0.png"])
    at = picture.index(b"IDAT") - 4
    picture[at : at + 4] = (2**31 - 1).to_bytes(4, "big")
    readers.write(tmp_path, good | {"test/a/0.png": bytes(picture)})
    tracemalloc.start()
    try:
        with contextlib.suppress(RequestError):
            dataset(f"folder:{tmp_path}")
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_predictions_without_their_labels_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"validation.logits": torch.ones(1, 2)}, tmp_path / "predictions.safetensors")
    runs.reseal(tmp_path)
    refused(lambda: stored_predictions(RunDirectory(tmp_path)), "predictions.safetensors lacks validation.labels")


def test_odd_spaces_around_an_id_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("3\x1f,alice\n")
    assert read_groups(tmp_path / "a.csv") == ((3,),)


@pytest.mark.parametrize("change", [{"rows": [0, 10**7]}, {"ids": [3, 2**64]}, {"chunk": 2**64}])
def test_numbers_of_vectors_beyond_all_sizes_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    good = readers.READERS["vectors"].good()
    header = json.loads(good["vectors.json"]) | change
    readers.write(tmp_path, good | {"vectors.json": json.dumps(header).encode()})
    refused(lambda: readers.READERS["vectors"].read(tmp_path), "vectors.json", "precompute again")


CASES = {name: 12 if reader.slow else 250 for name, reader in readers.READERS.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", readers.READERS)
def test_mutated_files_are_read_or_refused(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    reader = readers.READERS[name]
    memory = Path("/dev/shm")
    folder = tmp_path_factory.mktemp("fuzz") if not os.access(memory, os.W_OK) else memory / f"expunge-{os.getpid()}"
    good = reader.good()
    readers.write(folder, good)
    reader.read(folder)
    messages: list[str] = []

    @settings(max_examples=CASES[name], derandomize=True, deadline=None, database=None)
    @given(seed=st.integers(0, 2**32))
    def one(seed: int) -> None:
        changed = readers.case(good, seed)
        readers.write(folder, changed)
        try:
            reader.read(folder)
        except RequestError as error:
            messages.append(str(error))
        finally:
            readers.write(folder, {path: good[path] for path in changed})

    try:
        one()
        assert not [each for each in messages if str(folder) not in each and "a.pt" not in each]
    finally:
        import shutil

        shutil.rmtree(folder)
