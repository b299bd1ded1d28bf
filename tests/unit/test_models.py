"""Models drawn anew, and their sizes counted by hand."""

import pytest
import torch
from torch import nn

from expunge import config, parameters, registry

SMALL = {"resnet18": 4, "resnet34": 4, "resnet50": 2, "resnet20": 4, "resnet44": 4, "resnet56": 4, "small_cnn": 8}
SMALL |= {"vgg16_bn": 4, "vgg16_bn_lth": 4}


def build(name: str, classes: int = 10, shape: tuple[int, ...] = (3, 16, 16)) -> nn.Module:
    wanted = config.parse("models", name)
    return registry.of_config("models", wanted).function(wanted, shape, classes)  # type: ignore[return-value]


@pytest.mark.parametrize("name", registry.plugins("models"))
def test_the_same_seed_draws_the_same_weights_when_built_and_when_drawn_anew(name: str) -> None:
    text = f"{name}:width={SMALL[name]}" if name in SMALL else name
    torch.manual_seed(5)
    fresh = build(text)
    torch.manual_seed(6)
    model = build(text)
    assert not all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))
    for value in (*model.parameters(), *model.buffers()):
        value.detach().add_(1)
    torch.manual_seed(5)
    parameters.reinitialise(model)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def option_a(width: int, blocks: int, classes: int) -> int:
    """Weights of a three-stage ResNet whose shortcuts have none: convolutions 9ab, normalisations 2b, last layer."""
    layers = [(3, width)]
    before = width
    for stage in range(3):
        after = width * 2**stage
        layers += [(before, after), *[(after, after)] * (2 * blocks - 1)]
        before = after
    return sum(9 * a * b + 2 * b for a, b in layers) + (before + 1) * classes


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet44", 7), ("resnet56", 9)])
@pytest.mark.parametrize("width", [4, 16])
def test_cifar_resnets_have_no_weights_in_their_shortcuts(name: str, blocks: int, width: int) -> None:
    model = build(f"{name}:width={width}")
    assert sum(weight.numel() for weight in model.parameters()) == option_a(width, blocks, 10)


def test_the_size_of_resnet20_with_and_without_projections() -> None:
    """269,722 without; 1x1 convolutions and normalisations at the two transitions would add 2,752."""
    assert option_a(16, 3, 10) == 269_722
    assert option_a(16, 3, 10) + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64) == 272_474


@pytest.mark.parametrize("name", ["resnet18:width=32", "resnet50:width=16", "resnet20:width=32"])
def test_convolutions_are_kaiming_normal_in_their_outputs(name: str) -> None:
    torch.manual_seed(0)
    for module in build(name).modules():
        if isinstance(module, nn.Conv2d):
            wanted = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            tolerance = 5 / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.std().detach()) == pytest.approx(wanted, rel=tolerance)


def test_the_last_layer_is_kaiming_normal_in_cifar_resnets_and_as_torch_draws_it_in_others() -> None:
    torch.manual_seed(0)
    kaiming = build("resnet20:width=16", classes=500).fc.weight.detach()  # type: ignore[union-attr]
    plain = build("resnet18:width=8", classes=500).fc.weight.detach()  # type: ignore[union-attr]
    assert kaiming.shape == plain.shape == (500, 64)
    assert float(kaiming.std()) == pytest.approx((2 / 64) ** 0.5, rel=0.03)
    assert float(plain.std()) == pytest.approx((1 / (3 * 64)) ** 0.5, rel=0.03)
    assert float(plain.abs().max()) <= 1 / 8
