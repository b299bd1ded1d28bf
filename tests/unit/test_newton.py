"""Newton-like steps against dense algebra, autograd and retraining to convergence."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.nn import functional

from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask, largest
from expunge.curvature import heads, newton
from expunge.curvature.network import Vector, flat, frozen, shaped
from expunge.curvature.newton import Loss, NewtonConfig
from expunge.data.image_set import ImageSet
from expunge.methods.infinitesimal_jackknife import InfinitesimalJackknifeConfig
from expunge.methods.newton_step import NewtonStepConfig
from tests import problems
from tests.problems import vector

DATA = problems.data()
DOUBLE = torch.float64
NEWTON = NewtonStepConfig(l2=0.2, damping=0.0, tolerance=1e-12)
JACKKNIFE = InfinitesimalJackknifeConfig(l2=0.2, damping=0.0, tolerance=1e-12)
both = pytest.mark.parametrize("config", [NEWTON, JACKKNIFE], ids=["newton", "jackknife"])


def linear(weights: Tensor | None = None) -> nn.Module:
    """Softmax regression in float64, with these weights: W.flatten(), then the intercepts."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    given = torch.randn(51, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) if weights is None else weights
    nn.utils.vector_to_parameters(given.clone(), model.parameters())
    return model


def losses(theta: Tensor, images: ImageSet) -> Tensor:
    """The cross-entropy of each example, written out."""
    inputs = (images.inputs / 255).double().flatten(1)
    return functional.cross_entropy(inputs @ theta[:48].view(3, 16).T + theta[48:], images.labels, reduction="none")


def objective(theta: Tensor, gone: float, l2: float, total: float | None = None) -> Tensor:
    """The loss with weights 1 - ``gone`` for the forgotten examples, divided by the weights' sum or ``total``."""
    forget, retain = losses(theta, DATA.forget), losses(theta, DATA.retain)
    count = len(retain) + (1 - gone) * len(forget) if total is None else total
    return ((1 - gone) * forget.sum() + retain.sum()) / count + l2 / 2 * theta.square().sum()


def minimiser(gone: float, l2: float, total: float | None = None) -> Tensor:
    """Training to convergence: Newton's method with dense derivatives, from zero."""
    theta = torch.zeros(51, dtype=DOUBLE)
    for _ in range(12):
        slope = jacrev(objective)(theta, gone, l2, total)
        theta = theta - torch.linalg.solve(jacrev(jacrev(objective))(theta, gone, l2, total), slope)
    assert float(jacrev(objective)(theta, gone, l2, total).norm()) < 1e-13
    return theta


close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)


def quadratic() -> tuple[Tensor, Vector, Loss]:
    """The loss ``(w - c)^T A (w - c) / 2`` at w = 0: its gradient is ``-A c``."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(9, 9, generator=generator, dtype=DOUBLE)
    dense, centre = root @ root.T, torch.randn(9, generator=generator, dtype=DOUBLE)
    shape = {"a": torch.empty(2, 3), "b": torch.empty(3)}
    loss = Loss(
        5,
        shaped(-dense @ centre, shape),
        lambda vector: shaped(dense @ flat(vector), vector),
        lambda positions: dense[positions][:, positions],
    )
    return centre, shape, loss


@pytest.mark.parametrize("solver", ["cg", "closed_form"])
def test_one_step_on_a_quadratic_is_at_its_minimum(solver: Any) -> None:
    centre, shape, loss = quadratic()
    config = NewtonConfig(l2=0.0, damping=0.0, solver=solver, tolerance=1e-13)
    right = {name: -part for name, part in loss.gradient.items()}
    free = {name: torch.ones_like(part, dtype=torch.bool) for name, part in shape.items()}
    found = newton.step([(0.25, loss), (0.75, loss)], right, free, config, problems.context())
    torch.testing.assert_close(flat(found), centre, rtol=1e-7, atol=1e-10)


def test_steps_towards_the_minimum_come_to_where_retraining_converges() -> None:
    model, wanted = linear(minimiser(0.0, 0.2)), minimiser(1.0, 0.2)
    start = float((vector(model) - wanted).norm())
    config = replace(NEWTON, towards="minimum")
    once = float((vector(problems.unlearned(config, model)) - wanted).norm())
    assert once < start**2, "what is left is of second order"
    for _ in range(3):
        problems.unlearned(config, model)
    close(vector(model), wanted)


def test_at_the_original_minimum_the_step_towards_the_retrained_model_is_newtons() -> None:
    start = minimiser(0.0, 0.2)
    ways = (replace(NEWTON, towards=towards) for towards in ("retrained", "minimum"))
    close(*(vector(problems.unlearned(way, linear(start))) for way in ways))


@pytest.mark.parametrize("towards", ["retrained", "stationary", "minimum"])
@pytest.mark.parametrize("solver", ["cg", "closed_form"])
@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize(("l2", "damping"), [(0.3, 0.0), (0.0, 0.3), (0.1, 0.05)])
def test_newton_steps_are_dense_solves(l2: float, damping: float, curvature: Any, solver: Any, towards: Any) -> None:
    theta = vector(linear())
    forget, retain, full = (
        jacrev(lambda t, f=f: f(t))(theta)
        for f in (
            lambda t: losses(t, DATA.forget).sum() / len(DATA.retain),
            lambda t: objective(t, 1.0, l2),
            lambda t: objective(t, 0.0, l2),
        )
    )
    right = {"retrained": full - retain, "stationary": forget, "minimum": -retain}[towards]
    matrix = jacrev(jacrev(objective))(theta, 1.0, l2) + damping * torch.eye(51, dtype=DOUBLE)
    config = replace(NEWTON, l2=l2, damping=damping, curvature=curvature, solver=solver, towards=towards)
    close(vector(problems.unlearned(config, linear())), theta + torch.linalg.solve(matrix, right))


@pytest.mark.parametrize("solver", ["cg", "closed_form"])
@pytest.mark.parametrize("mean_over", ["kept", "all"])
def test_the_jackknife_is_the_derivative_of_the_minimiser(mean_over: Any, solver: Any) -> None:
    """By central differences in the weight of the forget set."""
    total = float(len(DATA.forget) + len(DATA.retain)) if mean_over == "all" else None
    start, little = minimiser(0.0, 0.2), 1e-4
    slope = (minimiser(little, 0.2, total) - minimiser(-little, 0.2, total)) / (2 * little)
    found = problems.unlearned(replace(JACKKNIFE, mean_over=mean_over, solver=solver), linear(start))
    torch.testing.assert_close(vector(found) - start, slope, rtol=1e-5, atol=1e-7)


def test_the_jackknife_damps_the_same_system() -> None:
    theta = vector(linear())
    matrix = jacrev(jacrev(objective))(theta, 0.0, 0.2) + 0.1 * torch.eye(51, dtype=DOUBLE)
    slopes = jacrev(lambda t: losses(t, DATA.forget).sum() / (len(DATA.forget) + len(DATA.retain)))(theta)
    found = problems.unlearned(replace(JACKKNIFE, damping=0.1, mean_over="all"), linear())
    close(vector(found), theta + torch.linalg.solve(matrix, slopes))


@both
@pytest.mark.parametrize("solver", ["cg", "closed_form"])
def test_the_head_alone_moves_as_if_all_else_were_masked(config: NewtonConfig, solver: Any) -> None:
    config = replace(config, weights="head", solver=solver)
    start = problems.model().double()
    found = problems.unlearned(config, problems.model().double())
    head = Mask(
        {name: torch.full_like(w, name.startswith("5."), dtype=torch.bool) for name, w in start.named_parameters()}
    )
    everywhere = replace(config, weights="all", solver="cg")
    masked = problems.unlearned(everywhere, problems.model().double(), update_masks=head)
    for (name, weight), before in zip(found.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(weight, before) == (not name.startswith("5."))
    close(vector(found), vector(masked))


@both
@pytest.mark.parametrize("options", [{}, {"weights": "head"}, {"solver": "closed_form"}], ids=["cg", "head", "dense"])
def test_weights_that_are_pruned_or_masked_are_constants(config: NewtonConfig, options: Any) -> None:
    theta, generator = vector(linear()), torch.Generator().manual_seed(3)
    names = dict(linear().named_parameters())
    kept, moving = (
        largest({name: torch.rand(w.shape, generator=generator) for name, w in names.items()}, share)
        for share in (0.7, 0.8)
    )
    free = flat(kept) & flat(moving)
    theta = theta * flat(kept)
    share = len(DATA.forget) / (len(DATA.forget) + len(DATA.retain))
    gradients = [jacrev(lambda t, s=s: losses(t, s).mean())(theta) for s in (DATA.forget, DATA.retain)]
    gone = 1.0 if isinstance(config, NewtonStepConfig) else 0.0
    right = share * (1.0 if gone else 1 - share) * (gradients[0] - gradients[1])
    matrix = jacrev(jacrev(objective))(theta, gone, 0.2)[free][:, free]
    found = vector(problems.unlearned(replace(config, **options), linear(theta), sparsity=kept, update_masks=moving))
    assert torch.equal(found[~free], theta[~free])
    close(found[free], theta[free] + torch.linalg.solve(matrix, right[free]))


@both
def test_float32_is_near_float64(config: NewtonConfig) -> None:
    config = replace(config, tolerance=1e-6)
    found, exact = vector(problems.unlearned(config, linear().float())), vector(problems.unlearned(config, linear()))
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


@both
def test_what_conjugate_gradient_took_is_noted(config: NewtonConfig) -> None:
    noted: Any = problems.run(config, linear())[1].notes["cg"]
    assert 1 <= noted["iterations"] <= 500
    assert noted["residual"] <= 1e-12


@both
def test_failures_say_why(config: NewtonConfig) -> None:
    with pytest.raises(RunError, match="allow more iterations"):
        problems.unlearned(replace(config, iterations=1), linear())
    indefinite = replace(config, curvature="hessian", l2=0.0)
    with pytest.raises(RunError, match="not positive definite; raise the damping"):
        problems.unlearned(indefinite, problems.model().double())
    flatness = replace(config, l2=0.0, solver="closed_form")
    with pytest.raises(RunError, match="raise the damping"):  # the same number added to all intercepts changes nothing
        problems.unlearned(flatness, linear(torch.zeros(51, dtype=DOUBLE)))
    bad = replace(DATA.retain, inputs=torch.full(DATA.retain.inputs.shape, torch.nan))
    for options in ({}, {"weights": "head"}, {"solver": "closed_form"}):
        with pytest.raises(RunError, match="NaN or infinity"):
            problems.unlearned(replace(config, **options), linear(), replace(DATA, retain=bad))


@both
def test_requests_that_cannot_be_met_say_the_cure(config: NewtonConfig) -> None:
    with pytest.raises(RequestError, match="weights=head"):
        problems.unlearned(replace(config, solver="closed_form"), problems.model())
    with pytest.raises(RequestError, match=f"{32 * 51**2} bytes"):
        problems.unlearned(replace(config, solver="closed_form", memory=80_000e-9), linear())
    enough = vector(problems.unlearned(replace(config, solver="closed_form", memory=84_000e-9), linear()))
    close(enough, vector(problems.unlearned(config, linear())))


# Heads


class Swapped(nn.Module):
    """A network whose head was made before the layer below it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3, bias=False)
        self.below = nn.Linear(16, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.below(inputs.flatten(1)).relu())


def test_the_head_is_the_layer_called_last_and_features_are_its_inputs() -> None:
    model = Swapped()
    with frozen(model) as network:
        head = heads.find(network, DATA.retain)
        found = heads.features(network, head, DATA.retain, 7)
    assert head.names == ("head.weight",)
    torch.testing.assert_close(found, model.below((DATA.retain.inputs / 255).flatten(1)).relu().detach().double())
    assert found.dtype == DOUBLE


@pytest.mark.parametrize("tail", [nn.Identity(), nn.LogSoftmax(dim=1)])
def test_features_have_ones_for_the_intercept_and_a_log_softmax_may_follow(tail: nn.Module) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), tail)
    with frozen(model, DOUBLE) as network:
        head = heads.find(network, DATA.retain)
        found = heads.features(network, head, DATA.retain)
        matrix = head.matrix(network.weights)
        assert problems.same(head.vector(matrix), network.weights)
    assert bool((found[:, -1] == 1).all())
    torch.testing.assert_close((found @ matrix.T).log_softmax(1), model.double()(found[:, :-1]).log_softmax(1).detach())


def test_networks_without_a_head_are_refused() -> None:
    shared = nn.Linear(16, 16)
    headless = {
        "does not end in a linear layer": nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh()),
        "does not end": nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()),
        "more than once": nn.Sequential(nn.Flatten(), shared, shared),
    }
    for message, model in headless.items():
        with frozen(model) as network, pytest.raises(RequestError, match=message):
            heads.find(network, DATA.retain)


def test_a_frozen_head_is_refused_and_hooks_are_gone() -> None:
    model = Swapped()
    model.head.weight.requires_grad_(False)
    with frozen(model) as network, pytest.raises(RequestError, match=r"head\.weight .* is frozen"):
        heads.find(network, DATA.retain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
