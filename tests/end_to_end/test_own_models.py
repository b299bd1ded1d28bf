"""Two users with models and photos of their own, from nothing to an unlearned model, on the real command line."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.cli import _console
from expunge.core import own_code
from expunge.store.directory import RunDirectory
from tests import problems, vision
from tests.command_line import ROOT, Terminal

README = (ROOT / "README.md").read_text()
OWN = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class Net" in block)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: own.py, photos of two classes in train/ and test/, people to forget; nothing is trusted."""
    monkeypatch.setenv(own_code.CONFIG, str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "people.txt").write_text("0\n3\n")
    rows = ["train/cat/0.png,anna", "train/dog/4.png,anna", "train/dog/2.png,ben"]
    (tmp_path / "people.csv").write_text("\n".join(["photo,person", *rows]))
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = draw.integers(0, 120, (16, 16, 3), dtype=np.uint8) + np.uint8(120 * label)
                Image.fromarray(picture).save(folder / f"{number}.png")
    return tmp_path


TRAIN = ["train", "--data", "folder:photos", "--model", "own.py:Net,width=8", "--epochs", 2, "--batch-size", 8]


def images(part: str = "test") -> Tensor:
    """The photos in the order of ids, in 0..1."""
    paths = [path for name in ("cat", "dog") for path in sorted(Path("photos", part, name).glob("*.png"))]
    arrays = [np.array(Image.open(path)) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def check_the_same(model: nn.Module, folder: Path, run: Path) -> None:
    """The exported weights in a plain module give the predictions of the run on the test images."""
    model.load_state_dict(load_file(folder / "model.safetensors"))
    told = json.loads((folder / "preprocessing.json").read_text())
    mean, std = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))
    assert (told["size"], told["channels"], told["classes"]) == ([16, 16], 3, ["cat", "dog"])
    expected = RunDirectory(run).tensors("predictions")["test.logits"]
    torch.testing.assert_close(model.eval()((images() - mean) / std), expected, rtol=1e-4, atol=1e-4)


def own_net(width: int = 8) -> nn.Module:
    space: dict[str, type[nn.Module]] = {}
    exec(OWN, space)
    return space["Net"](2, width)  # type: ignore[call-arg]


def follow(first: str, terminal: Terminal) -> None:
    """Run the commands of the README's block that begins so, on small images and for one epoch."""
    block = next(each for each in re.findall(r"```\n(expunge .*?)```", README, re.S) if each.startswith(first))
    for line in re.sub(r"--epochs \d+", "--epochs 1", re.sub(r",size=\d+", "", block)).splitlines():
        words = shlex.split(line.replace("timm:resnet50", "timm:test_resnet"))[1:]
        found = [re.fullmatch(r"(runs/[a-z-]+-)\.\.\.", word) for word in words]
        folders = [each and next(Path().glob(f"{each[1]}*")) for each in found]
        terminal(*(folder or word for folder, word in zip(folders, words, strict=True)))


@pytest.mark.slow
def test_a_module_of_ones_own_from_training_to_an_exported_model(home: Path, terminal: Terminal) -> None:
    refused = terminal.refused(*TRAIN)
    assert "own.py:Net (SHA-256 " in refused
    assert "add --trust" in refused
    follow("expunge train --data folder:photos", terminal)
    run, tuned = (next(Path("runs").glob(f"{name}-*")) for name in ("train", "unlearn-finetune"))
    check_the_same(own_net(32), Path("for-others"), tuned)
    card = Path("for-others", "model_card.md").read_text()
    assert "| forgotten images | 2 |" in card
    assert "| method | `finetune` |" in card
    assert "compared with a model retrained without them" in card
    assert "| unlearning_accuracy | " in card
    assert "people.txt" not in card
    assert str(home) not in card
    (home / "own.py").write_text(OWN + "\n")
    forget = ["unlearn", "--run", run, "--forget", "ids:people.txt"]
    assert "own.py has changed since the model was made" in terminal.refused(*forget, "scrub", "--epochs", 1)


def test_another_machine_asks_once(home: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs are copied to someone who has not trusted the source; at a terminal the question is put once."""
    run = terminal.folder(*TRAIN, "--trust")
    shutil.rmtree(home / "config")
    tune = ["unlearn", "--run", run, "--forget", "random:10%", "finetune", "--epochs"]
    assert "add --trust" in terminal.refused(*tune, 1)
    at_terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(_console, "sys", SimpleNamespace(stdin=at_terminal, stderr=at_terminal))
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda: asked.append("") or ("y" if len(asked) > 1 else ""))
    assert "add --trust" in terminal.refused(*tune, 1)
    terminal(*tune, 1, "--quiet")
    terminal(*tune, 2, "--quiet")
    assert len(asked) == 2


def test_a_bench_of_ones_own_model_asks_before_its_processes_start(home: Path, terminal: Terminal) -> None:
    data = {"source": "folder:photos"}
    recipe = {"name": "mine", "data": data, "model": "own.py:Net", "forget": "random:10%", "methods": ["finetune"]}
    (home / "mine.json").write_text(json.dumps(recipe | {"training": {"epochs": 1}, "seeds": 1}))
    for command in ("bench", "tune"):
        assert "is a program that building the model executes" in terminal.refused(command, "mine.json", "--quiet")
        assert not list(home.glob(f"{command}-mine"))


def test_a_network_of_timm_in_a_file_is_unlearned_and_goes_back_to_timm(home: Path, terminal: Terminal) -> None:
    vision.timm()
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=2).eval()
    save_file(theirs.state_dict(), home / "mine.safetensors")
    follow("expunge import mine.safetensors", terminal)
    run, tuned = (next(Path("runs").glob(f"{name}-*")) for name in ("imported", "unlearn-finetune"))
    stored = RunDirectory(run).tensors("predictions")["test.logits"]
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(stored, theirs((images() - mean) / std), rtol=1e-4, atol=1e-4)
    check_the_same(timm.create_model("test_resnet", num_classes=2), Path("back-to-timm"), tuned)
    card = Path("back-to-timm", "model_card.md").read_text()
    assert "import timm" in card
    assert "| forgotten images | 3 |" in card
    assert not re.search("anna|ben|dog/", card)
    wrong = ["import", "mine.safetensors", "--model", "timm:test_resnet", "--data", "folder:photos", "--mean", 0.5]
    assert "mean and std of the inputs go together" in terminal.refused(*wrong)


def test_a_pruned_run_goes_out_and_comes_in_again(home: Path, terminal: Terminal) -> None:
    options = ["--data", "folder:photos", "--model", "resnet18:width=4"]
    run = terminal.folder("train", *options, "--epochs", 1, "--batch-size", 8)
    sparse = terminal.folder("prune", "--run", run, "--epochs", 1, "magnitude", "--rate", 0.5)
    back = terminal.folder("import", sparse / "model.safetensors", *options)
    assert json.loads((back / "config.json").read_text())["data"]["split"] == "ours"
    before, after = (RunDirectory(each).model() for each in (sparse, back))
    assert problems.same(before.state, after.state)
    assert problems.same(before.kept, after.kept)
    folder = Path(terminal("export", sparse, "--out", "dense"))
    plain = load_file(folder / "model.safetensors")
    assert {"conv1.weight", "layer4.1.bn2.running_var", "fc.bias"} <= set(plain)
    told = json.loads((folder / "preprocessing.json").read_text())
    again = terminal.folder(
        "import", folder / "model.safetensors", *options, "--mean", *told["mean"], "--std", *told["std"]
    )
    assert problems.same(RunDirectory(again).model().state, before.state)


def test_pruning_of_an_import_rewinds_to_the_weights_beside_its_checkpoint(home: Path, terminal: Terminal) -> None:
    torch.manual_seed(0)
    early, late = own_net().state_dict(), own_net().state_dict()
    (home / "theirs").mkdir()
    torch.save({"state_dict": late}, home / "theirs" / "0model_SA_best.pth.tar")
    torch.save(early, home / "theirs" / "epoch_2_rewind_weight.pt")
    options = ["--data", "folder:photos", "--model", "own.py:Net,width=8", "--epochs", 2, "--trust"]
    run = terminal.folder("import", home / "theirs" / "0model_SA_best.pth.tar", *options)
    prune = ["prune", "--run", run, "--rewind"]
    shutil.rmtree(home / "theirs")
    sparse = RunDirectory(terminal.folder(*prune, 2, "magnitude", "--rate", 0.5))
    model = sparse.model()
    assert model.kept, "epochs 2 to 2 train nothing: kept weights are the early ones, chosen by the late ones"
    for name, mask in model.kept.items():
        whole = name.removeprefix("network.")
        assert torch.equal(model.state[name], early[whole] * mask)
        assert float(late[whole].abs()[~mask].max()) <= float(max(late[key].abs().max() for key in late))
    assert "epoch 1 was not imported (imported: 2): import again with epoch_1_rewind_weight.pt" in terminal.refused(
        *prune, 1, "magnitude"
    )


class Hub:
    """Stands for the Hub: what is uploaded is kept."""

    calls: ClassVar[list[tuple[str, Mapping[str, object]]]] = []

    def create_repo(self, name: str, **more: object) -> None:
        self.calls.append((name, more))
        if name == "me/closed":
            raise ConnectionError("the network is unreachable")

    def upload_folder(self, **more: object) -> str:
        self.calls.append(("", more))
        return f"https://hub/{more['repo_id']}"


def test_an_export_is_uploaded_as_a_private_repository(
    home: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = terminal.folder("train", "--model", "logistic", "--epochs", 1, "--limit", 40)
    hub = ModuleType("huggingface_hub")
    hub.HfApi = Hub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setattr(Hub, "calls", [])
    assert terminal("export", run, "--hub", "me/model") == "https://hub/me/model"
    (name, made), (_, sent) = Hub.calls
    assert (name, made["private"]) == ("me/model", True)
    folder = Path(str(sent["folder_path"]))
    assert sorted(path.name for path in folder.iterdir()) == sorted(sent["allow_patterns"])  # type: ignore[call-overload]
    refused = terminal.refused("export", run, "--hub", "me/closed")
    assert "is written, but cannot be uploaded to me/closed (the network is unreachable)" in refused
    assert "hf upload me/closed" in refused
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "expunge[hub]" in terminal.refused("export", run, "--hub", "me/model")
    card = (folder / "model_card.md").read_text()
    assert "| method | train, nothing forgotten |" in card
