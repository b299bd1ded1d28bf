"""Training, unlearning and retraining that start from a file of trained weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.store.directory import RunDirectory
from tests.command_line import Terminal
from tests.unit import test_checkpoints as layouts

QUICK = ["--data", "digits", "--limit", 60, "--test-limit", 20, "--batch-size", 20, "--epochs", 1]
MODEL = "resnet18:width=2,stem=imagenet"


def published() -> dict[str, Tensor]:
    """A state dict with the names of torchvision's resnet18, for one channel and seven classes."""
    torch.manual_seed(0)
    network = layouts.ResNet(2, (2, 2, 2, 2), (3, 3), True, "fc")
    network.conv1 = nn.Conv2d(1, 2, 7, 2, 3, bias=False)
    return {name: value for name, value in network.state_dict().items() if not name.startswith("normalize.")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(published(), tmp_path / "resnet18.safetensors")
    return tmp_path / "resnet18.safetensors"


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(RunDirectory(folder).weights())


def trained(terminal: Terminal, model: str, tmp_path: Path, lr: float = 0.0) -> Path:
    return terminal.folder("train", "--model", model, *QUICK, "--lr", lr, "--runs", tmp_path / "runs")


PLACES = {"stem.0.weight": "conv1.weight", "stages.7.body.3.weight": "layer4.1.conv2.weight"}


@pytest.mark.parametrize("end", ["safetensors", "pth"])
def test_training_starts_from_the_file_and_draws_the_head_of_other_classes(
    end: str, file: Path, tmp_path: Path, terminal: Terminal
) -> None:
    given = published()
    if end == "pth":
        old = {name: value for name, value in given.items() if not name.endswith("num_batches_tracked")}
        file = tmp_path / "resnet18.pth"
        torch.save(old, file)
    run = trained(terminal, f"{MODEL},pretrained={file}", tmp_path)
    found = weights(run)
    assert found["network.fc.weight"].shape == (10, 16)
    same = [
        name for name, value in found.items() if any(value.shape == w.shape and value.equal(w) for w in given.values())
    ]
    assert set(found) - set(same) == {"network.fc.weight", "network.fc.bias"}
    assert all(torch.equal(found[f"network.{ours}"], given[theirs]) for ours, theirs in PLACES.items())
    (note,) = RunDirectory(run).record()["notes"]["pretrained"]
    assert "start from" in note
    assert "the head (fc), which has another shape, does not" in note


def test_the_head_of_the_same_classes_is_loaded_and_the_user_is_told(
    file: Path, tmp_path: Path, terminal: Terminal
) -> None:
    given = published() | {"fc.weight": torch.randn(10, 16), "fc.bias": torch.randn(10)}
    save_file(given, file)
    text = f"{MODEL},pretrained={file}"
    folder = Path(terminal("train", "--model", text, *QUICK, "--lr", 0, "--runs", tmp_path / "runs"))
    assert "the weights start from" in terminal.error
    assert "the head (fc)" not in terminal.error
    assert torch.equal(weights(folder)["network.fc.weight"], given["fc.weight"])


def test_retraining_starts_from_the_file_too_and_other_methods_do_not_need_it(
    file: Path, tmp_path: Path, terminal: Terminal
) -> None:
    run = trained(terminal, f"{MODEL},pretrained={file}", tmp_path, 0.1)
    given = published()
    assert not torch.equal(weights(run)["network.stem.0.weight"], given["conv1.weight"])
    forget = ["unlearn", "--run", run, "--forget", "random:10%"]
    retrained = weights(terminal.folder(*forget, "retrain", "--epochs", 1, "--lr", 0))
    assert all(torch.equal(retrained[f"network.{ours}"], given[theirs]) for ours, theirs in PLACES.items())
    file.rename(tmp_path / "moved.safetensors")
    assert terminal.folder(*forget, "finetune", "--epochs", 1).is_dir()
    assert "resnet18.safetensors cannot be read" in terminal.refused(*forget, "retrain", "--epochs", 2)
    save_file({name: value + 1 for name, value in given.items()}, file)
    assert "its bytes have changed" in terminal.refused(*forget, "retrain", "--epochs", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.0.conv1.weight": None}, "layer3.0.conv1.weight is missing"),
        ({"layer9.weight": torch.ones(1)}, "layer9.weight is unknown"),
        ({"layer3.0.conv1.weight": torch.ones(3, 3)}, "layer3.0.conv1.weight has shape (3, 3)"),
        ({"conv1.weight": torch.ones(2, 1, 3, 3)}, "conv1.weight has shape (2, 1, 3, 3)"),
    ],
)
def test_other_weights_than_the_head_must_fit(
    change: dict[str, Tensor | None], message: str, file: Path, tmp_path: Path, terminal: Terminal
) -> None:
    content = {name: value for name, value in (published() | change).items() if value is not None}
    save_file(content, file)
    found = terminal.refused("train", "--model", f"{MODEL},pretrained={file}", *QUICK, "--runs", tmp_path)
    assert message in found
    file.write_bytes(file.read_bytes()[:200])
    found = terminal.refused("train", "--model", f"{MODEL},pretrained={file}", *QUICK, "--runs", tmp_path)
    assert "is damaged" in found


def test_a_head_of_two_layers_is_trained_alone_and_statistics_follow(
    file: Path, tmp_path: Path, terminal: Terminal
) -> None:
    """As Hessian-free unlearning trains its network for LFW."""
    text = f"{MODEL},pretrained={file},head=5,only_head=true"
    run = trained(terminal, text, tmp_path, 0.1)
    found, given = RunDirectory(run).model().state, published()
    assert all(torch.equal(found[f"network.{ours}"], given[theirs]) for ours, theirs in PLACES.items())
    shapes = {name: tuple(w.shape) for name, w in found.items() if "fc" in name and "weight" in name}
    assert shapes == {"network.fc.0.weight": (5, 16), "network.fc.3.weight": (10, 5)}
    assert not torch.equal(found["network.stem.1.running_mean"], given["bn1.running_mean"])
    before = weights(run)
    after = weights(terminal.folder("unlearn", "--run", run, "--forget", "random:10%", "finetune", "--epochs", 1))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if ".fc." in name}
