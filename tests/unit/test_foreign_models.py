"""Networks of timm and torchvision: their names, their weights, from a file or a cache, and drawn anew."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.core import config, weights
from expunge.core.errors import RequestError
from expunge.models import _foreign
from tests import problems, vision
from tests.problems import architecture

SHAPE = (3, 32, 32)
TEXTS = {"timm": "timm:test_resnet", "torchvision": "torchvision:shufflenet_v2_x0_5"}


@pytest.fixture(params=TEXTS)
def text(request: pytest.FixtureRequest) -> str:
    """A small network of either library."""
    (vision.timm if request.param == "timm" else vision.importable)()
    return TEXTS[request.param]


def reference(text: str, classes: int) -> nn.Module:
    """The network as the library itself makes it."""
    import timm
    import torchvision

    library, _, name = text.partition(":")
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    return make(name, num_classes=classes)


def state(text: str, classes: int = 5) -> Mapping[str, Tensor]:
    torch.manual_seed(3)
    return reference(text, classes).state_dict()


def test_it_is_the_network_of_the_library(text: str) -> None:
    model = architecture(text, SHAPE, classes=5, seed=3)
    assert problems.same(model.state_dict(), state(text))
    assert config.text("models", config.parse("models", text)) == text


def test_a_file_of_weights_is_where_training_and_retraining_start(text: str, tmp_path: Path) -> None:
    given = state(text)
    save_file(dict(given), tmp_path / "w.safetensors")
    torch.save({"model": given, "epoch": 3}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        model = architecture(f"{text},pretrained={tmp_path / name}", SHAPE, classes=5)
        assert problems.same(model.state_dict(), given)
        for weight in model.parameters():
            weight.detach().add_(1)
        weights.reinitialise(model)
        assert problems.same(model.state_dict(), given)


def test_a_last_layer_for_other_classes_is_new_and_nothing_else(text: str, tmp_path: Path) -> None:
    given = dict(state(text, classes=7))
    save_file(given, tmp_path / "w.safetensors")
    own = architecture(f"{text},pretrained={tmp_path / 'w.safetensors'}", SHAPE, classes=5).state_dict()
    differ = [name for name in own if own[name].shape != given[name].shape or not torch.equal(own[name], given[name])]
    assert len(differ) == 2
    assert [len(own[name]) for name in differ] == [5, 5]
    first, last = next(iter(given)), differ[0]
    for wrong, message in (
        ({**given, "more": torch.zeros(1)}, "more is unknown"),
        ({name: given[name] for name in given if name != first}, f"{first} is missing"),
        ({name: given[name] for name in given if name != last}, f"{last} is missing"),
    ):
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(RequestError, match=message):
            architecture(f"{text},pretrained={tmp_path / 'wrong.safetensors'}", SHAPE, classes=5)


def test_weights_that_changed_are_refused(text: str, tmp_path: Path) -> None:
    save_file(dict(state(text)), tmp_path / "w.safetensors")
    wanted = config.parse("models", f"{text},pretrained={tmp_path / 'w.safetensors'}")
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(RequestError, match="has changed since the model was made"):
        architecture(config.text("models", wanted), SHAPE, classes=5)


def test_what_is_wrong_is_said(text: str) -> None:
    library = text.partition(":")[0]
    for wrong, message in (
        (f"{library}:resnet5", f"there is no network of {library} 'resnet5'; did you mean"),
        (f"{text},widht=3", "cannot be built: TypeError.*widht"),
        (f"{text},pretrained=gone.pth", r"gone.pth cannot be read"),
    ):
        with pytest.raises(RequestError, match=message):
            architecture(wrong, SHAPE)
    with pytest.raises(RequestError, match="takes images"):
        architecture(text, (10,))


def test_options_reach_the_library() -> None:
    vision.timm()
    assert architecture("timm:test_resnet,drop_rate=0.5", SHAPE).drop_rate == 0.5
    assert architecture("timm:test_vit,img_size=32", SHAPE).pos_embed.shape[1] == 5
    with pytest.raises(RequestError, match="does not accept images"):
        architecture("timm:vit_tiny_patch16_224,depth=1", SHAPE)
    assert architecture("timm:test_resnet", (1, 32, 32)).conv1[0].in_channels == 1


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(RequestError, match=r"timm is not installed .*expunge\[models\]"):
        architecture("timm:resnet18", SHAPE)


def test_published_weights_come_from_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache as the library of the Hub lays it out, and no network; then the same without the file."""
    vision.timm()
    import huggingface_hub

    repository, name = "timm/test_resnet.r160_in1k", "model.safetensors"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    real = huggingface_hub.hf_hub_download
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *given: real(*given, cache_dir=tmp_path))
    text = "timm:test_resnet,pretrained=hub"
    with pytest.raises(RequestError, match=rf"hf download {repository} {name}` where there is a network, and copy"):
        config.parse("models", text)
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "a").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a")
    given = dict(state("timm:test_resnet"))
    save_file(given, folder / "snapshots" / "a" / name)
    assert problems.same(architecture(text, SHAPE, classes=5).state_dict(), given)


def test_published_weights_come_from_the_cache_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vision.importable()
    import torchvision

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    published = SimpleNamespace(DEFAULT=SimpleNamespace(url="http://127.0.0.1:9/weights-1.pth"))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: published)
    text = "torchvision:shufflenet_v2_x0_5,pretrained=hub"
    with pytest.raises(RequestError, match=r"curl -LO http://127.0.0.1:9/weights-1.pth` where .* copy the file to"):
        config.parse("models", text)
    given = state("torchvision:shufflenet_v2_x0_5")
    torch.save(given, tmp_path / "checkpoints" / "weights-1.pth")
    assert problems.same(architecture(text, SHAPE, classes=5).state_dict(), given)


def test_words_and_numbers_of_options() -> None:
    found = _foreign.values(["a=1", "b=0.5", "c=true", "d=none", "e=gelu", "f=1e-3", "g=x=y"])
    assert found == {"a": 1, "b": 0.5, "c": True, "d": None, "e": "gelu", "f": 1e-3, "g": "x=y"}
    assert type(found["a"]) is int
