"""Certified removal: bounds against retraining to convergence, noise against the exact formula, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask
from expunge.curvature import certificate as certification
from expunge.curvature import softmax_linear
from expunge.curvature.certificate import Certificate
from expunge.data.image_set import ImageSet
from expunge.data.normalisation import with_normalisation
from expunge.data.unlearning_data import UnlearningData
from expunge.methods import certified_removal
from expunge.methods.certified_removal import CertifiedRemovalConfig
from expunge.training.context import Context
from tests import problems

COUNT = 100
IMAGES = problems.images(COUNT)
X = torch.cat([(IMAGES.inputs / 255).double().flatten(1), torch.ones(COUNT, 1, dtype=torch.float64)], dim=1)
Y = IMAGES.labels
CONFIG = CertifiedRemovalConfig(l2=0.1, reference_gradient_norm=0.0, repeatable=True)


def kept(m: int) -> Tensor:
    return torch.arange(COUNT) >= m


def minimiser(keep: Tensor, l2: float) -> Tensor:
    """The head retrained to convergence, by Newton's method with the dense Hessian."""
    weights = torch.zeros(3, 17, dtype=torch.float64)
    for _ in range(12):
        matrix = softmax_linear.hessian(X[keep], (X[keep] @ weights.T).softmax(1))
        matrix.diagonal().add_(l2)
        slope = certification.gradient(weights, X[keep], Y[keep], l2)
        weights = weights - torch.linalg.solve(matrix, slope.flatten()).view_as(weights)
    assert float(certification.gradient(weights, X[keep], Y[keep], l2).norm()) < 1e-15
    return weights


def linear(weights: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        model[1].weight.copy_(weights[:, :-1])
        model[1].bias.copy_(weights[:, -1])
    return model


def matrix(model: nn.Module) -> Tensor:
    weight, bias = model.parameters()
    return torch.cat([weight, bias[:, None]], dim=1).detach()


def data(m: int, images: ImageSet = IMAGES) -> UnlearningData:
    return UnlearningData(images.select(~kept(m)), images.select(kept(m)), None, 3)


def remove(
    config: CertifiedRemovalConfig, model: nn.Module, m: int = 10, context: Context | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    context = problems.context() if context is None else context
    found = certified_removal.unlearn(model, data(m), config, context)
    noted: Any = context.notes["certificate"]
    return found, noted


def certificate(weights: Tensor, keep: Tensor, l2: float = 0.1, **more: Any) -> Certificate:
    return certification.certify(weights, X[keep], Y[keep], l2=l2, **{"epsilon": 1.0, "delta": 1e-5, **more})


# The bound


@pytest.mark.parametrize("l2", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("m", [1, 2, 5, 10, 20, 40, 80])
def test_the_bound_is_at_least_the_distance_to_retraining_and_no_more_than_ten_times(m: int, l2: float) -> None:
    """Before any step, and after one: there the bound also proves that the step was worth taking."""
    start, wanted = minimiser(kept(0), l2), minimiser(kept(m), l2)
    nothing = float((start - wanted).norm())
    assert nothing <= certificate(start, kept(m), l2).bound <= 10 * nothing
    model, noted = remove(replace(CONFIG, l2=l2), linear(start), m)
    noise = torch.randn(3, 17, generator=problems.context().generator, dtype=torch.float64)
    distance = float((matrix(model) - noted["sigma"] * noise - wanted).norm())
    assert distance <= noted["bound"] <= 10 * distance
    assert noted["bound"] < 0.1 * nothing


def test_no_smaller_bound_would_do() -> None:
    """The same vector added to the weights of every class changes no probability: there the bound is the distance."""
    wanted = minimiser(kept(10), 0.1)
    moved = wanted + torch.randn(17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert certificate(moved, kept(10)).bound == pytest.approx(float((moved - wanted).norm()), rel=1e-12)


def test_retraining_may_stop_at_a_gradient_that_the_bound_counts() -> None:
    wanted, away = minimiser(kept(10), 0.1), minimiser(kept(30), 0.1)
    shift = torch.ones(3, 17, dtype=torch.float64) * 1e-3
    stopped = wanted - shift  # the same for each class: the gradient is l2 times it
    norm = float(certification.gradient(stopped, X[kept(10)], Y[kept(10)], 0.1).norm())
    found = certificate(away + shift, kept(10), reference_gradient_norm=norm)
    assert float((away + shift - stopped).norm()) <= found.bound
    assert found.bound == pytest.approx((found.gradient_norm + norm) / 0.1)


def test_the_gradient_is_autograds() -> None:
    weights = torch.randn(3, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    loss = functional.cross_entropy(X @ weights.T, Y) + 0.3 / 2 * weights.square().sum()
    found = certification.gradient(weights.detach(), X, Y, 0.3)
    torch.testing.assert_close(found, torch.autograd.grad(loss, weights)[0])


def test_no_gradient_exceeds_its_lipschitz_constant_and_some_come_near() -> None:
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for scale in (0.1, 1.0, 10.0, 100.0):
        weights = scale * torch.randn(3, 17, generator=generator, dtype=torch.float64)
        norms = softmax_linear.residuals(X @ weights.T, Y).norm(dim=1) * X.norm(dim=1)
        largest = max(largest, float(norms.max()))
    limit = certification.lipschitz(X)
    assert 0.95 * limit < largest <= limit * (1 + 1e-12)


def test_non_finite_gradients_are_no_bound() -> None:
    with pytest.raises(RunError, match="not finite"):
        certificate(torch.full((3, 17), torch.nan, dtype=torch.float64), kept(10), budget=1.0)


# Capacity


def test_whichever_go_within_the_capacity_the_bound_holds() -> None:
    weights, keep = minimiser(kept(10), 1.0), kept(10)
    found = certificate(weights, keep, 1.0, budget=0.5, reference_gradient_norm=1e-3)
    assert 3 < found.capacity < 80
    rows = torch.arange(COUNT)[keep]
    pull = softmax_linear.residuals(X @ weights.T, Y)
    worst = [rows[pull[rows, label].argsort(descending=down)] for label in range(3) for down in (True, False)]
    shuffled = [rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))] for seed in range(20)]
    for order in (*worst, *shuffled):
        left = keep.clone()
        left[order[: found.capacity]] = False
        assert certificate(weights, left, 1.0, reference_gradient_norm=1e-3).bound <= found.budget


@pytest.mark.parametrize(("norm", "each", "largest"), [(0.0, 3.0, 0.5), (0.2, 10.0, 1.0), (0.9, 2.0, 1.0)])
def test_the_capacity_is_the_last_count_that_the_worst_case_allows(norm: float, each: float, largest: float) -> None:
    found = certification.capacity(norm, COUNT, each, largest)
    worst = [norm + k * each / (COUNT - k) for k in range(COUNT)]
    assert worst[found] <= largest < worst[found + 1]


@pytest.mark.parametrize(("both", "budget", "expected"), [(0.0, 1.0, 14), (1.0, 2.1, 19)])
def test_the_capacity_of_a_case_worked_by_hand(both: float, budget: float, expected: int) -> None:
    """One feature that is 1, and the same weight for two classes: gradients are +-(1/2, -1/2), 90 of 100 the one."""
    found = certification.certify(
        torch.full((2, 1), both, dtype=torch.float64),
        torch.ones(100, 1, dtype=torch.float64),
        (torch.arange(100) < 90).long(),
        l2=1.0,
        epsilon=1.0,
        delta=1e-5,
        budget=budget,
        reference_gradient_norm=0.1,
    )
    mean = 0.8 / math.sqrt(2)
    assert found.gradient_norm == pytest.approx(math.hypot(mean, math.sqrt(2) * both))
    left = budget - 0.1 - found.gradient_norm
    assert found.capacity == math.floor(100 * left / (left + mean + math.sqrt(2))) == expected


def test_the_capacity_is_zero_at_the_budget_and_never_everything() -> None:
    assert certification.capacity(1.0, COUNT, 2.0, 1.0) == 0
    assert certification.capacity(2.0, COUNT, 2.0, 1.0) == 0
    assert certification.capacity(0.0, COUNT, 1e-9, 1.0) == COUNT - 1
    assert certificate(minimiser(kept(0), 0.1), kept(10)).capacity == 0


# The noise


def exact(distance: float, deviation: float, epsilon: float) -> mpmath.mpf:
    """Theorem 8 of Balle & Wang in a precision in which nothing overflows."""
    with mpmath.workdps(60 + int(epsilon)):
        ratio, e = mpmath.mpf(distance) / mpmath.mpf(deviation), mpmath.mpf(epsilon)
        return mpmath.ncdf(ratio / 2 - e / ratio) - mpmath.exp(e) * mpmath.ncdf(-ratio / 2 - e / ratio)


@pytest.mark.parametrize("epsilon", [1e-2, 0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("deviation", [0.02, 0.1, 1.0, 3.0])
def test_delta_is_the_exact_formula(deviation: float, epsilon: float) -> None:
    found = certification.gaussian_delta(0.5, deviation, epsilon)
    assert found == pytest.approx(float(exact(0.5, deviation, epsilon)), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("deviation", "epsilon"), [(1.0, 0.5), (0.3, 2.0), (2.0, 0.1)])
def test_delta_is_the_mass_that_the_ratio_leaves(deviation: float, epsilon: float) -> None:
    """By integration of ``max(0, p - e^epsilon q)``, p and q the densities at a distance of 1."""
    at = np.linspace(-30, 30, 600_001)
    p, q = (
        np.exp(-((at - centre) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi)) for centre in (1, 0)
    )
    mass = float(np.maximum(p - math.exp(epsilon) * q, 0).sum() * (at[1] - at[0]))
    assert certification.gaussian_delta(1.0, deviation, epsilon) == pytest.approx(mass, rel=1e-6)


@pytest.mark.parametrize("epsilon", [1e-2, 0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1, 0.9])
@pytest.mark.parametrize("distance", [1e-6, 0.3, 50.0])
def test_the_deviation_is_the_least_that_suffices(distance: float, delta: float, epsilon: float) -> None:
    found = certification.gaussian_deviation(distance, epsilon, delta)
    assert float(exact(distance, found, epsilon)) <= delta * (1 + 1e-7)
    assert float(exact(distance, found * 0.9999, epsilon)) > delta


def test_the_classical_mechanism_needs_more_noise() -> None:
    for epsilon in (0.1, 0.5, 1.0):
        classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / epsilon
        assert certification.gaussian_deviation(1.0, epsilon, 1e-5) < classical


def test_no_distance_needs_no_noise() -> None:
    assert certification.gaussian_deviation(0.0, 1.0, 1e-5) == 0.0
    assert certification.gaussian_delta(0.0, 1.0, 1.0) == 0.0


def test_secret_noise_is_the_quantile_of_the_bits_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [0, 1, 2**51 - 1, 2**51, 2**50, 2**52 - 1, 2**64 - 1]
    monkeypatch.setattr("os.urandom", lambda count: np.array(words, np.uint64).tobytes()[:count])
    found = certification.secret_noise(torch.Size([7, 1]))
    with mpmath.workdps(40):
        shares = [(mpmath.mpf(word % 2**52) + 0.5) / 2**52 for word in words]
        expected = [float(mpmath.sqrt(2) * mpmath.erfinv(2 * share - 1)) for share in shares]
    assert found.shape == (7, 1)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-18)
    assert found[0] == -found[-1]


def test_secret_noise_is_normal_and_new_whatever_is_seeded() -> None:
    """Of what the system gives: the distance of Kolmogorov and Smirnov exceeds the limit by a chance of 1e-17."""
    torch.manual_seed(0)
    first = certification.secret_noise(torch.Size([400, 500]))
    torch.manual_seed(0)
    second = certification.secret_noise(torch.Size([400, 500]))
    middle = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for noise in (first, second, (first - second) / math.sqrt(2), (first + second) / math.sqrt(2)):
        assert float((torch.special.ndtr(noise.flatten().sort().values) - middle).abs().max()) < 0.01


# The method


def test_the_noise_is_secret_unless_asked_otherwise() -> None:
    """Two runs of one seed, ten times 51 weights: their sum of squares is beyond the limits by a chance below 1e-9."""
    assert not CertifiedRemovalConfig().repeatable
    start, secret = minimiser(kept(0), 0.1), replace(CONFIG, repeatable=False)
    noise = torch.randn(3, 17, generator=problems.context().generator, dtype=torch.float64)
    seeded, noted = remove(CONFIG, linear(start))
    sigma, plain = noted["sigma"], matrix(seeded) - noted["sigma"] * noise
    released = [(matrix(model), note) for model, note in (remove(secret, linear(start)) for _ in range(20))]
    drawn = torch.stack([(weights - plain) / sigma for weights, _ in released])
    assert all(note == {**noted, "noise": "secret"} for _, note in released)
    for each in drawn:
        assert float((each - noise).abs().max()) > 1e-3
    differences = (drawn[:10] - drawn[10:]) / math.sqrt(2)
    assert 0.8 < float(differences.square().mean().sqrt()) < 1.2
    assert abs(float(drawn.mean())) < 0.2
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == 20


def test_repeatable_noise_is_that_of_the_seed_and_voids_the_certificate() -> None:
    start = minimiser(kept(0), 0.1)
    (first, noted), (second, _) = (remove(CONFIG, linear(start)) for _ in range(2))
    assert torch.equal(matrix(first), matrix(second))
    assert noted["noise"] == "drawn from the seed: the certificate does not hold against an attacker who knows the seed"
    other, _ = remove(CONFIG, linear(start), context=problems.context(seed=1))
    assert not torch.equal(matrix(first), matrix(other))


def test_a_sigma_chosen_from_the_data_is_said_to_be() -> None:
    start = minimiser(kept(0), 1.0)
    _, chosen = remove(replace(CONFIG, l2=1.0), linear(start))
    _, fixed = remove(replace(CONFIG, l2=1.0, budget=0.5), linear(start))
    assert chosen["conditional"] == certification.CHOSEN
    assert "fix a budget beforehand" in certification.CHOSEN
    assert fixed["conditional"] is None
    assert fixed["sigma"] == certification.gaussian_deviation(0.5, 1.0, 1e-5)


def test_what_is_released_is_the_newton_step_and_one_draw_of_noise() -> None:
    start = minimiser(kept(0), 0.1)
    model, noted = remove(CONFIG, linear(start))
    keep = kept(10)
    dense = softmax_linear.hessian(X[keep], (X[keep] @ start.T).softmax(1))
    dense.diagonal().add_(0.1)
    slope = certification.gradient(start, X[keep], Y[keep], 0.1)
    noise = torch.randn(3, 17, generator=problems.context().generator, dtype=torch.float64)
    expected = start - torch.linalg.solve(dense, slope.flatten()).view_as(start) + noted["sigma"] * noise
    torch.testing.assert_close(matrix(model), expected, rtol=1e-7, atol=1e-9)
    assert noted["sigma"] == certification.gaussian_deviation(noted["budget"], 1.0, 1e-5)
    assert noted["budget"] == noted["bound"] == noted["gradient_norm"] / 0.1
    assert (noted["epsilon"], noted["delta"], noted["covers"]) == (1.0, 1e-5, "the whole model")


def test_more_steps_come_closer() -> None:
    start = minimiser(kept(0), 0.01)
    bounds = [remove(replace(CONFIG, l2=0.01, steps=steps), linear(start), 40)[1]["bound"] for steps in (1, 2, 3)]
    assert bounds[1] < 0.1 * bounds[0]
    assert bounds[2] < 0.1 * bounds[1]


def test_a_budget_sets_the_noise_and_what_else_may_go() -> None:
    start, config = minimiser(kept(0), 1.0), replace(CONFIG, l2=1.0, budget=0.5)
    _, noted = remove(config, linear(start))
    _, other = remove(config, linear(start), m=20)
    assert noted["sigma"] == other["sigma"], "whatever was deleted"
    assert noted["bound"] < noted["budget"] == 0.5
    assert 0 < noted["capacity"] < COUNT
    with pytest.raises(RunError, match="the budget is 1e-06: take more steps, or retrain"):
        remove(replace(config, budget=1e-6), linear(start))


def test_the_forget_set_is_not_read() -> None:
    start = linear(minimiser(kept(0), 0.1))
    nothing = replace(IMAGES.select(~kept(10)), inputs=torch.full((10, 1, 4, 4), torch.nan))
    found = [
        certified_removal.unlearn(model, given, CONFIG, problems.context())
        for model, given in ((linear(matrix(start)), data(10)), (start, replace(data(10), forget=nothing)))
    ]
    assert torch.equal(matrix(found[0]), matrix(found[1]))


def test_pruned_weights_stay_zero_and_do_not_count() -> None:
    pruned = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    start = minimiser(kept(0), 0.1)
    start[:, :-1] *= pruned
    context = problems.context(sparsity=Mask({"1.weight": pruned}))
    with pytest.raises(RequestError, match="backbone_is_public=true"):
        remove(CONFIG, linear(start), context=context)
    model, noted = remove(replace(CONFIG, backbone_is_public=True, steps=8), linear(start), context=context)
    assert not bool(matrix(model)[:, :-1][~pruned].any())
    assert noted["bound"] < 1e-12, "no gradient is left on the others"
    assert "taken as given" in noted["covers"]


def test_of_a_network_only_the_head_moves_and_only_it_is_certified() -> None:
    before, context = problems.model(), problems.context()
    config = replace(CONFIG, backbone_is_public=True, reference_gradient_norm=0.5)
    after = certified_removal.unlearn(problems.model(), problems.data(), config, context)
    for (name, found), old in zip(after.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(found, old) == (not name.startswith("5."))
    noted: Any = context.notes["certificate"]
    assert noted["covers"].startswith("the last linear layer")
    assert noted["bound"] == pytest.approx((noted["gradient_norm"] + 0.5) / 0.1)


def test_what_a_certificate_supposes_is_asked_for() -> None:
    with pytest.raises(RequestError, match="strongly convex"):
        CertifiedRemovalConfig(l2=0.0)
    frozen_below = problems.model(batch_norm=False)
    frozen_below[0].requires_grad_(False)
    statistics = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, affine=False), nn.Linear(16, 3))
    for model in (problems.model(batch_norm=False), frozen_below, statistics):
        with pytest.raises(RequestError, match="no change of the last layer removes"):
            certified_removal.unlearn(model, problems.data(), CONFIG, problems.context())
    start = minimiser(kept(0), 0.1)
    mask = Mask({"1.bias": torch.tensor([True, False, True])})
    with pytest.raises(RequestError, match="without an update mask"):
        remove(CONFIG, linear(start), context=problems.context(update_masks=mask))
    bad = replace(data(10).retain, inputs=torch.full((90, 1, 4, 4), torch.inf))
    with pytest.raises(RequestError, match="features are not finite"):
        certified_removal.unlearn(linear(start), replace(data(10), retain=bad), CONFIG, problems.context())
    tail = nn.Sequential(linear(start), nn.Tanh())
    with pytest.raises(RequestError, match="linear layer"):
        certified_removal.unlearn(tail, data(10), CONFIG, problems.context())


def test_the_constants_of_the_input_step_are_no_backbone() -> None:
    model = with_normalisation(linear(minimiser(kept(0), 0.1)), (0.5,), (0.25,)).double()
    _, noted = remove(CONFIG, model)
    assert noted["covers"] == "the whole model"
