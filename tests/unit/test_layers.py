"""Gradients of single examples from what layers saw, against a loop of autograd over the examples."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.curvature import fisher, layers
from expunge.curvature.network import frozen
from expunge.data.image_set import ImageSet, make
from tests import problems

DOUBLE = torch.float64
COUNT, CLASSES = 7, 3


def images(channels: int = 2) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(COUNT, channels, 9, 8, generator=generator, dtype=DOUBLE)
    return make(pixels, torch.arange(COUNT) % CLASSES)


def trained(model: nn.Module) -> nn.Module:
    """With statistics and scales of batch normalisation that are not the trivial ones."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            with torch.no_grad():
                value.copy_(0.4 * torch.rand(value.shape, generator=generator) + (0.3 if "var" in name else -0.2))
    return model.double().eval()


def head(features: int, *before: nn.Module) -> nn.Module:
    return nn.Sequential(*before, nn.Flatten(), nn.Linear(features, CLASSES))


class Residual(nn.Module):
    """Branches that are added, an activation in place, and an output that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).relu_()
        hidden = self.norm(self.second(hidden)).add_(hidden).relu_()
        return self.last(hidden.mean(dim=(2, 3)))


class Positional(nn.Module):
    """The functions themselves, by keyword, without modules of their kind."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.matrix = nn.Parameter(torch.zeros(3, 2, 2, 3)), nn.Parameter(torch.zeros(CLASSES, 24))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.conv2d(inputs, weight=self.kernel, stride=(3, 2), padding=(1, 0), dilation=(2, 1))
        return functional.linear(hidden.flatten(1)[:, :24], self.matrix)


KNOWN: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.ReLU(), nn.Linear(5, CLASSES, bias=False)),
    "convolution": lambda: head(12, nn.Conv2d(2, 6, 3, stride=2, padding=1, dilation=2), nn.Tanh(), nn.MaxPool2d(2)),
    "groups": lambda: head(36, nn.Conv2d(2, 4, (3, 2), groups=2, padding=(0, 1)), nn.MaxPool2d((2, 3)), nn.ReLU()),
    "reflection": lambda: head(216, nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")),
    "whole image": lambda: head(4, nn.Conv2d(2, 4, (9, 8)), nn.ReLU(inplace=True)),
    "normalisation": lambda: nn.Sequential(
        nn.BatchNorm2d(2), nn.Flatten(), nn.BatchNorm1d(144), nn.Linear(144, CLASSES)
    ),
    "residual": Residual,
    "functions": Positional,
}


class Twice(nn.Module):
    """A layer that is called twice, or once with its weight used elsewhere too."""

    def __init__(self, elsewhere: bool) -> None:
        super().__init__()
        self.layer, self.last, self.elsewhere = nn.Linear(144, 144), nn.Linear(144, CLASSES), elsewhere

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.layer(inputs.flatten(1)).tanh()
        hidden = hidden * self.layer.weight.mean() if self.elsewhere else self.layer(hidden)
        return self.last(hidden)


class Tied(nn.Module):
    """One weight of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(144, 144), nn.Linear(144, 144), nn.Linear(144, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.second(self.first(inputs.flatten(1)).tanh()))


class Idle(nn.Module):
    """A weight that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.idle = nn.Linear(144, CLASSES), nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(inputs.flatten(1))


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "called twice": lambda: Twice(elsewhere=False),
    "used elsewhere": lambda: Twice(elsewhere=True),
    "tied": Tied,
    "idle": Idle,
    "layer normalisation": lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, CLASSES)),
    "linear on rows": lambda: nn.Sequential(nn.Linear(8, 4), nn.Flatten(), nn.Linear(72, CLASSES)),
    "padding by word": lambda: head(144, nn.Conv2d(2, 2, 3, padding="same")),
    "one dimension": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 2, 5), nn.Flatten(), nn.Linear(136, CLASSES)),
}
ALL = {**KNOWN, **UNKNOWN}


def loop(model: nn.Module, data: ImageSet) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """By weight: gradients (n, ...), and the diagonals with the labels of the data and of the model."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    each: list[list[Tensor]] = []
    true = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for one, label in zip(data.inputs, data.labels, strict=True):
        logits = model(one[None])
        log_p = logits.log_softmax(1)[0]
        for chosen in range(CLASSES):
            found = torch.autograd.grad(
                log_p[chosen], list(weights.values()), retain_graph=True, materialize_grads=True
            )
            if chosen == label:
                each.append([-part for part in found])
            for name, part in zip(weights, found, strict=True):
                true[name] += log_p[chosen].exp().detach() * part.square() / len(data)
    gradients = {name: torch.stack(parts) for name, parts in zip(weights, zip(*each, strict=True), strict=True)}
    return gradients, {name: part.square().mean(0) for name, part in gradients.items()}, true


close = partial(problems.assert_close, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("at_once", [1, 2**18], ids=["one at a time", "at once"])
def test_gradients_and_diagonals_are_those_of_a_loop(kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers.AT_ONCE, "cpu", at_once)
    model, data = trained(ALL[kind]()), images()
    gradients, empirical, true = loop(model, data)
    with frozen(model, DOUBLE) as network:
        close(fisher.example_gradients(network, data.inputs, data.labels), gradients)
        close(fisher.empirical_fisher(network, data, 10**8), empirical)
        close(fisher.true_fisher(network, data, 10**8), true)


@pytest.mark.parametrize("kind", ALL)
def test_a_network_is_known_or_is_not(kind: str) -> None:
    with frozen(trained(ALL[kind]()), DOUBLE) as network:
        assert (layers.recorded(network, images().inputs) is not None) == (kind in KNOWN)


def test_frozen_weights_take_no_part() -> None:
    model = trained(Residual())
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in ("first.bias", "second.weight", "norm.bias", "last.weight"))
    gradients, empirical, true = loop(model, images())
    with frozen(model, DOUBLE) as network:
        assert layers.recorded(network, images().inputs) is not None
        close(fisher.example_gradients(network, images().inputs, images().labels), gradients)
        close(fisher.empirical_fisher(network, images(), 10**8), empirical)
        close(fisher.true_fisher(network, images(), 10**8), true)


def test_a_layer_that_takes_the_batch_apart_is_not_known() -> None:
    """Rows of several places of an example are no examples."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 4), nn.Linear(72, CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(self.first(inputs.reshape(-1, 8)).reshape(len(inputs), -1))

    model = trained(Rows())
    with frozen(model, DOUBLE) as network:
        assert layers.recorded(network, images().inputs) is None
        close(fisher.empirical_fisher(network, images(), 10**8), loop(model, images())[1])


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_patches_are_those_of_torch(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> None:
    inputs = images().inputs.to(memory_format=torch.channels_last)
    found = layers.unfold(inputs, (3, 2), stride, padding, dilation)
    assert torch.equal(found, functional.unfold(inputs, (3, 2), dilation, padding, stride))
