"""Checkpoints are judged on the split that they were trained on, and looked at before anything is made of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.data import published_order, splits
from expunge.store.directory import RunDirectory
from tests.command_line import Terminal
from tests.unit import test_checkpoints as layouts

CLASSES = 5
MODEL = ("--model", "mlp:hidden=(64,)", "--epochs", 40, "--batch-size", 32, "--lr", 0.1)


def noise(folder: Path, side: int, train: int, test: int, classes: int) -> str:
    """Images and labels that have nothing to do with each other: they are memorised or not known at all."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.permutation(np.arange(count) % classes)
    np.savez(folder / f"noise{side}.npz", **arrays)
    return f"npz:{folder / f'noise{side}.npz'}"


@pytest.fixture
def data(tmp_path: Path) -> str:
    return noise(tmp_path, 4, 300, 100, CLASSES)


def parts(run: Path) -> tuple[Tensor, Tensor]:
    """The ids of the training and of the validation images of a run."""
    stored = RunDirectory(run).tensors("predictions")
    return stored["train.ids"], stored["validation.ids"]


def released(data: str, seed: int) -> Tensor:
    with np.load(data.removeprefix("npz:")) as arrays:
        return splits.released(torch.from_numpy(arrays["train_labels"]), 0.1, seed)[1]


@pytest.fixture
def checkpoint(tmp_path: Path, data: str, terminal: Terminal) -> Path:
    """A model that has memorised the training images of the released split, as the original repositories write it."""
    run = terminal.folder("train", "--data", data, *MODEL, "--split", "released", "--runs", tmp_path / "elsewhere")
    state = RunDirectory(run).tensors("model")
    renamed = {
        name.removeprefix("network.").replace("normalise.", "normalize."): value.flatten()
        if "normal" in name
        else value
        for name, value in state.items()
    }
    torch.save({"state_dict": renamed, "epoch": 40}, tmp_path / "0model_SA_best.pth.tar")
    return tmp_path / "0model_SA_best.pth.tar"


def test_splits_by_name_and_by_ids_from_the_command_line(tmp_path: Path, data: str, terminal: Terminal) -> None:
    train = ["train", "--data", data, "--model", "logistic", "--epochs", 1, "--runs", tmp_path / "runs"]
    (tmp_path / "held.txt").write_text("7\n2\n")
    seeds = [terminal.folder(*train, "--split", "released", *more) for more in ([], ["--split-seed", 2])]
    assert torch.equal(parts(seeds[0])[1], released(data, 1))
    assert torch.equal(parts(seeds[1])[1], released(data, 2))
    train_ids, validation = parts(terminal.folder(*train, "--validation-ids", tmp_path / "held.txt"))
    assert validation.tolist() == [2, 7]
    assert len(train_ids) == 298
    refused = terminal.refused(*train, "--split", "released", "--validation-ids", "3+4")
    assert "give the released split or the ids of the validation images" in refused

    step = ["--forget", "released:27,seed=1", "retrain", "--epochs", 1]
    forgotten = RunDirectory(terminal.folder("unlearn", "--run", seeds[0], *step)).tensors("predictions")["step.ids"]
    positions = np.random.RandomState(0).choice(270, 27, replace=False)
    assert torch.equal(forgotten, parts(seeds[0])[0][torch.from_numpy(positions)].sort().values)


def test_a_checkpoint_of_the_originals_is_read_with_their_split(tmp_path: Path, terminal: Terminal) -> None:
    data = noise(tmp_path, 32, 140, 20, layouts.CLASSES)
    source, text = layouts.original("resnet18"), layouts.LAYOUTS["resnet18"][0]
    torch.save({"state_dict": source.state_dict()}, tmp_path / "theirs.pth.tar")
    without = {name: value for name, value in source.state_dict().items() if not name.startswith("normalize.")}
    torch.save(without, tmp_path / "others.pt")
    command = ["--data", data, "--model", text, "--runs", tmp_path / "runs"]

    theirs = Path(terminal("import", tmp_path / "theirs.pth.tar", *command))
    assert "split: released, seed 1, as the checkpoint has the layout of the original repositories" in terminal.error
    assert torch.equal(parts(theirs)[1], released(data, 1))
    others = Path(terminal("import", tmp_path / "others.pt", *command))
    assert "split: ours, seed 0 (" in terminal.error
    train = terminal.folder("train", *command, "--epochs", 0)
    assert torch.equal(parts(others)[1], parts(train)[1])
    assert not torch.equal(parts(others)[1], parts(theirs)[1])

    command[:0] = ["import", tmp_path / "theirs.pth.tar"]
    assert torch.equal(parts(terminal.folder(*command, "--split", "ours"))[1], parts(train)[1])
    assert torch.equal(parts(terminal.folder(*command, "--split-seed", 2))[1], released(data, 2))
    by_ids = terminal(*command, "--validation-ids", "3+17")
    assert "split: validation images by their ids" in terminal.error
    assert parts(Path(by_ids))[1].tolist() == [3, 17]


def test_the_accuracy_of_a_checkpoint_is_printed_and_another_split_is_noticed(
    tmp_path: Path, data: str, checkpoint: Path, terminal: Terminal
) -> None:
    command = ["import", checkpoint, "--data", data, *MODEL[:2], "--runs", tmp_path / "runs"]
    right = Path(terminal(*command))
    assert "accuracy: train 100.0%, validation" in terminal.error
    assert "warning" not in terminal.error
    notes = RunDirectory(right).record()["notes"]
    assert notes["warnings"] == []
    assert notes["accuracy"]["train"] == 100
    assert set(notes["accuracy"]) == {"train", "validation", "test"}
    terminal.folder(*command, "--split", "ours")
    assert "warning: accuracy on the validation images" in terminal.error, "although it is quiet"
    assert "that is on another split; name its own by --split, --split-seed or --validation-ids" in terminal.error
    terminal.folder(*command, "--split", "ours")  # the run is there already
    assert "warning: accuracy on the validation images" in terminal.error


def test_an_accuracy_near_chance_is_a_warning(tmp_path: Path, data: str, checkpoint: Path, terminal: Terminal) -> None:
    """The classes of a data set in another order: every weight fits, and nothing is right."""
    content = torch.load(checkpoint)
    last = [name for name, value in content["state_dict"].items() if len(value) == CLASSES]
    assert len(last) == 2
    for name in last:
        content["state_dict"][name] = content["state_dict"][name].roll(1, 0)
    torch.save(content, tmp_path / "rolled.pth.tar")
    run = terminal("import", tmp_path / "rolled.pth.tar", "--data", data, *MODEL[:2], "--runs", tmp_path / "runs")
    assert "warning: accuracy on the training split is 0.0%, near chance (20.0%)" in terminal.error
    assert len(RunDirectory(Path(run)).record()["notes"]["warnings"]) == 1


def test_images_in_another_order_than_the_published_are_a_warning(
    tmp_path: Path, data: str, checkpoint: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["import", checkpoint, "--data", data, *MODEL[:2], "--runs", tmp_path / "runs"]
    with np.load(data.removeprefix("npz:")) as arrays:
        first = tuple(arrays["train_labels"][:10].tolist())
    monkeypatch.setitem(published_order.FIRST_LABELS, (300, CLASSES), first)
    terminal(*command)
    assert "warning" not in terminal.error
    monkeypatch.setitem(published_order.FIRST_LABELS, (300, CLASSES), (*first[1:], first[0]))
    terminal(*command, "--seed", 1)
    assert "warning: the training images are not in the order of the published files" in terminal.error
    terminal(*command, "--seed", 1, "--validation-ids", "3+4+5")
    assert "order of the published files" not in terminal.error
