"""Kronecker-factored curvature against dense matrices made here from its definition."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from expunge.core.errors import RequestError, RunError
from expunge.curvature import fisher
from expunge.curvature.kronecker import factored
from expunge.curvature.network import Network, flat, frozen, shaped
from expunge.data.image_set import ImageSet, TensorImages
from tests import problems

Kind = Literal["kfac", "ekfac"]
DOUBLE = torch.float64
DAMPING = 0.02
kinds = pytest.mark.parametrize("kind", ["kfac", "ekfac"])


@pytest.fixture(autouse=True)
def _installed() -> None:
    if importlib.util.find_spec("curvlinops") is None:
        pytest.skip("the extra expunge[curvature] is not installed")


def seeded(*layers: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(*(make() for make in layers)).double()


def linear(bias: bool = True) -> nn.Module:
    return seeded(nn.Flatten, lambda: nn.Linear(16, 3, bias=bias))


def deep() -> nn.Module:
    return seeded(
        nn.Flatten, lambda: nn.Linear(16, 5), nn.Tanh, lambda: nn.Linear(5, 4), nn.Tanh, lambda: nn.Linear(4, 3)
    )


def convolutional() -> nn.Module:
    return seeded(
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.ReLU(inplace=True),
        lambda: nn.Conv2d(4, 3, 3, stride=2, bias=False),
        nn.ReLU,
        nn.Flatten,
        lambda: nn.Linear(3, 3),
    )


def square_roots(model: nn.Module, images: ImageSet) -> Tensor:
    """S (n classes, p) with ``S^T S / n`` the true Fisher matrix: rows ``sqrt(p_c) grad log p_c``."""
    names = dict(model.named_parameters())
    inputs = (images.inputs / 255).double()

    def scaled(vector: Tensor) -> Tensor:
        log_p = functional_call(model, shaped(vector, names), (inputs,)).log_softmax(1)
        return log_p * (log_p / 2).exp().detach()

    return jacrev(scaled)(flat(names).detach()).flatten(0, 1)


def blocks(network: Network) -> list[slice]:
    """Where the weights of each module are in a flat vector."""
    found: dict[str, slice] = {}
    start = 0
    for name, weight in network.weights.items():
        owner = name.rpartition(".")[0]
        first = found[owner].start if owner in found else start
        start += weight.numel()
        found[owner] = slice(first, start)
    return list(found.values())


def check(model: nn.Module, images: ImageSet, kind: Kind, dense: Tensor) -> None:
    """Products and inverses are those of the dense matrix F, damped."""
    with frozen(model, DOUBLE) as network:
        found = factored(network, images, DAMPING, kind, 10**8, batch_size=4)
        v = problems.random_like(network.weights)
        damped = dense + DAMPING * torch.eye(len(dense), dtype=DOUBLE)
        torch.testing.assert_close(flat(found.product(v)), damped @ flat(v), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(flat(found.inverse(v)), torch.linalg.solve(damped, flat(v)), rtol=1e-8, atol=1e-9)


@kinds
@pytest.mark.parametrize("make", [linear, deep])
def test_of_one_example_the_blocks_of_linear_layers_are_exact(kind: Kind, make: Callable[[], nn.Module]) -> None:
    model, images = make(), problems.images(1)
    roots = square_roots(model, images)
    dense = torch.zeros(roots.shape[1], roots.shape[1], dtype=DOUBLE)
    with frozen(model, DOUBLE) as network:
        for block in blocks(network):
            dense[block, block] = roots[:, block].T @ roots[:, block]
    check(model, images, kind, dense)


def kronecker_of_a_layer(bias: bool) -> tuple[nn.Module, ImageSet, Tensor, Tensor, Tensor]:
    """A softmax regression whose rows are (out, in and bias): A, B, and the rows of S in these coordinates."""
    model, images = linear(bias), problems.images(9)
    inputs = (images.inputs / 255).double().flatten(1)
    if bias:
        inputs = torch.cat([inputs, torch.ones(9, 1, dtype=DOUBLE)], dim=1)
    p = model((images.inputs / 255).double()).softmax(1).detach()
    outputs = torch.diag_embed(p.sqrt()) - p.sqrt()[:, :, None] * p[:, None, :]  # (n, classes, out)
    first, second = inputs.T @ inputs / 9, torch.einsum("nco,ncq->oq", outputs, outputs) / 9
    rows = torch.einsum("nco,ni->ncoi", outputs, inputs).flatten(0, 1)
    return model, images, first, second, rows


def in_order(bias: bool) -> Tensor:
    """For each entry of (weight, bias) flat, its place in the rows (out, in and bias) flat."""
    places = torch.arange(3 * 17 if bias else 3 * 16).view(3, -1)
    return torch.cat([places[:, :16].flatten(), places[:, 16:].flatten()])


@pytest.mark.parametrize("bias", [True, False])
def test_kfac_is_the_product_of_the_mean_factors(bias: bool) -> None:
    model, images, first, second, _ = kronecker_of_a_layer(bias)
    order = in_order(bias)
    check(model, images, "kfac", torch.kron(second, first)[order][:, order])


@pytest.mark.parametrize("bias", [True, False])
def test_ekfac_has_the_exact_second_moments_in_the_eigenvectors_of_kfac(bias: bool) -> None:
    model, images, first, second, rows = kronecker_of_a_layer(bias)
    inside, outside = torch.linalg.eigh(first).eigenvectors, torch.linalg.eigh(second).eigenvectors
    moments = torch.einsum("op,soi,ij->spj", outside, rows, inside).square().sum(0) / len(images)
    basis, order = torch.kron(outside, inside), in_order(bias)
    check(model, images, "ekfac", (basis * moments.flatten() @ basis.T)[order][:, order])


@kinds
def test_other_weights_have_the_diagonal_of_the_true_fisher_matrix(kind: Kind) -> None:
    images = problems.images(9)
    with frozen(convolutional(), DOUBLE) as network:
        found = factored(network, images, DAMPING, kind, 10**8)
        v = problems.random_like(network.weights)
        product, inverse, diagonal = found.product(v), found.inverse(v), fisher.true_fisher(network, images, 10**8)
        assert list(product) == list(inverse) == list(network.weights)
        for name in ("1.weight", "1.bias"):
            torch.testing.assert_close(product[name], (diagonal[name] + DAMPING) * v[name])
            torch.testing.assert_close(inverse[name], v[name] / (diagonal[name] + DAMPING))
        back = found.product(inverse)
        torch.testing.assert_close(flat(back), flat(v), rtol=1e-9, atol=1e-10)


@kinds
def test_a_convolution_over_the_whole_image_is_a_linear_layer(kind: Kind) -> None:
    whole = seeded(lambda: nn.Conv2d(1, 3, 4), nn.Flatten)
    same = linear()
    same.load_state_dict(
        {f"1.{name[2:]}": value.reshape(3, -1).squeeze() for name, value in whole.state_dict().items()}
    )
    results: list[Tensor] = []
    for model in (whole, same):
        with frozen(model, DOUBLE) as network:
            v = shaped(torch.linspace(-1, 1, 51, dtype=DOUBLE), network.weights)
            results.append(flat(factored(network, problems.images(9), DAMPING, kind, 10**8).inverse(v)))
    torch.testing.assert_close(*results)


def test_of_the_bias_of_a_layer_alone() -> None:
    model = linear()
    model[1].weight.requires_grad_(False)
    images = problems.images(9)
    rows = kronecker_of_a_layer(True)[4][:, :, 16]
    check(model, images, "kfac", rows.T @ rows / 9)


@kinds
def test_the_model_is_left_alone_and_the_weights_are_those_of_the_network(kind: Kind) -> None:
    model = convolutional().float().train()
    before = problems.state(model)
    with frozen(model) as network:
        factored(network, problems.images(9), DAMPING, kind, 10**8)
        v = problems.random_like(network.weights)
        moved = replace(network, weights={name: weight + 0.1 for name, weight in network.weights.items()})
        found = factored(moved, problems.images(9), DAMPING, kind, 10**8).product(v)
    other = convolutional().float()
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1)
    with frozen(other) as network:
        expected = factored(network, problems.images(9), DAMPING, kind, 10**8).product(v)
    torch.testing.assert_close(flat(found), flat(expected))
    assert model.training
    assert problems.same(model, before)
    assert all(weight.grad is None for weight in model.parameters())


class Shared(nn.Module):
    """Two layers of one weight, or one layer used without being called."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.called = called
        if called:
            self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.first(inputs.flatten(1))
        return (
            self.second(inputs) if self.called else nn.functional.linear(inputs, self.second.weight, self.second.bias)
        )


@pytest.mark.parametrize("called", [True, False])
def test_layers_that_kfac_does_not_see_are_refused(called: bool) -> None:
    with frozen(Shared(called)) as network, pytest.raises(RequestError, match="another solver"):
        factored(network, problems.images(5), DAMPING, "kfac", 10**8)


@kinds
def test_images_that_are_not_finite_fail_with_the_reason(kind: Kind) -> None:
    images = problems.images(5)
    bad = TensorImages(torch.full(images.inputs.shape, torch.nan), images.labels, images.ids)
    with frozen(linear().float()) as network, pytest.raises(RunError, match="not finite"):
        factored(network, bad, DAMPING, kind, 10**8)


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    with frozen(linear()) as network, pytest.raises(RequestError, match=r"expunge\[curvature\]"):
        factored(network, problems.images(5), DAMPING, "kfac", 10**8)
