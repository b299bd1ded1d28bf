"""Fisher diagonals, Fisher forgetting and influence unlearning against the original implementations."""

import pytest
import torch
from torch import Tensor

from expunge.curvature.fisher import empirical_fisher, true_fisher
from expunge.curvature.network import flat, frozen, mean_gradient, shaped
from expunge.methods import fisher_forgetting, influence
from tests.golden import cases
from tests.golden.cases import Case, context

MEMORY = 10**7


def assert_double(case: Case, got: dict[str, Tensor], prefix: str) -> None:
    """Curvature is computed in float64 here: it depends on no order of sums."""
    cases.assert_close(case, {name: each.float() for name, each in got.items()}, prefix)


def test_fisher_diagonal() -> None:
    """``mean (d + e)^2 = F + 2 e mean d + e^2``, d the slope of the log-probability: minus that of the loss."""
    case = cases.load("fisher_diagonal")
    added = case.hyperparameters["epsilon"]
    with frozen(cases.tiny_model(), torch.float64) as network:
        found = empirical_fisher(network, cases.tiny_split("retain"), MEMORY)
        slope = mean_gradient(network, cases.tiny_split("retain"))
    assert_double(case, {name: each - 2 * added * slope[name] + added**2 for name, each in found.items()}, "expected.")


def test_fisher_forgetting_as_released() -> None:
    case = cases.load("fisher_forgetting")
    given = case.hyperparameters
    with frozen(cases.tiny_model(), torch.float64) as network:
        size = given["released_batch_size"]
        found = fisher_forgetting.released_curvature(network, cases.tiny_split("retain"), size)
    last = fisher_forgetting.head(found, given["num_classes"], as_released=True)
    variance = fisher_forgetting.variance(found, given["alpha"], last)
    assert_double(case, found, "as_released.accumulated.")
    assert_double(case, variance, "as_released.variance.")
    for name, value in case.prefixed("as_released.variance.").items():  # many are below the stated atol
        torch.testing.assert_close(variance[name].float(), value, rtol=case.rtol, atol=0)


def test_fisher_forgetting_as_released_moves_the_weights_by_that_variance() -> None:
    case = cases.load("fisher_forgetting")
    given, model, draws = case.hyperparameters, cases.tiny_model(), torch.Generator().manual_seed(0)
    expected = {
        name: weight.detach()
        + case.tensors[f"as_released.variance.{name}"].sqrt() * torch.randn(weight.shape, generator=draws)
        for name, weight in model.named_parameters()
    }
    config = fisher_forgetting.FisherForgettingConfig(
        alpha=given["alpha"], as_released=True, batch_size=given["released_batch_size"]
    )
    split = cases.tiny_data()
    assert not fisher_forgetting.forgotten_classes(split), "no class is wiped in this case"
    fisher_forgetting.unlearn(model, split, config, context())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=case.rtol, atol=1e-4)


def test_fisher_forgetting_in_the_form_of_the_paper() -> None:
    case = cases.load("fisher_forgetting")
    with frozen(cases.tiny_model(), torch.float64) as network:
        assert_double(case, true_fisher(network, cases.tiny_split("retain"), MEMORY), "paper.accumulated.")


def test_influence_as_released() -> None:
    case = cases.load("influence")
    assert case.hyperparameters["N0"] == influence.RELEASED_COUNT
    split = cases.tiny_data()
    with frozen(cases.tiny_model()) as network:
        v = influence.direction(network, split, 256)
        free = {name: torch.ones_like(each, dtype=torch.bool) for name, each in v.items()}
        case.check(flat(v), "gradient")
        step = influence.released_step(network, split.retain, v, free, 256)
        case.check(flat(step), "as_released.update")

    config = influence.InfluenceConfig(alpha=case.hyperparameters["alpha"], as_released=True)
    cases.assert_method_agrees(case, influence.unlearn, config, "as_released.model.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_influence_in_the_form_of_the_paper(dtype: torch.dtype) -> None:
    """The system is solved for the case's own right side: damping of 0.01 magnifies its rounding to float32."""
    case = cases.load("influence")
    retain = cases.tiny_split("retain")
    with frozen(cases.tiny_model(), dtype) as network:
        v = shaped(case.tensors["gradient"].to(dtype), network.weights)
        free = {name: torch.ones_like(each, dtype=torch.bool) for name, each in v.items()}
        for damping in case.hyperparameters["dampings"]:
            config = influence.InfluenceConfig(damping=damping)
            found = influence.solve(network, retain, v, free, config, context())
            case.check(flat(found), f"paper.update.damping_{damping:g}")
