"""Checkpoints as the original repositories write them: the networks below have their names, written anew."""

import io
import os
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from expunge.core import checkpoints
from expunge.core.errors import RequestError
from expunge.core.weights import load, trainable
from expunge.data.normalisation import with_normalisation
from tests import problems

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES = 7


class Normalise(nn.Module):
    """The original input step: buffers of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean[None, :, None, None]) / self.std[None, :, None, None]


class Block(nn.Module):
    """A residual block: ``sizes`` of its convolutions; the shortcut is a projection, zero padding, or nothing."""

    def __init__(self, before: int, width: int, stride: int, sizes: tuple[int, ...], project: bool) -> None:
        super().__init__()
        channels = [before, *[width] * (len(sizes) - 1), width * (4 if len(sizes) == 3 else 1)]
        self.strides = [stride if k == (1 if len(sizes) == 3 else 0) else 1 for k in range(len(sizes))]
        for k, size in enumerate(sizes):
            setattr(self, f"conv{k + 1}", nn.Conv2d(*channels[k : k + 2], size, self.strides[k], size // 2, bias=False))
            setattr(self, f"bn{k + 1}", nn.BatchNorm2d(channels[k + 1]))
        changes = stride != 1 or before != channels[-1]
        self.downsample: nn.Module | None = None
        if changes and project:
            shortcut = nn.Conv2d(before, channels[-1], 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels[-1]))
        self.pad = (channels[-1] - before) // 2 if changes and not project else 0

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for k in range(len(self.strides)):
            out = getattr(self, f"bn{k + 1}")(getattr(self, f"conv{k + 1}")(out))
            out = functional.relu(out) if k + 1 < len(self.strides) else out
        if self.pad:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(out + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, width: int, depths: tuple[int, ...], sizes: tuple[int, ...], project: bool, last: str) -> None:
        super().__init__()
        self.normalize = Normalise()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        before, self.depth, self.last = width, len(depths), last
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(Block(before, width * 2**stage, stride, sizes, project))
                before = width * 2**stage * (4 if len(sizes) == 3 else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        setattr(self, last, nn.Linear(before, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(self.normalize(x))))
        for stage in range(self.depth):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.last)(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Vgg(nn.Module):
    """VGG-16, configuration D, pooled between the stages and not after the last; ``dropout`` shifts the numbers."""

    def __init__(self, width: int, bias: bool, grid: int, dropout: bool = False) -> None:
        super().__init__()
        self.normalize, self.grid = Normalise(), grid
        layers: list[nn.Module] = []
        before = 3
        for stage in ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)):
            layers += [nn.MaxPool2d(2, 2)] * bool(layers)
            for multiple in stage:
                layers += [nn.Conv2d(before, multiple * width, 3, 1, 1, bias=bias), nn.BatchNorm2d(multiple * width)]
                layers.append(nn.ReLU())
                before = multiple * width
        self.features = nn.Sequential(*layers)
        hidden, last = 4 * width, nn.Linear(8 * width if grid == 1 else 4 * width, CLASSES)
        between = [nn.ReLU(), *[nn.Dropout()] * dropout]
        first = nn.Linear(before * grid * grid, hidden)
        self.classifier: nn.Module = last
        if grid > 1:
            self.classifier = nn.Sequential(first, *between, nn.Linear(hidden, hidden), *between, last)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(self.normalize(x)), self.grid)
        return self.classifier(x.flatten(1))


LAYOUTS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "resnet18": ("resnet18:width=4", lambda: ResNet(4, (2, 2, 2, 2), (3, 3), True, "fc")),
    "resnet34": ("resnet34:width=2", lambda: ResNet(2, (3, 4, 6, 3), (3, 3), True, "fc")),
    "resnet50": ("resnet50:width=2", lambda: ResNet(2, (3, 4, 6, 3), (1, 3, 1), True, "fc")),
    "resnet20s": ("resnet20:width=4", lambda: ResNet(4, (3, 3, 3), (3, 3), False, "fc")),
    "resnet20s, linear": ("resnet20:width=4", lambda: ResNet(4, (3, 3, 3), (3, 3), False, "linear")),
    "resnet44s": ("resnet44:width=2", lambda: ResNet(2, (7, 7, 7), (3, 3), False, "fc")),
    "resnet56s": ("resnet56:width=2", lambda: ResNet(2, (9, 9, 9), (3, 3), False, "fc")),
    "vgg16_bn": ("vgg16_bn:width=2", lambda: Vgg(2, False, 2)),
    "vgg16_bn, dropout": ("vgg16_bn:width=2", lambda: Vgg(2, False, 2, dropout=True)),
    "vgg16_bn_lth": ("vgg16_bn_lth:width=2", lambda: Vgg(2, True, 1)),
}


def original(layout: str, seed: int = 0) -> nn.Module:
    """An original network whose every weight and buffer is its own."""
    torch.manual_seed(seed)
    model = LAYOUTS[layout][1]()
    for name, value in model.state_dict().items():
        if not name.startswith("normalize."):
            value.copy_(torch.rand(value.shape) + 0.5 if "running_var" in name else torch.randn(value.shape) / 4 + 0.1)
    return model.eval()


def ours(layout: str, mean: tuple[float, ...] = (0.5, 0.5, 0.5), std: tuple[float, ...] = (1.0, 1.0, 1.0)) -> nn.Module:
    """Our network, with other statistics than the checkpoint's."""
    return with_normalisation(problems.architecture(LAYOUTS[layout][0], classes=CLASSES), mean, std).eval()


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def imported(path: Path, layout: str) -> tuple[nn.Module, checkpoints.Mask | None]:
    model = ours(layout)
    state, mask = checkpoints.translate(checkpoints.read(path), model, str(path))
    load(model, state, str(path))
    return model, mask


def sparse(model: nn.Module, amount: float = 0.6) -> nn.Module:
    """Pruned by torch's own pruning, globally over the convolutions."""
    convolutions = [(module, "weight") for module in model.modules() if isinstance(module, nn.Conv2d)]
    prune.global_unstructured(convolutions, prune.L1Unstructured, amount=amount)
    return model


def around(model: nn.Module) -> dict[str, object]:
    """What a training script saves beside the weights: numbers of numpy among them."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-9, momentum=0.9, weight_decay=5e-4)
    model(images()).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(0.01) * (1 + np.cos(0.3))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [91, 136])
    return {
        "result": {"train_ta": [np.float32(99.5), 1.0], "val_ta": np.arange(3.0), "test_ta": [torch.tensor(94.0)]},
        "epoch": 182,
        "best_sa": np.mean([94.0, 95.0]),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "init_weight": OrderedDict((name, value.clone()) for name, value in model.state_dict().items()),
        "evaluation_result": {"accuracy": {"retain": np.float64(99.0)}, "SVC_MIA_forget_efficacy": None},
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_the_source_to_the_bit(layout: str, tmp_path: Path) -> None:
    source = original(layout)
    torch.save(source.state_dict(), tmp_path / "checkpoint_3.pt")
    model, mask = imported(tmp_path / "checkpoint_3.pt", layout)
    assert mask is None
    expected = source(images())
    assert torch.equal(model(images()), expected)
    assert bool(torch.isfinite(expected).all())
    assert not torch.equal(expected[0], expected[1]), "the test should tell networks apart"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pruned_layouts_too_and_their_masks(layout: str, tmp_path: Path) -> None:
    source = sparse(original(layout))
    torch.save({"state_dict": source.state_dict(), "state": 1}, tmp_path / "1model_SA_best.pth.tar")
    model, mask = imported(tmp_path / "1model_SA_best.pth.tar", layout)
    assert torch.equal(model(images()), source(images()))
    assert mask is not None
    weights = dict(model.named_parameters())
    assert set(mask) == {name for name, weight in weights.items() if weight.dim() == 4}
    assert all(bool((weights[name][~kept] == 0).all()) for name, kept in mask.items())
    assert mask.density() == pytest.approx(0.4, abs=1e-3)
    buffers = [value for name, value in source.named_buffers() if name.endswith("weight_mask")]
    assert sum(int(kept.sum()) for kept in mask.values()) == sum(int(value.sum()) for value in buffers)


NAMES = (
    *("0checkpoint.pth.tar", "0model_SA_best.pth.tar", "FTcheckpoint.pth.tar", "epoch_8_rewind_weight.pt"),
    *("0cifar10_resnet18_orig_bs256_lr0.1_seed2_epoch200_latest", "RL_cifar10_resnet18_[-1]_num3000.pth.tar"),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pruned", [False, True])
def test_forms_of_the_file(name: str, pruned: bool, tmp_path: Path) -> None:
    """Everything that training scripts save around the weights, DataParallel, and the format of old versions."""
    source = original("resnet18")
    source = sparse(source) if pruned else source
    extras = around(source)
    source.eval()
    expected = source(images())
    parallel = {f"module.{key}": value for key, value in source.state_dict().items()}
    for content in (source.state_dict(), parallel, {**extras, "state_dict": parallel}):
        for zipped in (True, False):
            torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
            assert torch.equal(imported(tmp_path / name, "resnet18")[0](images()), expected)
    assert set(checkpoints.read(tmp_path / name).ignored) == set(extras)


def test_the_original_statistics_come_back_as_they_were_written(tmp_path: Path) -> None:
    source = original("resnet20s")
    torch.save(source.state_dict(), tmp_path / "a.pt")
    read = checkpoints.read(tmp_path / "a.pt")
    assert (read.mean, read.std, read.ignored) == (MEAN, STD, ())
    bare = {name: value for name, value in source.state_dict().items() if not name.startswith("normalize.")}
    torch.save(bare, tmp_path / "a.pt")
    read = checkpoints.read(tmp_path / "a.pt")
    assert (read.mean, read.std) == (None, None)
    model, _ = imported(tmp_path / "a.pt", "resnet20s")
    assert torch.equal(model.state_dict()["normalise.mean"].flatten(), torch.full((3,), 0.5))


def test_statistics_keep_every_bit(tmp_path: Path) -> None:
    values = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) + 1e-3
    torch.save({"normalize.mean": values, "normalize.std": values.view(1, -1, 1, 1)}, tmp_path / "a.pt")
    read = checkpoints.read(tmp_path / "a.pt")
    assert torch.equal(torch.tensor(read.mean), values)
    assert torch.equal(torch.tensor(read.std), values)


@pytest.mark.parametrize(
    "change",
    [
        {"normalize.std": None},
        {"normalize.std": torch.tensor([1.0, 1.0])},
        {"normalize.std": torch.tensor([1.0, 0.0, 1.0])},
        {"normalize.mean": torch.tensor([1.0, float("nan"), 1.0])},
    ],
)
def test_statistics_that_cannot_be_are_refused(change: dict[str, Tensor | None], tmp_path: Path) -> None:
    state = {**original("resnet20s").state_dict(), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=r"normalize\.std"):
        checkpoints.read(tmp_path / "a.pt")


def test_statistics_of_other_channels_are_refused(tmp_path: Path) -> None:
    torch.save(original("resnet20s").state_dict(), tmp_path / "a.pt")
    with pytest.raises(RequestError, match="normalises 3 channels, the model 1"):
        checkpoints.translate(checkpoints.read(tmp_path / "a.pt"), ours("resnet20s", (0.5,), (1.0,)), "a.pt")


def test_a_network_without_its_input_step(tmp_path: Path) -> None:
    source = original("resnet18")
    torch.save(source.state_dict(), tmp_path / "a.pt")
    network = ours("resnet18").network
    state, _ = checkpoints.translate(checkpoints.read(tmp_path / "a.pt"), network, "a.pt")
    load(network, state, "a.pt")
    assert torch.equal(network(source.normalize(images())), source(images()))


def test_a_model_is_not_changed_by_translating(tmp_path: Path) -> None:
    torch.save(original("resnet18").state_dict(), tmp_path / "a.pt")
    model = ours("resnet18")
    before = problems.state(model)
    checkpoints.translate(checkpoints.read(tmp_path / "a.pt"), model, "a.pt")
    assert problems.same(model, before)


def test_a_stale_weight_is_never_used(tmp_path: Path) -> None:
    source = sparse(original("resnet18"))
    state = source.state_dict()
    stale = {
        name.removesuffix("_orig"): torch.full_like(value, 9.0) for name, value in state.items() if "_orig" in name
    }
    for content in ({**state, **stale}, {**stale, **state}):
        torch.save(content, tmp_path / "a.pt")
        assert torch.equal(imported(tmp_path / "a.pt", "resnet18")[0](images()), source(images()))


def test_pruned_weights_are_zero_whatever_lies_under_the_mask(tmp_path: Path) -> None:
    """Decay and noise move ``weight_orig`` under the mask, to infinity where training diverged there."""
    source = sparse(original("resnet18"))
    state = source.state_dict()
    state["conv1.weight_orig"][state["conv1.weight_mask"] == 0] = float("inf")
    torch.save(state, tmp_path / "a.pt")
    model, mask = imported(tmp_path / "a.pt", "resnet18")
    assert mask is not None
    assert bool((model.get_parameter("network.stem.0.weight")[~mask["network.stem.0.weight"]] == 0).all())


def saved(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], layout: str = "resnet18") -> Path:
    state = dict(original(layout).state_dict())
    change(state)
    torch.save(state, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_are_all_accounted_for(layout: str, tmp_path: Path) -> None:
    """Each name of the file by itself: missing, of another shape, and one too many."""
    state = dict(original(layout).state_dict())
    torch.save(state, tmp_path / "a.pt")
    read, model = checkpoints.read(tmp_path / "a.pt"), ours(layout)
    for name in list(read.state)[:: max(1, len(read.state) // 12)]:
        lacks = {key: value for key, value in read.state.items() if key != name}
        bent = {**read.state, name: torch.zeros(1, 2, 3)}
        for wrong, message in ((lacks, "missing|unknown"), (bent, rf"{name} has shape \(1, 2, 3\)")):
            with pytest.raises(RequestError, match=message):
                checkpoints.translate(checkpoints.Checkpoint(wrong, None, None, None, ()), model, "a.pt")
    more = checkpoints.Checkpoint({**read.state, "layer9.0.x": torch.zeros(1)}, None, None, None, ())
    with pytest.raises(RequestError, match=r"a\.pt: another architecture: layer9\.0\.x is unknown"):
        checkpoints.translate(more, model, "a.pt")


def test_the_message_lists_the_names_of_the_file(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        del state["layer2.0.downsample.0.weight"]
        state["layer3.1.bn2.weight"] = torch.zeros(3)
        state["conv1.bias"] = torch.zeros(4)

    read = checkpoints.read(saved(tmp_path, change))
    with pytest.raises(RequestError) as caught:
        checkpoints.translate(read, ours("resnet18"), "a.pt")
    for part in ("layer2.0.downsample.0.weight is missing", "conv1.bias is unknown", "layer3.1.bn2.weight has shape"):
        assert part in str(caught.value)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, lambda state: None)
    for layout in ("resnet34", "resnet50", "resnet20s", "vgg16_bn"):
        with pytest.raises(RequestError, match="another architecture"):
            checkpoints.translate(checkpoints.read(path), ours(layout), "a.pt")


def test_types_and_values_that_no_training_gives_are_refused(tmp_path: Path) -> None:
    double = saved(tmp_path, lambda state: state.update({"fc.weight": state["fc.weight"].double()}))
    with pytest.raises(RequestError, match=r"fc\.weight is torch\.float64, not torch\.float32"):
        checkpoints.translate(checkpoints.read(double), ours("resnet18"), "a.pt")
    diverged = saved(tmp_path, lambda state: state["bn1.weight"].fill_(float("nan")))
    with pytest.raises(RequestError, match=r"not finite in bn1\.weight"):
        checkpoints.translate(checkpoints.read(diverged), ours("resnet18"), "a.pt")


def half_pruned(part: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({f"conv1.weight_{part}": state.pop("conv1.weight")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half_pruned("orig"), r"conv1\.weight: the weights or the mask"),
        (half_pruned("mask"), r"conv1\.weight: the weights or the mask"),
        (
            lambda state: state.update({"fc.weight_orig": torch.ones(2, 2), "fc.weight_mask": torch.ones(2)}),
            r"fc\.weight has shape \(2, 2\), its mask \(2,\)",
        ),
        (
            lambda state: state.update({"fc.bias_orig": torch.ones(2), "fc.bias_mask": torch.tensor([1, 0.5])}),
            r"fc\.bias_mask should hold zeros and ones",
        ),
    ],
)
def test_pruned_layers_that_are_not_whole_are_refused(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        checkpoints.read(saved(tmp_path, change))


def test_a_mask_of_what_is_no_weight_is_refused(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        lambda state: state.update(
            {"bn1.running_mean_orig": state.pop("bn1.running_mean"), "bn1.running_mean_mask": torch.ones(4)}
        ),
    )
    with pytest.raises(RequestError, match="the mask"):
        checkpoints.translate(checkpoints.read(path), ours("resnet18"), "a.pt")


class Hostile:
    """A value whose pickle makes a file when it is executed."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["whole", "weight", "beside"])
@pytest.mark.parametrize("call", [os.system, exec, eval])
def test_a_hostile_file_executes_nothing(call: Callable[..., object], place: str, zipped: bool, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    code = f"touch {owned}" if call is os.system else f"__import__('pathlib').Path({str(owned)!r}).touch()"
    hostile, state = Hostile(call, code), dict(original("resnet20s").state_dict())
    content = {
        "whole": hostile,
        "weight": {**state, "conv1.weight": hostile},
        "beside": {"state_dict": state, "evaluation_result": hostile},
    }[place]
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    for read in (checkpoints.read, lambda path: checkpoints.read_mask(path, ours("resnet20s"))):
        with pytest.raises(RequestError, match=r"is refused: it asks for [\w.]+.*nothing of it was executed"):
            read(tmp_path / "a.pt")
    assert not owned.exists()
    with (tmp_path / "raw").open("wb") as file:
        pickle.dump(hostile, file, protocol=4)
    with pytest.raises(RequestError, match="without executing"):
        checkpoints.read(tmp_path / "raw")
    assert not owned.exists()
    pickle.loads((tmp_path / "raw").read_bytes())
    assert owned.exists(), "the payload should work where pickles are executed"


def test_names_that_the_process_allows_are_refused_all_the_same(tmp_path: Path) -> None:
    """Someone may have told torch to trust a function: not for our files; the list is as before afterwards."""
    torch.save({"a": Hostile(Path, "x")}, tmp_path / "a.pt")
    with torch.serialization.safe_globals([Path]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(RequestError, match="is refused"):
            checkpoints.read(tmp_path / "a.pt")
        assert set(torch.serialization.get_safe_globals()) == before
    torch.save({"state_dict": {"a": torch.ones(1)}, "best": np.float64(1)}, tmp_path / "a.pt")
    checkpoints.read(tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pt", weights_only=True)


def other_files(folder: Path) -> dict[str, bytes]:
    """Contents that are no checkpoints, by name."""
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(3000)}, whole)
    old = io.BytesIO()
    torch.save({"a": torch.zeros(3000)}, old, _use_new_zipfile_serialization=False)
    (folder / "inside").write_text("x")
    for name, mode in (("tar", "w"), ("tgz", "w:gz")):
        with tarfile.open(folder / name, mode) as archive:
            archive.add(folder / "inside", "inside")
    archives = {name: (folder / name).read_bytes() for name in ("tar", "tgz")}
    cut = {"cut": whole.getvalue()[:6000], "cut old": old.getvalue()[:6000], "cut early": old.getvalue()[:100]}
    return {"empty": b"", "text": b"hello, this is text", "noise": bytes(range(256)) * 9, **archives, **cut}


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, content in other_files(tmp_path).items():
        (tmp_path / "a.pth.tar").write_bytes(content)
        with pytest.raises(RequestError) as caught:
            checkpoints.read(tmp_path / "a.pth.tar")
        assert "a.pth.tar is damaged, or no checkpoint" in str(caught.value), name
        assert "weights_only` set to `False" not in str(caught.value), name
    with pytest.raises(RequestError, match="is a folder"):
        checkpoints.read(tmp_path)
    with pytest.raises(RequestError, match="is missing"):
        checkpoints.read(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "but a list"),
        (torch.ones(2), "but a Tensor"),
        ({"state_dict": None}, "but a NoneType"),
        ({}, "empty"),
        ({"accuracy": {"retain": np.float64(1)}}, "no plain tensor under accuracy"),
        ({"a": torch.ones(2).to_sparse()}, "no plain tensor under a"),
        ({"a": torch.ones(2, device="meta")}, "no plain tensor under a"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "no plain tensor under a"),
        ({"a": torch.ones(1).expand(2**40)}, "no plain tensor under a"),
        ({3: torch.ones(2)}, "no plain tensor under 3"),
    ],
)
def test_files_without_weights_are_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=message):
        checkpoints.read(tmp_path / "a.pt")


def saliency(layout: str) -> dict[str, Tensor]:
    """A mask in the layout of SalUn: int64 zeros and ones for every parameter."""
    source = original(layout)
    return {name: (torch.rand_like(weight) < 0.5).long() for name, weight in source.named_parameters()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saliency_masks_move_the_same_weights(layout: str, tmp_path: Path) -> None:
    """The mask is followed by the weights themselves: ours are those of the source times its mask."""
    source, given = original(layout), saliency(layout)
    with torch.no_grad():
        for name, weight in source.named_parameters():
            weight.mul_(given[name])
    torch.save(given, tmp_path / "with_0.5.pt")
    torch.save(original(layout).state_dict(), tmp_path / "a.pt")
    model, _ = imported(tmp_path / "a.pt", layout)
    mask = checkpoints.read_mask(tmp_path / "with_0.5.pt", model)
    assert set(mask) == set(trainable(model))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(mask[name])
    assert torch.equal(model(images()), source(images()))


def test_saliency_masks_of_parallel_models(tmp_path: Path) -> None:
    given = saliency("resnet18")
    torch.save(given, tmp_path / "a.pt")
    torch.save({f"module.{name}": value for name, value in given.items()}, tmp_path / "b.pt")
    model = ours("resnet18")
    a, b = (checkpoints.read_mask(tmp_path / name, model) for name in ("a.pt", "b.pt"))
    assert problems.same(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": torch.full((4, 3, 3, 3), 2)}, r"conv1\.weight should hold zeros and ones"),
        ({"conv1.weight": torch.rand(4, 3, 3, 3)}, "soft mask"),
        ({"conv1.weight": torch.ones(4, 3)}, r"conv1\.weight has shape \(4, 3\)"),
        ({"conv9.weight": torch.ones(4)}, r"conv9\.weight is unknown"),
        ({"conv1.weight": None}, r"conv1\.weight is missing"),
        ({"conv1.weight": [1, 0]}, r"no plain tensor under conv1\.weight"),
    ],
)
def test_saliency_masks_that_do_not_fit_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    given = {**saliency("resnet18"), **change}
    torch.save({name: value for name, value in given.items() if value is not None}, tmp_path / "with_0.5.pt")
    with pytest.raises(RequestError, match=message):
        checkpoints.read_mask(tmp_path / "with_0.5.pt", ours("resnet18"))


def test_a_saliency_mask_is_no_checkpoint_and_the_reverse(tmp_path: Path) -> None:
    torch.save(saliency("resnet18"), tmp_path / "with_0.5.pt")
    torch.save(original("resnet18").state_dict(), tmp_path / "a.pt")
    with pytest.raises(RequestError, match="running_mean is missing"):
        checkpoints.translate(checkpoints.read(tmp_path / "with_0.5.pt"), ours("resnet18"), "with_0.5.pt")
    with pytest.raises(RequestError, match="running_mean is unknown"):
        checkpoints.read_mask(tmp_path / "a.pt", ours("resnet18"))


def vgg_weights(width: int, bias: bool, head: list[int]) -> int:
    """Weights counted by hand: 3x3 convolutions, two per channel for normalisation, linear layers."""
    wide = [width * m for m in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)]
    convolutions = sum(9 * a * b + (2 + bias) * b for a, b in zip([3, *wide], wide, strict=False))
    return convolutions + sum((a + 1) * b for a, b in pairwise(head))


@pytest.mark.parametrize(
    ("name", "bias", "head"), [("vgg16_bn", False, [2048, 256, 256, 10]), ("vgg16_bn_lth", True, [512, 10])]
)
def test_sizes_of_vgg(name: str, bias: bool, head: list[int]) -> None:
    with torch.device("meta"):
        model = problems.architecture(name)
    assert sum(weight.numel() for weight in model.parameters()) == vgg_weights(64, bias, head)


def test_final_pooling_of_vgg_changes_no_name() -> None:
    first, second = (problems.architecture(f"vgg16_bn:width=2{more}") for more in ("", ",final_pooling=true"))
    assert list(first.state_dict()) == list(second.state_dict())
    assert first.features(images()).shape[2:] == (2, 2)
    assert second.features(images()).shape[2:] == (1, 1)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_state_dict_is_found_under_the_keys_of_timm_torchvision_and_others(key: str, tmp_path: Path) -> None:
    state = original("resnet18").state_dict()
    torch.save({key: state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    found = checkpoints.read(tmp_path / "a.pth")
    assert found.ignored == ("epoch", "optimizer")
    assert problems.same(dict(found.state), {name: state[name] for name in state if not name.startswith("normalize.")})


def test_a_weight_that_is_called_model_is_no_dictionary(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(2), "other": torch.zeros(1)}, tmp_path / "a.pth")
    assert set(checkpoints.read(tmp_path / "a.pth").state) == {"model", "other"}


@pytest.mark.parametrize("layout", ["resnet18", "vgg16_bn"])
def test_safetensors_give_what_the_same_file_of_torch_gives(layout: str, tmp_path: Path) -> None:
    state = original(layout).state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(dict(state), tmp_path / "a.safetensors")
    first, second = (imported(tmp_path / name, layout)[0] for name in ("a.pth", "a.safetensors"))
    assert problems.same(first, second)
    assert checkpoints.read(tmp_path / "a.safetensors").original


@pytest.mark.parametrize(
    ("text", "shape", "names"),
    [
        ("logistic", (1, 8, 8), ("layer",)),
        ("cnn", (1, 28, 28), ("conv1", "conv2", "fc1", "fc2")),
        ("mlp:hidden=5", (1, 4, 4), ("layer_input", "layer_hidden")),
    ],
)
def test_the_networks_of_the_hessian_free_code_are_read_by_the_order_of_their_layers(
    text: str, shape: tuple[int, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    model, wanted = (problems.architecture(text, shape, 3, seed=seed) for seed in (0, 1))
    own = wanted.state_dict()
    places = list(dict.fromkeys(name.rpartition(".")[0] for name in own))
    table = dict(zip(places, names, strict=True))
    theirs = {f"{table[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in own.items()}
    torch.save(theirs, tmp_path / "Original_model.pth")
    read = checkpoints.read(tmp_path / "Original_model.pth")
    load(model, checkpoints.translate(read, model, "it")[0], "it")
    assert problems.same(model, wanted)
    torch.save({**theirs, "more.weight": torch.zeros(1)}, tmp_path / "Original_model.pth")
    with pytest.raises(RequestError, match=r"unknown|missing"):
        checkpoints.translate(checkpoints.read(tmp_path / "Original_model.pth"), model, "it")


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if "resnet" in layout and "linear" not in layout])
def test_plain_weights_are_those_of_the_original_under_its_names(layout: str, tmp_path: Path) -> None:
    state = original(layout).state_dict()
    torch.save(state, tmp_path / "a.pth")
    plain = checkpoints.plain(imported(tmp_path / "a.pth", layout)[0].state_dict(), ours=True)
    assert problems.same(plain, {name: state[name] for name in state if not name.startswith("normalize.")})


def test_names_of_foreign_networks_are_kept_even_where_they_look_like_ours() -> None:
    state = {"network.stem.0.weight": torch.ones(1), "normalise.mean": torch.zeros(1), "normalise.std": torch.ones(1)}
    for ours in (True, False):
        assert set(checkpoints.plain(state, ours=ours)) == {"stem.0.weight"}


def test_weights_to_rewind_to_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("epoch_2_rewind_weight.pt", "epoch_10_rewind_weight.pt", "epoch_x_rewind_weight.pt", "epoch_3.pt"):
        (tmp_path / name).touch()
    found = checkpoints.earlier(tmp_path / "0model_SA_best.pth.tar")
    assert {epoch: path.name for epoch, path in found.items()} == {
        2: "epoch_2_rewind_weight.pt",
        10: "epoch_10_rewind_weight.pt",
    }
