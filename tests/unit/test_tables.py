"""Sets of vectors: tables of one's own, and the published ones with their preprocessing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from expunge.core.errors import RequestError
from expunge.data.dataset import Dataset
from expunge.data.normalisation import InputNormalisation
from expunge.store.directory import RunDirectory
from tests import readers
from tests.command_line import Terminal
from tests.problems import dataset


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))


def scaled(data: Dataset) -> torch.Tensor:
    """The training features as the network sees them."""
    return InputNormalisation(data.mean, data.std)(data.train.inputs)


def test_wine_is_the_published_one() -> None:
    data = dataset("wine")
    from sklearn.datasets import load_wine

    features, labels = load_wine(return_X_y=True)
    train, test = [158, 137, 98, 159, 38, 108, 85, 68], [19, 45, 140, 30, 67, 16, 119, 174]
    np.testing.assert_array_equal(data.train.inputs[:8], features[train].astype(np.float32))
    np.testing.assert_array_equal(data.test.inputs[:8], features[test].astype(np.float32))
    assert data.train.labels[:8].tolist() == labels[train].tolist()
    assert torch.bincount(data.train.labels).tolist() == [45, 57, 40]
    assert torch.bincount(data.test.labels).tolist() == [14, 14, 8]
    assert data.mean[:3] == pytest.approx((12.979085, 2.373521, 2.360845), abs=5e-7)
    assert data.std[:3] == pytest.approx((0.817223, 1.139899, 0.278233), abs=5e-7)
    assert scaled(data)[0, :3].tolist() == pytest.approx([1.665294, -0.608406, 1.218962], abs=2e-6)
    assert data.train.shape == (13,)
    assert not torch.equal(dataset("wine:seed=6").train.inputs, data.train.inputs)


OBESITY = """Gender,Age,Height,Weight,family_history_with_overweight,FAVC,FCVC,NCP,CAEC,SMOKE,CH2O,SCC,FAF,TUE,CALC,\
MTRANS,NObeyesdad
Female,21,1.62,64,yes,no,2,3,Sometimes,no,2,no,0,1,no,Public_Transportation,Normal_Weight
Male,23,1.8,77,yes,yes,3,3,Always,yes,2,yes,2,1,Frequently,Walking,Obesity_Type_I
Male,27,1.78,89.8,no,no,2,1,Frequently,no,2,no,2,0,Sometimes,Automobile,Insufficient_Weight
Female,22,1.5,50,no,yes,1,3,no,no,1,no,0,0,Always,Bike,Normal_Weight
Male,30,1.9,99,yes,yes,2,2,Sometimes,no,3,no,1,2,no,Motorbike,Overweight_Level_I
"""


def test_obesity(tmp_path: Path) -> None:
    readers.write(tmp_path, {"obesity/ObesityDataSet_raw_and_data_sinthetic.csv": OBESITY.encode()})
    data = dataset("obesity")
    assert data.class_names == ("Insufficient_Weight", "Normal_Weight", "Obesity_Type_I", "Overweight_Level_I")
    rows = torch.cat([data.train.inputs, data.test.inputs])
    rows = rows[rows[:, 0].argsort()]
    assert rows.shape == (5, 19)
    # Age, Height, Weight, FCVC, NCP, CAEC, CH2O, FAF, TUE, CALC; male, family, FAVC, SMOKE, SCC; Bike .. Walking
    first = [21, 1.62, 64, 2, 3, 1, 2, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    third = [23, 1.8, 77, 3, 3, 3, 2, 2, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 1]
    assert rows[0].tolist() == pytest.approx(first)
    assert rows[2].tolist() == pytest.approx(third)
    assert (len(data.train), len(data.test)) == (3, 2)
    bad = OBESITY.replace("Always,yes", "Hourly,yes")
    readers.write(tmp_path, {"obesity/ObesityDataSet_raw_and_data_sinthetic.csv": bad.encode()})
    with pytest.raises(RequestError, match="column CAEC: 'Hourly' is none of no, Sometimes, Frequently, Always"):
        dataset("obesity")


def test_hapt_counts_classes_from_zero(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(12, 561))
    text = "\n".join(" ".join(f"{value: .7e}" for value in row) for row in features)
    labels = "\n".join(str(label) for label in range(1, 13))
    for part in ("train", "test"):
        readers.write(
            tmp_path,
            {f"hapt/{part.title()}/X_{part}.txt": text.encode(), f"hapt/{part.title()}/y_{part}.txt": labels.encode()},
        )
    data = dataset("hapt")
    assert data.train.labels.tolist() == list(range(12))
    assert data.num_classes == 12
    np.testing.assert_allclose(data.test.inputs, features, rtol=1e-6)
    (tmp_path / "hapt/Train/y_train.txt").write_text(labels.replace("12", "13"))
    with pytest.raises(RequestError, match="Train should hold 561 features and a label of 1 to 12 for each row"):
        dataset("hapt")
    (tmp_path / "hapt/Train/y_train.txt").write_text("one")
    with pytest.raises(RequestError, match=r"y_train.txt cannot be read"):
        dataset("hapt")


ADULT = [
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Single, White, Male, 2174, 0, 40, Cuba, <=50K",
    "39, State-gov, 11111, Bachelors, 9, Never-married, Adm-clerical, Single, White, Male, 2174, 0, 40, Cuba, <=50K",
    "23, Private, 83311, HS-grad, 13, Divorced, Sales, Husband, White, Male, 0, 0, 10, Italy, >50K",
    "24, Private, 83311, HS-grad, 13, Divorced, Sales, Husband, White, Male, 100, 1, 11, Italy, >50K",
    "50, ?, 83311, HS-grad, 13, Divorced, Sales, Husband, White, Male, 0, 0, 13, Italy, <=50K",
    "64, Private, 83311, HS-grad, 13, Divorced, Sales, Wife, Black, Female, 101, 1902, 99, Peru, <=50K",
    "64, Private, 83311, HS-grad, 13, Divorced, Sales, Wife, White, Female, 101, 1902, 99, Peru, <=50K",
]
ADULT_TEST = ["|1x3 Cross validator", *(row + "." for row in ADULT[:4])]


def write_adult(folder: Path) -> None:
    readers.write(
        folder,
        {"adult/adult_train.txt": "\n".join(ADULT).encode(), "adult/adult_test.txt": "\n".join(ADULT_TEST).encode()},
    )


def test_adult(tmp_path: Path) -> None:
    """Two rows are one after fnlwgt and educationNum are left out, one lacks a value; Peru is in one file only."""
    write_adult(tmp_path)
    data = dataset("adult")
    rows = torch.cat([data.train.inputs, data.test.inputs]).tolist()
    labels = torch.cat([data.train.labels, data.test.labels]).tolist()
    # age, gain, loss, hours; Private, State-gov; Bachelors, HS-grad; Divorced, Never-married;
    # Adm-clerical, Sales; Cuba, Italy
    a = [4, 2, 0, 4, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0]
    b = [0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1]
    c = [1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1]
    d = [7, 1, 2, 10, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0]
    assert sorted(zip(rows, labels, strict=True)) == sorted([(a, 0), (b, 1), (c, 1), (d, 0), (d, 0)])
    assert (len(data.train), len(data.test)) == (3, 2)


def test_columns_of_adult_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    write_adult(tmp_path)
    program = "from tests.problems import dataset; print(dataset('adult').train.fingerprint())"
    told = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1
    assert told.pop().strip() == dataset("adult").train.fingerprint().encode()


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("adult_train.txt", "39,", "101,", "age should be numbers above 0, at most 100"),
        ("adult_train.txt", "2174,", "many,", "capitalGain should be numbers"),
        ("adult_train.txt", "<=50K", "50K", "column income: '50K' is none of <=50K, >50K"),
        ("adult_train.txt", ", Cuba", "", r"adult_train.txt, line 1 should hold 15 values"),
    ],
)
def test_damaged_adult(tmp_path: Path, name: str, before: str, after: str, message: str) -> None:
    write_adult(tmp_path)
    path = tmp_path / "adult" / name
    path.write_text(path.read_text().replace(before, after, 2 if before == "39," else 1))
    with pytest.raises(RequestError, match=message):
        dataset("adult")


def own(path: Path, count: int = 20) -> Path:
    generator = np.random.default_rng(0)
    columns = {
        "height": generator.normal(170, 9, count),
        "town": [("Rome", "Oslo", "Bern")[index % 3] for index in range(count)],
        "label": [("yes", "no")[index % 2] for index in range(count)],
    }
    table = pl.DataFrame(columns)
    if path.suffix == ".npz":
        labels = np.arange(count) % 2 * 5 + 10
        np.savez(path, height=columns["height"], more=generator.normal(size=(count, 2)), label=labels)
    elif path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    return path


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_table_of_ones_own(tmp_path: Path, end: str) -> None:
    path = own(tmp_path / f"own{end}")
    data = dataset(f"table:{path}")
    assert data.class_names == ("no", "yes")
    assert (len(data.train), len(data.test)) == (16, 4)
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    rows = torch.cat([data.train.inputs, data.test.inputs])
    assert rows[:, 1:].sum(0).tolist() == [6, 7, 7], "Bern, Oslo, Rome"
    assert scaled(data).mean(0).tolist() == pytest.approx([0] * 4, abs=1e-5)
    assert scaled(data).std(0, unbiased=False).tolist() == pytest.approx([1] * 4, rel=1e-5)
    assert dataset(f"table:{path}").train.fingerprint() == data.train.fingerprint()
    other = own(tmp_path / f"other{end}", 6)
    both = dataset(f"table:{path},test={other}")
    assert (len(both.train), both.test.labels.tolist()) == (20, [1, 0, 1, 0, 1, 0])


def test_arrays_as_a_table(tmp_path: Path) -> None:
    data = dataset(f"table:{own(tmp_path / 'own.npz')}")
    assert data.class_names == ("10", "15")
    assert data.train.shape == (3,)


def test_labels_of_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{n},{n % 12 - 1}\n" for n in range(60)))
    data = dataset(f"table:{tmp_path / 'a.csv'},label=y")
    assert data.class_names == tuple(str(n) for n in range(-1, 11))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no rows"),
        ("x,label\n", "holds no rows"),
        ("x,x,label\n1,2,3\n", "two columns of one name"),
        ("x,label\n1,a\n2\n", "line 3 should hold 2 values"),
        ("x,label\n1,a\n,b\n", "line 3 should hold 2 values: write a table with a header"),
        ("x,y\n1,2\n", "has no column label, only x, y"),
        ("label\na\n", "has no column beside label"),
        ("x,label\nnan,a\n1,a\n2,a\n3,a\n4,a\n", "a feature is NaN or infinite"),
        ("x,label\n" + "".join(f"{10**9 + n},a\n" for n in range(9)), "vary too little around a large number"),
        ("x,label\n1,a\n2,b\n", "a share of 0.2 of each class is no row"),
        ('x,label\n1,"a\n', "a share of 0.2"),
        ("x,label\n" + "1" * 200_000 + ",a\n", "cannot be read"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(RequestError, match=rf"a.csv.*{message}"):
        dataset(f"table:{tmp_path / 'a.csv'}")


def test_another_file_must_fit(tmp_path: Path) -> None:
    own(tmp_path / "a.csv")
    for content, message in (
        ("height,label\n1,no\n", "b.csv has other columns than"),
        ("height,town,label\n1,Rome,x\n", "lacks: x"),
    ):
        (tmp_path / "b.csv").write_text(content)
        with pytest.raises(RequestError, match=message):
            dataset(f"table:{tmp_path / 'a.csv'},test={tmp_path / 'b.csv'}")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(RequestError, match=r"a.parquet cannot be read"):
        dataset(f"table:{tmp_path / 'a.parquet'}")
    pl.DataFrame({"x": [[1]], "label": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(RequestError, match="the column x holds neither numbers nor text"):
        dataset(f"table:{tmp_path / 'a.parquet'}")


def test_vectors_from_the_command_line(tmp_path: Path, terminal: Terminal) -> None:
    runs = ("--runs", tmp_path / "runs")
    trained = terminal.folder("train", "--data", "wine", "--model", "mlp:hidden=64", "--epochs", "40", *runs)
    forgotten = terminal.folder("unlearn", "--run", trained, "--forget", "random:10%", "finetune")
    logits = RunDirectory(forgotten).tensors("predictions")
    right = logits["test.logits"].argmax(1) == logits["test.labels"]
    assert right.float().mean() > 0.9
    refused = terminal.refused("train", "--data", "wine", "--model", "small_cnn", *runs)
    assert "small_cnn" in refused or "images" in refused
