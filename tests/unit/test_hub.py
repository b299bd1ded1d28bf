"""Sets through Hugging Face datasets, built here and never fetched; and what is said without the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from expunge.core.errors import RequestError
from tests import readers
from tests.problems import dataset

pytestmark = pytest.mark.filterwarnings("ignore")  # of packages below datasets
PIXELS = readers.pixels(6, 5, 4, 3)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match=r"hf needs the package datasets .* pip install 'expunge\[hub\]'"):
        dataset("hf:uoft-cs/cifar100")


def repository(folder: Path, *splits: str, **columns: str) -> Path:
    """A repository of Parquet files as the hub has them."""
    rows = [{"bytes": readers.encoded(image), "path": None} for image in PIXELS]
    for split in splits:
        path = folder / f"data/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = ["dog", "cat"] * 3 if columns.get("label") == "word" else [1, 0] * 3
        table = {columns.get("image", "image"): rows, columns.get("label", "label"): labels}
        image, _ = table
        kind = {image: pl.Struct({"bytes": pl.Binary, "path": pl.String})}
        metadata = {"huggingface": json.dumps({"info": {"features": {image: {"_type": "Image"}}}})}
        pl.DataFrame(table, schema_overrides=kind).write_parquet(path, metadata=metadata)
    return folder


def load(text: str) -> str:
    """In a process of its own, as datasets reads its environment when it is imported."""
    program = (
        "import sys; from tests.problems import dataset; d = dataset(sys.argv[1]); "
        "print(d.train.inputs.flatten().tolist(), d.test.labels.tolist(), d.class_names, d.notes, sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, text], capture_output=True, text=True, check=False, env=os.environ
    )
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.mark.slow
def test_a_repository(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = repository(tmp_path / "own", "train", "validation", image="photo", label="word")
    inputs, labels, names, notes = load(f"hf:{folder},image=photo,label=word").strip().split("|")
    assert inputs == str(PIXELS.transpose(0, 3, 1, 2).ravel().tolist())
    assert labels == "[1, 0, 1, 0, 1, 0]"
    assert names == "('cat', 'dog')"
    assert "fingerprints of Hugging Face datasets: train " in notes
    assert "has no column img or image, only photo, word" in load(f"hf:{folder},label=word")
    assert "has the splits train, validation: choose two by train=... and test=..." in load(f"hf:{folder},test=test")


@pytest.mark.slow
def test_a_set_that_was_saved_to_disk(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = repository(tmp_path / "own", "train", "test", image="img")
    program = (
        "import datasets, sys; kind = datasets.ClassLabel(names=['no', 'yes']); "
        "datasets.load_dataset(sys.argv[1]).cast_column('label', kind).save_to_disk(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", program, folder, tmp_path / "saved"], check=True, capture_output=True)
    inputs, labels, names, _ = load(f"hf:{tmp_path / 'saved'}").strip().split("|")
    assert inputs == str(PIXELS.transpose(0, 3, 1, 2).ravel().tolist())
    assert labels == "[1, 0, 1, 0, 1, 0]"
    assert names == "('no', 'yes')"


@pytest.mark.slow
def test_an_empty_cache_without_a_connection_says_what_to_run(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    told = load("hf:nobody/nothing")
    assert "nobody/nothing cannot be had" in told
    assert "run once where there is one: python -c" in told
