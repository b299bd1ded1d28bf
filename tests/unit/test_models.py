"""Models drawn anew, and their sizes counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from expunge.core import config
from expunge.core.errors import RequestError
from expunge.core.weights import reinitialise
from expunge.data.normalisation import with_normalisation
from tests import problems
from tests.problems import architecture, narrow


@pytest.mark.parametrize("name", problems.architectures())
def test_the_same_seed_draws_the_same_weights_when_built_and_when_drawn_anew(name: str) -> None:
    fresh, model = (architecture(narrow(name), (3, 20, 20), seed=seed) for seed in (5, 6))
    assert not problems.same(problems.weights(fresh), problems.weights(model))
    for value in (*model.parameters(), *model.buffers()):
        value.detach().add_(1)
    torch.manual_seed(5)
    reinitialise(model)
    assert problems.same(model, fresh)


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
    assert size(f"{name}:width={width}", (3, 16, 16)) == option_a(width, blocks, 10)


@pytest.mark.parametrize("name", ["resnet18:width=32", "resnet50:width=16", "resnet20:width=32"])
def test_convolutions_are_kaiming_normal_in_their_outputs(name: str) -> None:
    torch.manual_seed(0)
    for module in architecture(name).modules():
        if isinstance(module, nn.Conv2d):
            wanted = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            tolerance = 5 / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.std().detach()) == pytest.approx(wanted, rel=tolerance)


def test_the_last_layer_is_kaiming_normal_in_cifar_resnets_and_as_torch_draws_it_in_others() -> None:
    torch.manual_seed(0)
    kaiming = architecture("resnet20:width=16", classes=500).fc.weight.detach()
    plain = architecture("resnet18:width=8", classes=500).fc.weight.detach()
    assert kaiming.shape == plain.shape == (500, 64)
    assert float(kaiming.std()) == pytest.approx((2 / 64) ** 0.5, rel=0.03)
    assert float(plain.std()) == pytest.approx((1 / (3 * 64)) ** 0.5, rel=0.03)
    assert float(plain.abs().max()) <= 1 / 8


def size(text: str, shape: tuple[int, ...], classes: int = 10) -> int:
    """The number of weights; none is drawn."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in architecture(text, shape, classes).parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 11_173_962), ("resnet20", 269_722), ("resnet56", 853_018), ("resnet50", 23_520_842)],
)
def test_sizes_on_cifar_are_those_of_the_literature(name: str, count: int) -> None:
    assert size(name, (3, 32, 32)) == count


@pytest.mark.parametrize(("name", "count"), [("lenet", 61_706), ("cnn", 21_840), ("logistic", 7_850)])
def test_sizes_on_mnist_are_the_published_ones(name: str, count: int) -> None:
    assert size(name, (1, 28, 28)) == count


@pytest.mark.parametrize(("inputs", "classes"), [(13, 3), (19, 7), (88, 2), (561, 6)])
def test_a_perceptron_of_one_hidden_layer(inputs: int, classes: int) -> None:
    assert size("mlp:hidden=64", (inputs,), classes) == 64 * inputs + 64 + 64 * classes + classes


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [weight.detach() for weight in model.parameters()]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 30), (2, 12, 13)])
def test_lenet_by_its_layers(shape: tuple[int, ...]) -> None:
    model, x = architecture("lenet", shape), torch.randn(3, *shape)
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = weights(model)
    hidden = functional.max_pool2d(functional.conv2d(functional.pad(x, (2,) * 4), w1, b1).relu(), 2)
    hidden = functional.max_pool2d(functional.conv2d(hidden, w2, b2).relu(), 2).flatten(1)
    expected = ((hidden @ w3.T + b3).relu() @ w4.T + b4).relu() @ w5.T + b5
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 30), (2, 16, 17)])
def test_the_cnn_by_its_layers(shape: tuple[int, ...]) -> None:
    model, x = architecture("cnn", shape), torch.randn(3, *shape)
    w1, b1, w2, b2, w3, b3, w4, b4 = weights(model)
    hidden = functional.max_pool2d(functional.conv2d(x, w1, b1), 2).relu()
    hidden = functional.max_pool2d(functional.conv2d(hidden, w2, b2), 2).relu().flatten(1)
    torch.testing.assert_close(model(x), (hidden @ w3.T + b3).relu() @ w4.T + b4)


def test_dropout_of_the_cnn_is_off_unless_asked_for_and_never_in_evaluation_mode() -> None:
    x = torch.randn(3, 1, 28, 28)
    for text, same in (("cnn", True), ("cnn:dropout=0.5", False)):
        torch.manual_seed(0)
        model = architecture(text, (1, 28, 28))
        evaluated = model.eval()(x)
        assert torch.equal(model(x), evaluated)
        assert torch.equal(model.train()(x), evaluated) == same


@pytest.mark.parametrize("text", ["mlp:hidden=400", "resnet20:width=4,head=400,dropout="])
def test_dropout_of_hidden_layers_is_off_unless_asked_for_and_never_in_evaluation_mode(text: str) -> None:
    x, option = torch.randn(3, 3, 32, 32), ",dropout=" if text.startswith("mlp") else ""
    for rate, same in ((0, True), (0.5, False)):
        model = architecture(f"{text}{option}{rate}", seed=0).eval()
        evaluated = model(x)
        for module in model.modules():
            module.training = isinstance(module, nn.Dropout)
        assert torch.equal(model(x), evaluated) == same


def test_dropout_of_the_cnn_drops_whole_channels_and_units_at_its_rate() -> None:
    torch.manual_seed(0)
    model, seen = architecture("cnn:dropout=0.3", (1, 28, 28)), {}
    for module in model:
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.register_forward_hook(
                lambda module, inputs, output: seen.update({type(module): (inputs[0], output)})
            )
    model.train()(torch.randn(400, 1, 28, 28))
    before, after = seen[nn.Dropout2d]
    dropped = (after == 0).flatten(2).all(2)
    assert dropped.shape == (400, 20)
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(after[~dropped], before[~dropped] / 0.7)
    before, after = seen[nn.Dropout]
    assert float((after[before > 0] == 0).float().mean()) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("rate", ["-0.1", "1"])
def test_a_dropout_that_is_no_chance_is_refused(rate: str) -> None:
    with pytest.raises(RequestError, match="dropout must be in"):
        config.parse("models", f"cnn:dropout={rate}")


@pytest.mark.parametrize("shape", [(1, 28, 11), (1, 11, 28)])
def test_images_too_small_for_two_convolutions_are_refused(shape: tuple[int, ...]) -> None:
    for name, least in (("lenet", 12), ("cnn", 16)):
        with pytest.raises(RequestError, match=f"of {least} pixels or more"):
            architecture(name, shape)


def test_stochastic_depth_drops_branches_of_whole_examples_in_training_at_a_growing_rate() -> None:
    model = architecture("swin_t:width=4,depths=1+2,stochastic_depth=0.5", (1, 8, 8))
    rates = [block.depth.rate for stage in (1, 3) for block in model.features[stage]]
    assert rates == [0.0, 0.25, 0.5]
    layer, branch = model.features[3][1].depth, torch.rand(1000, 2, 2, 3) + 1
    torch.manual_seed(0)
    out = layer.train()(branch)
    kept = (out != 0).flatten(1).all(1)
    assert bool((kept | (out == 0).flatten(1).all(1)).all())
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(out[kept], 2 * branch[kept])
    assert torch.equal(layer.eval()(branch), branch)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swin_t:heads=3+6", "a number for each stage, got 2 and 4"),
        ("swin_t:width=10,heads=3+6+12+24", "3 heads do not divide 10"),
        ("vit_s:width=10,heads=3", "3 heads do not divide 10"),
        ("vit_s:patch=5", "patches of 5 pixels do not divide images of 32 x 32"),
        ("resnet18:stem=large", "stem"),
        ("resnet18:head=0", "head must be"),
        ("resnet18:pretrained=nowhere.pth", "nowhere.pth cannot be read"),
        ("vit_s:depth=0", "depth must be"),
        ("swin_t:stochastic_depth=1", "stochastic_depth must be"),
    ],
)
def test_options_that_make_no_network_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        architecture(text)


def test_normalisation_is_the_first_step() -> None:
    model = with_normalisation(nn.Identity(), (0.5, 0.2), (0.25, 2.0))
    inputs = torch.rand(3, 2, 4, 4)
    expected = torch.stack([(inputs[:, 0] - 0.5) / 0.25, (inputs[:, 1] - 0.2) / 2.0], dim=1)
    torch.testing.assert_close(model(inputs), expected)
    torch.testing.assert_close(model(inputs[:, :, 0, 0]), expected[:, :, 0, 0], msg="vectors, by feature")
    assert list(model.state_dict()) == ["normalise.mean", "normalise.std"]
    assert not list(model.parameters())
