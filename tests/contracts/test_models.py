"""What every architecture must do."""

import pytest
import torch
from torch import nn

from expunge.core import config, registry, weights
from expunge.core.errors import RequestError

NARROW = {"resnet18": 4, "resnet34": 4, "resnet50": 2, "resnet20": 4, "resnet44": 4, "resnet56": 4, "small_cnn": 8}
NARROW |= {"vgg16_bn": 4, "vgg16_bn_lth": 4}

LEAST = {"lenet": 12, "cnn": 16}
"""Pixels that a model needs on each side, where small images are too small for it."""


def build(name: str, shape: tuple[int, ...] = (3, 16, 16), classes: int = 5, seed: int = 0) -> nn.Module:
    text = f"{name}:width={NARROW[name]}" if name in NARROW else name
    wanted = config.parse("models", text)
    torch.manual_seed(seed)
    return registry.of_config("models", wanted).call(wanted, shape, classes)  # type: ignore[return-value]


@pytest.mark.parametrize("name", registry.plugins("models"))
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_gives_logits_for_every_usual_shape(name: str, shape: tuple[int, ...]) -> None:
    if shape[1] < LEAST.get(name, 0):
        with pytest.raises(RequestError, match=f"of {LEAST[name]} pixels or more"):
            build(name, shape)
        return
    assert build(name, shape).eval()(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("name", registry.plugins("models"))
def test_initialises_anew_as_it_was_built(name: str) -> None:
    """Every weight is drawn from the distribution of construction: same mean size per tensor, other values."""
    fresh, model = build(name, seed=1), build(name, seed=2)
    torch.manual_seed(3)
    weights.reinitialise(model)
    for (key, a), b in zip(fresh.named_parameters(), model.parameters(), strict=True):
        if a.numel() < 256:
            continue
        assert not torch.equal(a, b), key
        assert float((b.std() / a.std()).detach()) == pytest.approx(1.0, abs=0.25), key
    torch.manual_seed(3)
    again = build(name, seed=2)
    torch.manual_seed(3)
    weights.reinitialise(again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", registry.plugins("models"))
def test_every_weight_takes_a_gradient(name: str) -> None:
    model = build(name)
    model(torch.rand(4, 3, 16, 16)).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("name", [n for n in registry.plugins("models") if n not in ("logistic", "mlp")])
def test_shapes_that_are_no_images_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="takes images"):
        build(name, (10,))
    with pytest.raises(RequestError, match="pixels or more"):
        build(name, (3, 2, 2))


@pytest.mark.parametrize("name", NARROW)
def test_a_width_below_one_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"width must be .* at least 1"):
        config.parse("models", f"{name}:width=0")


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 11_173_962), ("resnet20", 269_722), ("resnet56", 853_018), ("resnet50", 23_520_842)],
)
def test_sizes_are_those_of_the_literature(name: str, count: int) -> None:
    wanted = config.parse("models", name)
    with torch.device("meta"):
        model = registry.of_config("models", wanted).call(wanted, (3, 32, 32), 10)
    assert sum(weight.numel() for weight in model.parameters()) == count  # type: ignore[attr-defined]


def test_normalisation_is_the_first_step() -> None:
    from expunge.data.normalisation import with_normalisation

    model = with_normalisation(nn.Identity(), (0.5, 0.2), (0.25, 2.0))
    inputs = torch.rand(3, 2, 4, 4)
    expected = torch.stack([(inputs[:, 0] - 0.5) / 0.25, (inputs[:, 1] - 0.2) / 2.0], dim=1)
    torch.testing.assert_close(model(inputs), expected)
    assert list(model.state_dict()) == ["normalise.mean", "normalise.std"]
    assert not list(model.parameters())
