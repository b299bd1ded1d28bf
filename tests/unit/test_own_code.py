"""Functions of the user's own: named, identified, trusted, executed, checked."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import expunge
from expunge.core import config, own_code, registry, weights
from expunge.core.errors import RequestError
from expunge.models.own import OwnConfig
from tests import problems

SOURCE = """
import pathlib

from torch import nn

from beside import WIDTH

pathlib.Path(__file__).with_name("executed").write_text("yes")


def build(num_classes: int, depth: int = 1, bias: bool = True, name="net", *, widths: tuple[int, ...] = (WIDTH,)):
    layers = [nn.Flatten(), nn.LazyLinear(widths[0], bias=bias)]
    layers += [nn.Linear(widths[0], widths[0]) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(widths[0], num_classes))


class Net(nn.Module):
    def __init__(self, shape, num_classes):
        super().__init__()
        self.scale = nn.Parameter(nn.init.normal_(__import__("torch").empty(num_classes)))
        self.body = nn.Linear(shape[0] * shape[1] * shape[2], num_classes)

    def forward(self, x):
        return self.body(x.flatten(1)) * self.scale


def needy(num_classes, width):
    return nn.Linear(width, num_classes)


def nothing(num_classes):
    return "a network"


def features(num_classes):
    return nn.Flatten()


def several(num_classes):
    class Two(nn.Module):
        def forward(self, x):
            return x, x
    return Two()


def broken(num_classes):
    raise KeyError("a key of mine")


def anything(num_classes, **options):
    assert options == {"rate": 0.5, "on": True, "n": 3, "word": "x", "no": None}, options
    return build(num_classes)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with own.py and a package; nothing is trusted."""
    (tmp_path / "own.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text("WIDTH = 6\n")
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text('raise SystemExit("the package was imported")\n')
    (tmp_path / "mine" / "inner" / "__init__.py").write_text("")
    (tmp_path / "mine" / "inner" / "nets.py").write_text(SOURCE)
    monkeypatch.setenv(own_code.CONFIG, str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def built(folder: Path) -> Callable[[str], nn.Module]:
    """Builds a network of two classes for images of 1 x 4 x 4 from text, trusted."""
    return lambda text: expunge.build_model(text, (1, 4, 4), 2)


@pytest.mark.parametrize(
    ("text", "builder", "options"),
    [
        ("own.py:build", "own.py:build", ()),
        ("./own.py:build,depth=2,widths=(8,4)", "./own.py:build", ("depth=2", "widths=(8,4)")),
        ("own:own.py:build,depth=2", "own.py:build", ("depth=2",)),
        ("mine.inner.nets:build,bias=false", "mine.inner.nets:build", ("bias=false",)),
    ],
)
def test_a_text_names_a_function_and_survives(folder: Path, text: str, builder: str, options: tuple[str, ...]) -> None:
    found = config.parse("models", text)
    assert isinstance(found, OwnConfig)
    assert (found.builder, found.options) == (builder, options)
    assert config.parse("models", config.text("models", found)) == found
    assert config.plugin_from_data("models", {"name": "own", **config.to_data(found)}) == found
    assert not (folder / "executed").exists(), "naming and identifying execute nothing"


def test_its_identity_is_the_digest_of_its_source(folder: Path) -> None:
    first = config.parse("models", "own.py:build")
    (folder / "own.py").write_text(SOURCE + "\n")
    assert config.digest(config.parse("models", "own.py:build")) != config.digest(first)
    (folder / "own.py").write_text(SOURCE)
    assert config.digest(config.parse("models", "own.py:build")) == config.digest(first)


def call(wanted: object) -> nn.Module:
    return registry.of_config("models", wanted).call(wanted, (1, 4, 4), 2)  # type: ignore[return-value]


def test_nothing_is_executed_without_trust_and_trust_is_remembered_by_digest(folder: Path) -> None:
    wanted = config.parse("models", "own.py:build")
    with pytest.raises(RequestError, match=r"own.py:build is code that has not been trusted yet: .* --trust"):
        call(wanted)
    assert not (folder / "executed").exists()
    own_code.trust(wanted.sha256, wanted.builder)
    call(wanted)
    assert (folder / "executed").exists()
    (folder / "own.py").write_text(SOURCE + "\n")
    with pytest.raises(RequestError, match=r"own.py has changed since the model was made: .* restore it"):
        call(wanted)
    with pytest.raises(RequestError, match="trusted"):
        call(config.parse("models", "own.py:build"))


def test_options_have_the_types_of_annotations_and_defaults(built: Callable[[str], nn.Module]) -> None:
    model = built("own.py:build,depth=3,bias=false,widths=8+4")
    assert [tuple(weight.shape) for weight in model.parameters()] == [
        *((8, 16), *[(8, 8), (8,)] * 3),
        *((2, 8), (2,)),
    ]
    assert built("own.py:build")[1].out_features == 6
    assert built("own.py:Net").body.in_features == 16
    built("own.py:anything,rate=0.5,on=true,n=3,word=x,no=none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own.py:build,dept=3", "there is no option 'dept'; did you mean depth"),
        ("own.py:build,depth=x", "depth: .*expected int, got 'x'"),
        ("own.py:needy", "own.py:needy needs width: write own.py:needy,width="),
        ("own.py:needy,width=3", "does not accept images of shape"),
        ("own.py:nothing", "should return a torch.nn.Module, got str"),
        ("own.py:features", r"logits \(2, 2\), got shape \(2, 16\)"),
        ("own.py:several", r"logits \(2, 2\), got a tuple"),
        ("own.py:broken", "cannot be built: KeyError: 'a key of mine'"),
        ("own.py:biuld", "has no function biuld; there are: .*build"),
        ("gone.py:build", "there is no gone.py in .*: run this where the file is"),
        ("mine.gone:build", "there is no module mine.gone"),
        ("mine.inner.nets.deeper:build", "there is no module mine.inner.nets.deeper"),
    ],
)
def test_what_is_wrong_is_said(built: Callable[[str], nn.Module], text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        built(text)


def test_a_source_that_raises_is_said(folder: Path, built: Callable[[str], nn.Module]) -> None:
    (folder / "own.py").write_text("1 / 0")
    with pytest.raises(RequestError, match=r"own.py raises ZeroDivisionError"):
        built("own.py:build")


def test_a_module_of_a_package(folder: Path, built: Callable[[str], nn.Module]) -> None:
    (folder / "mine" / "__init__.py").write_text("")
    try:
        assert built("mine.inner.nets:build")[1].in_features == 16
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "beside")]:
            del sys.modules[name]


def test_it_is_drawn_anew_as_it_was_built_whatever_its_modules(built: Callable[[str], nn.Module]) -> None:
    """Net has a parameter that no module can reset; its copy is reset by itself, and not the original with it."""
    model = built("own.py:Net")
    first = {name: value.clone() for name, value in model.state_dict().items()}
    copied = weights.clone(model)
    torch.manual_seed(5)
    weights.reinitialise(nn.Sequential(copied))
    torch.manual_seed(5)
    again = call(config.parse("models", "own.py:Net"))
    assert problems.same(copied, again)
    assert problems.same(dict(model.state_dict()), first)
    assert not torch.equal(copied.scale, model.scale)
    assert list(model.state_dict()) == ["scale", "body.weight", "body.bias"]


def test_a_configuration_folder_that_cannot_be_written_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_code.CONFIG, str(folder / "own.py"))
    with pytest.raises(RequestError, match="set EXPUNGE_CONFIG to a folder"):
        own_code.trust("0" * 64, "own.py:build")
