"""Curvature against autograd and dense algebra, and the two methods that are one change of the weights."""

import dataclasses
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from expunge.core import registry
from expunge.core import weights as model_weights
from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask, largest
from expunge.curvature import fisher, gram, kronecker, products, solve
from expunge.curvature.network import flat, frozen, mean_gradient, shaped
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.methods import fisher_forgetting, influence
from expunge.methods.fisher_forgetting import FisherForgettingConfig
from expunge.methods.influence import InfluenceConfig
from expunge.training.context import Context
from tests import problems

IMAGES = problems.images(9, seed=4)
DOUBLE = torch.float64


def trained() -> nn.Module:
    """The small network with batch normalisation whose statistics and scale are not the trivial ones."""
    model = problems.model()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model[1].running_mean.copy_(torch.randn(4, generator=generator) / 10)
        model[1].running_var.copy_(0.5 + torch.rand(4, generator=generator))
    return model


def loss_of(model: nn.Module, images: ImageSet, each: bool = False) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The oracle: the weights as one float64 vector, and the loss as a function of it."""
    copied = model_weights.clone(model).double().eval()
    names = dict(copied.named_parameters())
    inputs = (images.inputs / 255).double()  # as batches round them

    def logits(vector: Tensor) -> Tensor:
        return functional_call(copied, shaped(vector, names), (inputs,))

    def loss(vector: Tensor) -> Tensor:
        return functional.cross_entropy(logits(vector), images.labels, reduction="none" if each else "mean")

    return flat(names).detach(), loss


def one_gradients(model: nn.Module, images: ImageSet) -> Tensor:
    """G (n, p) by an explicit Jacobian."""
    theta, losses = loss_of(model, images, each=True)
    return jacrev(losses)(theta)


close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)


def test_the_gradient_is_that_of_the_mean_loss() -> None:
    theta, loss = loss_of(trained(), IMAGES)
    with frozen(trained(), DOUBLE) as network:
        close(flat(mean_gradient(network, IMAGES, 4)), jacrev(loss)(theta))


def test_hessian_vector_products() -> None:
    theta, loss = loss_of(trained(), IMAGES)
    dense = jacrev(jacrev(loss))(theta)
    with frozen(trained(), DOUBLE) as network:
        v = problems.random_like(network.weights)
        close(flat(products.hessian_vector(network, IMAGES, v, 4)), dense @ flat(v))


def test_gauss_newton_vector_products() -> None:
    model = trained()
    copied = model_weights.clone(model).double().eval()
    names = dict(copied.named_parameters())
    inputs = (IMAGES.inputs / 255).double()

    def logits(vector: Tensor) -> Tensor:
        return functional_call(copied, shaped(vector, names), (inputs,))

    theta = flat(names).detach()
    jacobian, p = jacrev(logits)(theta), logits(theta).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    dense = torch.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / len(IMAGES)
    with frozen(model, DOUBLE) as network:
        v = problems.random_like(network.weights)
        close(flat(products.gauss_newton_vector(network, IMAGES, v, 4)), dense @ flat(v))
        true = flat(fisher.true_fisher(network, IMAGES, 10**6))
    close(true, dense.diagonal())  # the Gauss-Newton matrix of the cross-entropy is the true Fisher matrix


def test_derivatives_along_vectors() -> None:
    unknown = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    for model in (trained(), perceptron(), unknown):
        g = one_gradients(model, IMAGES)
        with frozen(model, DOUBLE) as network:
            v, w = problems.random_like(network.weights), problems.random_like(network.weights, 1)
            both = {name: torch.stack([v[name], w[name]]) for name in v}
            found = products.slopes_along(network, IMAGES, both, 4)
        close(found, torch.stack([flat(v), flat(w)]) @ g.T)


@pytest.mark.parametrize("memory", [1, 10**5, 10**8])
def test_fisher_diagonals_are_loops_over_examples_and_classes(memory: int) -> None:
    model, count = trained().double().eval(), len(IMAGES)
    empirical, true = 0.0, 0.0
    for image, label in zip(IMAGES.inputs, IMAGES.labels, strict=True):
        log_p = model((image[None] / 255).double()).log_softmax(1)[0]
        for chosen in range(3):
            found = torch.autograd.grad(log_p[chosen], list(model.parameters()), retain_graph=True)
            square = torch.cat([each.flatten() for each in found]).square()
            true += log_p[chosen].exp().detach() * square / count
            empirical += square / count if chosen == label else 0.0
    with frozen(trained(), DOUBLE) as network:
        close(flat(fisher.empirical_fisher(network, IMAGES, memory)), empirical)
        close(flat(fisher.true_fisher(network, IMAGES, memory)), true)
        close(
            flat(fisher_forgetting.released_curvature(network, IMAGES, 1)),
            true,
        )


def test_chunks_obey_the_memory_budget() -> None:
    with frozen(trained()) as network:
        sizes = [fisher.chunk_size(network, IMAGES, memory) for memory in (0, 10**5, 2 * 10**5, 10**12)]
        gradient = 4 * model_weights.count(trained())
    assert sizes[0] == 1
    assert sizes[-1] == fisher.LARGEST_CHUNK["cpu"]
    assert 1 < sizes[1] < 10**5 / (3 * gradient)
    assert 2 * sizes[1] <= sizes[2] <= 2 * sizes[1] + 1


@pytest.mark.parametrize("damping", [1.0, 1e-3])
@pytest.mark.parametrize("memory", [3000, 40_000, 10**8])  # some columns at a time, or all
def test_gram_solves_are_dense_solves(damping: float, memory: int) -> None:
    g = one_gradients(trained(), IMAGES)
    dense = damping * torch.eye(g.shape[1], dtype=DOUBLE) + g.T @ g / len(g)
    with frozen(trained(), DOUBLE) as network:
        v = problems.random_like(network.weights)
        found = flat(gram.fisher_solve(network, IMAGES, v, damping, memory))
    torch.testing.assert_close(found, torch.linalg.solve(dense, flat(v)), rtol=1e-7, atol=1e-8)


def test_gram_solves_leave_out_weights_that_do_not_move() -> None:
    g = one_gradients(trained(), IMAGES)
    with frozen(trained(), DOUBLE) as network:
        free = {name: each > 0 for name, each in problems.random_like(network.weights, 1).items()}
        kept = flat(free)
        v = {name: each * free[name] for name, each in problems.random_like(network.weights).items()}
        found = flat(gram.fisher_solve(network, IMAGES, v, 0.1, 20_000, free))
    part = g[:, kept]
    dense = 0.1 * torch.eye(part.shape[1], dtype=DOUBLE) + part.T @ part / len(g)
    torch.testing.assert_close(found[kept], torch.linalg.solve(dense, flat(v)[kept]), rtol=1e-7, atol=1e-8)
    assert not bool(found[~kept].any())


def perceptron() -> nn.Module:
    """Linear layers alone, whose columns are not formed."""
    generator = torch.Generator().manual_seed(7)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return model


@pytest.mark.parametrize("still", [None, "1.weight", "3.weight", "1.bias"])
@pytest.mark.parametrize("memory", [1000, 10**8])
def test_gram_solves_of_linear_layers_are_dense_solves(still: str | None, memory: int) -> None:
    """Where some of the weights of one are still, the columns of that are formed."""
    g = one_gradients(perceptron(), IMAGES)
    with frozen(perceptron(), DOUBLE) as network:
        free = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in network.weights.items()}
        if still is not None:
            free[still].view(-1)[::2] = False
        kept = flat(free)
        v = {name: each * free[name] for name, each in problems.random_like(network.weights).items()}
        found = flat(gram.fisher_solve(network, IMAGES, v, 0.03, memory, None if still is None else free))
    part = g[:, kept]
    dense = 0.03 * torch.eye(part.shape[1], dtype=DOUBLE) + part.T @ part / len(g)
    torch.testing.assert_close(found[kept], torch.linalg.solve(dense, flat(v)[kept]), rtol=1e-8, atol=1e-9)
    assert not bool(found[~kept].any())


def test_gram_solves_where_a_convolution_and_a_normalisation_have_one_output() -> None:
    """Their gradients are outer products too, of tensors of four dimensions and of one."""
    generator = torch.Generator().manual_seed(7)
    layers = nn.BatchNorm2d(1), nn.Conv2d(1, 5, 4), nn.BatchNorm2d(5), nn.Flatten(), nn.BatchNorm1d(5), nn.Linear(5, 3)
    model = nn.Sequential(*layers, nn.BatchNorm1d(3)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    single = nn.Sequential(nn.Conv2d(1, 1, 4), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 3)).eval()
    for each in (model, single):
        g = one_gradients(each, IMAGES)
        with frozen(each, DOUBLE) as network:
            v = problems.random_like(network.weights)
            found = flat(gram.fisher_solve(network, IMAGES, v, 0.03, 10**8))
        dense = 0.03 * torch.eye(g.shape[1], dtype=DOUBLE) + g.T @ g / len(g)
        torch.testing.assert_close(found, torch.linalg.solve(dense, flat(v)), rtol=1e-8, atol=1e-9)


def test_gram_solves_are_the_recursion_of_woodfisher() -> None:
    """``F_k^-1 = F_{k-1}^-1 - F_{k-1}^-1 g g^T F_{k-1}^-1 / (n + g^T F_{k-1}^-1 g)`` from ``F_0 = damping I``."""
    damping, g = 0.05, one_gradients(trained(), IMAGES)
    inverse = torch.eye(g.shape[1], dtype=DOUBLE) / damping
    for each in g:
        o = inverse @ each
        inverse -= torch.outer(o, o) / (len(g) + each @ o)
    with frozen(trained(), DOUBLE) as network:
        v = problems.random_like(network.weights)
        found = flat(gram.fisher_solve(network, IMAGES, v, damping, 10**8))
    torch.testing.assert_close(found, inverse @ flat(v), rtol=1e-8, atol=1e-9)


def matrix(eigenvalues: Tensor) -> tuple[Tensor, dict[str, Tensor], Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """A symmetric matrix, a right side in two parts, and the product."""
    generator = torch.Generator().manual_seed(0)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=DOUBLE)).Q
    dense = basis @ torch.diag(eigenvalues.double()) @ basis.T
    right = {"a": torch.randn(2, 3, generator=generator, dtype=DOUBLE), "b": torch.ones(size - 6, dtype=DOUBLE)}
    return dense, right, lambda vector: shaped(dense @ flat(vector), vector)


def test_conjugate_gradient_is_a_dense_solve_within_as_many_steps_as_eigenvalues() -> None:
    dense, right, apply = matrix(torch.tensor([1.0, 2.0, 5.0]).repeat(4))
    found = solve.conjugate_gradient(apply, right, 1e-10, 20)
    torch.testing.assert_close(flat(found.vector), torch.linalg.solve(dense, flat(right)), rtol=1e-8, atol=1e-9)
    assert found.iterations == 3
    assert found.residual <= 1e-10


def test_conjugate_gradient_says_why_it_failed() -> None:
    _, right, apply = matrix(torch.logspace(-6, 6, 12))
    with pytest.raises(RunError, match="after 2 iterations"):
        solve.conjugate_gradient(apply, right, 1e-6, 2)
    _, right, apply = matrix(-torch.ones(12))
    with pytest.raises(RunError, match="raise the damping"):
        solve.conjugate_gradient(apply, right, 1e-6, 20)
    with pytest.raises(RunError, match="iterations"):
        solve.conjugate_gradient(apply, {name: each * torch.nan for name, each in right.items()}, 1e-6, 20)


SOLVERS = [
    partial(solve.conjugate_gradient, tolerance=1e-9, iterations=20),
    partial(
        solve.conjugate_gradient,
        tolerance=1e-9,
        iterations=20,
        precondition=lambda vector: {name: (2 + each.ndim) * each for name, each in vector.items()},
    ),
    partial(solve.lissa, scale=4.0, depth=200),
    partial(solve.lissa, scale=2.6, depth=10**6, tolerance=1e-9),
]
solvers = pytest.mark.parametrize("solver", SOLVERS, ids=["cg", "preconditioned", "lissa", "lissa-tolerance"])


@solvers
def test_every_solver_solves(solver: Callable[..., solve.Solution]) -> None:
    dense, right, apply = matrix(torch.linspace(0.5, 5.0, 12))
    given = {name: each.clone() for name, each in right.items()}
    found = solver(apply, right)
    torch.testing.assert_close(flat(found.vector), torch.linalg.solve(dense, flat(right)), rtol=1e-7, atol=1e-8)
    assert found.residual <= 1e-9
    assert all(torch.equal(right[name], each) for name, each in given.items()), "the right side is left alone"


@solvers
def test_every_solver_finds_nothing_for_nothing(solver: Callable[..., solve.Solution]) -> None:
    _, right, apply = matrix(torch.ones(12))
    found = solver(apply, {name: 0 * each for name, each in right.items()})
    assert (found.iterations, found.residual) == (0, 0.0)
    assert not bool(flat(found.vector).any())


@solvers
def test_every_solver_refuses_what_has_no_solution(solver: Callable[..., solve.Solution]) -> None:
    _, right, apply = matrix(torch.linspace(-2.0, 5.0, 12))
    with pytest.raises(RunError, match="raise the damping"):
        solver(apply, right)
    with pytest.raises(RunError, match=r"nan|finite"):
        solver(lambda vector: {name: each * torch.nan for name, each in vector.items()}, right)
    with pytest.raises(RunError, match=r"nan|finite|inf"):
        solver(lambda vector: {name: each * torch.inf for name, each in vector.items()}, right)


def test_an_exact_preconditioner_needs_one_iteration() -> None:
    dense, right, apply = matrix(torch.logspace(-3, 3, 12))
    inverse = torch.linalg.inv(dense)
    found = solve.conjugate_gradient(apply, right, 1e-8, 1, lambda vector: shaped(inverse @ flat(vector), vector))
    assert found.iterations == 1
    torch.testing.assert_close(flat(found.vector), inverse @ flat(right), rtol=1e-7, atol=1e-7)


def test_a_preconditioner_that_is_not_positive_definite_is_refused() -> None:
    _, right, apply = matrix(torch.linspace(0.5, 5.0, 12))
    with pytest.raises(RunError, match="preconditions"):
        solve.conjugate_gradient(apply, right, 1e-8, 50, lambda vector: {name: -each for name, each in vector.items()})


@pytest.mark.parametrize("depth", [1, 3])
def test_the_neumann_series_is_cut_off_after_so_many_terms(depth: int) -> None:
    dense, right, apply = matrix(torch.linspace(0.5, 5.0, 12))
    step = torch.eye(12, dtype=DOUBLE) - dense / 4
    expected = sum(torch.linalg.matrix_power(step, power) @ flat(right) / 4 for power in range(depth))
    found = solve.lissa(apply, right, scale=4.0, depth=depth)
    close(flat(found.vector), expected)
    left = flat(right) - dense @ flat(found.vector)
    assert found.residual == pytest.approx(float(left.norm() / flat(right).norm()), rel=1e-9)
    assert found.iterations == depth


def test_a_neumann_series_of_too_small_a_scale_is_refused_with_the_cure() -> None:
    _, right, apply = matrix(torch.linspace(0.5, 5.0, 12))
    with pytest.raises(RunError, match="larger scale"):
        solve.lissa(apply, right, scale=2.2, depth=40)


def test_modes_weights_and_statistics_are_as_before() -> None:
    model = trained().train()
    model[5].eval()
    before = problems.state(model)
    with frozen(model, DOUBLE) as network:
        assert not model.training
        fisher.true_fisher(network, IMAGES, 10**6)
        products.gauss_newton_vector(network, IMAGES, problems.random_like(network.weights))
    assert [module.training for module in model] == [True] * 5 + [False]
    assert problems.same(model, before)
    assert all(weight.grad is None for weight in model.parameters())


def test_layers_that_mix_examples_and_models_without_weights_are_refused() -> None:
    mixing = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(RequestError, match="track_running_stats"), frozen(mixing):
        pass
    with pytest.raises(RequestError, match="no trainable weights"), frozen(trained().requires_grad_(False)):
        pass


# The methods

needs_curvlinops = pytest.mark.skipif(find_spec("curvlinops") is None, reason="expunge[curvature] is not installed")

CONFIGS = [
    FisherForgettingConfig(alpha=1e-3),
    FisherForgettingConfig(alpha=1e-3, labels="true"),
    FisherForgettingConfig(alpha=1e-3, as_released=True),
    InfluenceConfig(),
    InfluenceConfig(solver="cg", damping=0.1),
    InfluenceConfig(solver="lissa", damping=0.1),
    pytest.param(InfluenceConfig(solver="kfac", damping=0.1, tolerance=1e-5), marks=needs_curvlinops),
    pytest.param(InfluenceConfig(solver="ekfac", damping=0.1, tolerance=1e-5), marks=needs_curvlinops),
    InfluenceConfig(as_released=True),
]
configs = pytest.mark.parametrize("config", CONFIGS, ids=str)


@configs
def test_alpha_zero_is_the_identity(config: object) -> None:
    no_class_left = dataclasses.replace(problems.data(), retain=without(2))
    found = problems.unlearned(dataclasses.replace(config, alpha=0.0), trained(), no_class_left)
    assert problems.same(found, trained())


@configs
def test_every_weight_moves_but_those_that_are_frozen_or_pruned(config: object) -> None:
    before = problems.weights(trained())
    generator = torch.Generator().manual_seed(2)
    scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in before.items()}
    kept, moving = largest(scores, 0.6), largest({name: 1 - each for name, each in scores.items()}, 0.7)
    after = problems.weights(problems.unlearned(config, trained(), sparsity=kept, update_masks=moving))
    for name, weight in after.items():
        assert not bool(weight[~kept[name]].any())
        still = kept[name] & ~moving[name]
        assert torch.equal(weight[still], before[name][still])
    moved = torch.cat([(after[name] != before[name])[kept[name] & moving[name]] for name in after])
    assert float(moved.double().mean()) > 0.6, "all but those of units that no image reaches"


@configs
def test_pruned_weights_have_no_influence(config: object) -> None:
    """The kept weights of a layer get what they would get in a layer that never had the pruned ones."""
    if isinstance(config, FisherForgettingConfig) and config.as_released:
        pytest.skip("as released, pruned weights enter the means")
    if isinstance(config, InfluenceConfig) and config.solver == "ekfac":
        pytest.skip("the eigenvectors are those of whole layers")

    def linear(width: int) -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(width, 3, bias=False))
        with torch.no_grad():
            model[1].weight.copy_(torch.linspace(-1, 1, 48).view(3, 16)[:, :width])
        return model

    def first_rows(images: ImageSet, rows: int) -> ImageSet:
        return dataclasses.replace(images, inputs=images.inputs[:, :, :rows])

    def cut(rows: int) -> UnlearningData:
        full = problems.data()
        return dataclasses.replace(full, forget=first_rows(full.forget, rows), retain=first_rows(full.retain, rows))

    kept = torch.zeros(3, 16, dtype=torch.bool)
    kept[:, :12] = True
    sparse, small = linear(16), linear(12)
    with torch.no_grad():
        sparse[1].weight[~kept] = 0.0
    same = isinstance(config, InfluenceConfig)
    for model, data, mask in ((sparse, cut(4), Mask({"1.weight": kept})), (small, cut(3), None)):
        function = registry.of_config("methods", config).function
        function(model, data, config, problems.context(sparsity=mask))
    found, expected = sparse[1].weight[:, :12], small[1].weight
    if same:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    else:  # other draws: compare the variances
        assert torch.isfinite(found).all()
        curvature = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
        whole = fisher_forgetting.variance({"w": curvature * kept}, 1.0, ("w",), {"w": kept})["w"]
        part = fisher_forgetting.variance({"w": curvature[:, :12]}, 1.0, ("w",))["w"]
        torch.testing.assert_close(whole[:, :12], part)
        assert not bool(whole[:, 12:].any())


@configs
def test_a_mask_for_each_role_is_refused(config: object) -> None:
    masks = {"forget": Mask({}), "retain": Mask({})}
    with pytest.raises(RequestError, match="takes no steps"):
        problems.run(config, trained(), update_masks=masks)


@configs
def test_images_that_are_not_finite_fail_with_the_reason(config: object) -> None:
    data = problems.data()
    bad = dataclasses.replace(data.retain, inputs=torch.full(data.retain.inputs.shape, torch.nan))
    with pytest.raises(RunError, match=r"finite|nan"):
        problems.run(config, trained(), dataclasses.replace(data, retain=bad))


def without(label: int) -> ImageSet:
    retain = problems.data().retain
    return retain.select(retain.labels != label)


def noise() -> dict[str, Tensor]:
    return problems.random_like(problems.weights(trained()))


def direct(config: FisherForgettingConfig, data: UnlearningData, context: Context) -> dict[str, Tensor]:
    model = fisher_forgetting.unlearn(trained(), data, config, context)
    return problems.weights(model)


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("label", [0, 2])
def test_only_classes_without_a_retained_example_are_cleared(label: int, as_released: bool) -> None:
    config = FisherForgettingConfig(alpha=1e-9, as_released=as_released)
    before = problems.weights(trained())
    context = problems.context()
    found = direct(config, dataclasses.replace(problems.data(), retain=without(label)), context)
    assert context.notes["cleared_classes"] == [label]
    others = [row for row in range(3) if row != label]
    for name in ("5.weight", "5.bias"):
        expected = (1e-4 * 10) ** 0.5 * noise()[name][label]
        torch.testing.assert_close(found[name][label], expected, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found[name][others], before[name][others], rtol=0, atol=1e-2)
    kept = problems.context()
    found = direct(config, problems.data(), kept)
    assert "cleared_classes" not in kept.notes
    assert all(float((found[name] - before[name]).abs().max()) < 1e-2 for name in found)


def test_fisher_forgetting_adds_noise_of_the_stated_variance() -> None:
    config, data = FisherForgettingConfig(alpha=1e-4), problems.data()
    with frozen(trained()) as network:
        found = fisher.true_fisher(network, data.retain, 10**9)
    v = {name: 1e-4 * (1 / (each + 1e-8)).clamp(max=1e2 if name[0] == "5" else 1e3) for name, each in found.items()}
    v["0.weight"] = v["0.weight"].mean(dim=1, keepdim=True).expand(4, 1, 3, 3)
    v["5.weight"] = 10 * v["5.weight"].mean(dim=1, keepdim=True).expand(3, 64)
    v |= {name: 10 * v[name] for name in ("1.weight", "1.bias", "5.bias")}
    after = direct(config, data, problems.context())
    for name, weight in trained().named_parameters():
        torch.testing.assert_close(after[name], weight.detach() + v[name].sqrt() * noise()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("as_released", [False, True])
def test_means_are_over_kept_weights_and_as_released_over_pruned_ones_too(as_released: bool) -> None:
    """As released, a pruned weight counts with the largest variance, as it has no curvature."""
    model, data = trained(), problems.data()
    generator = torch.Generator().manual_seed(3)
    kept = {name: torch.rand(w.shape, generator=generator) < 0.5 for name, w in model.named_parameters()}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.masked_fill_(~kept[name], 0.0)
    before = problems.weights(model)
    with frozen(model) as network:
        if as_released:
            found = fisher_forgetting.released_curvature(network, data.retain, 32)
        else:
            found = fisher.true_fisher(network, data.retain, 10**9)
    active = kept["5.weight"]
    v = (1 / (found["5.weight"] * active + 1e-8)).clamp(max=1e2)
    mean = v.mean(dim=1) if as_released else (v * active).sum(dim=1) / active.sum(dim=1)
    config = FisherForgettingConfig(alpha=1e-4, as_released=as_released)
    fisher_forgetting.unlearn(model, data, config, problems.context(sparsity=Mask(kept)))
    expected = before["5.weight"] + active * (1e-3 * mean[:, None]).sqrt() * noise()["5.weight"]
    torch.testing.assert_close(model[5].weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_last_layer_is_told_by_its_place_unless_as_released() -> None:
    weights = {
        name: torch.zeros(shape)
        for name, shape in {
            "a.weight": (10, 3, 3, 3),
            "norm.weight": (10,),
            "fc.weight": (10, 8),
            "fc.bias": (10,),
            "scale": (),
        }.items()
    }
    assert fisher_forgetting.head(weights, 10, False) == ("fc.weight", "fc.bias")
    assert fisher_forgetting.head(weights, 10, True) == ("a.weight", "norm.weight", "fc.weight", "fc.bias")
    assert fisher_forgetting.head(weights, 7, False) == ()


def test_influence_is_one_newton_step_in_closed_form() -> None:
    data, config = problems.data(), InfluenceConfig(alpha=0.7, damping=0.05)
    forget, retain = (one_gradients(trained(), images) for images in (data.forget, data.retain))
    total = len(forget) + len(retain)
    v = forget.sum(0) / total - len(forget) / (total * len(retain)) * retain.sum(0)
    dense = 0.05 * torch.eye(len(v), dtype=DOUBLE) + retain.T @ retain / len(retain)
    expected = problems.vector(trained()) + 0.7 * torch.linalg.solve(dense, v)
    found = problems.vector(influence.unlearn(trained(), data, config, problems.context()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "solver", ["cg", "lissa", *(pytest.param(kind, marks=needs_curvlinops) for kind in ("kfac", "ekfac"))]
)
@pytest.mark.parametrize("held", [False, True])
def test_influence_solves_the_system_of_its_curvature_over_the_free_weights(
    solver: Literal["cg", "lissa", "kfac", "ekfac"], held: bool
) -> None:
    data = problems.data()
    config = InfluenceConfig(solver=solver, damping=0.1, tolerance=1e-5, scale=0.5)
    generator = torch.Generator().manual_seed(6)
    kept = {name: torch.rand(w.shape, generator=generator) < 0.7 for name, w in trained().named_parameters()}
    context = problems.context(update_masks=Mask(kept) if held else None)
    after = influence.unlearn(trained(), data, config, context)
    change = problems.vector(after) - problems.vector(trained())
    free = flat(kept) if held else torch.ones_like(change, dtype=torch.bool)
    with frozen(trained(), DOUBLE) as network:
        step = shaped(change, network.weights)
        if solver in ("cg", "lissa"):
            product = flat(products.gauss_newton_vector(network, data.retain, step)) + 0.1 * change
        else:
            product = flat(kronecker.factored(network, data.retain, 0.1, solver, 10**8).product(step))
        v = flat(influence.direction(network, data, 256))
    assert not bool(change[~free].any())
    torch.testing.assert_close(product[free], v[free], rtol=1e-3, atol=1e-5)
    taken = context.notes[solver]["iterations"]
    assert taken == 1 if solver in ("kfac", "ekfac") and not held else taken > 1


@pytest.mark.parametrize("count", [1000, 5])  # where N0 is small the recursion does much, and ends before the images
def test_the_released_recursion_is_its_closed_form(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, "RELEASED_COUNT", count)
    data = problems.data(retain=40)
    forget, retain = (one_gradients(trained(), images) for images in (data.forget, data.retain))
    v = len(forget) / 50 * (forget.mean(0) - retain.mean(0))
    o, k = retain[0].clone(), v.clone()
    for g in retain[1 : count + 2]:
        t = o @ g
        k -= (k @ g) / (count + t) * o
        o -= t / (count + t) * o
    assert float((k - v).norm()) > (1e-3 if count == 1000 else 0.05) * float(v.norm()), "it does something here"
    after = influence.unlearn(trained(), data, InfluenceConfig(as_released=True, alpha=3.0), problems.context())
    expected = problems.vector(trained()) + 3 * k
    torch.testing.assert_close(problems.vector(after), expected, rtol=1e-5, atol=1e-6)


def test_influence_draws_its_samples() -> None:
    images = problems.images(30)
    drawn = influence.sample(images, 12, torch.Generator().manual_seed(0))
    assert len(drawn) == 12
    assert bool(images.contains(drawn.ids).any())
    assert drawn.ids.tolist() != list(range(12)), "not the first of the split"
    assert influence.sample(images, 30, torch.Generator()) is images


def test_labels_of_the_data_are_not_as_released() -> None:
    with pytest.raises(RequestError, match="labels=model"):
        FisherForgettingConfig(labels="true", as_released=True)
