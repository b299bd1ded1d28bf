"""The Newton step and the infinitesimal jackknife against dense solves, at the end of the recorded trajectories."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from expunge.core.errors import RunError
from expunge.curvature.network import Network, Vector, flat, frozen, shaped
from expunge.curvature.newton import Loss, NewtonConfig, losses
from expunge.data.image_set import make
from expunge.data.unlearning_data import UnlearningData
from expunge.methods import infinitesimal_jackknife, newton_step
from expunge.methods.infinitesimal_jackknife import InfinitesimalJackknifeConfig
from expunge.methods.newton_step import NewtonStepConfig
from expunge.training.context import Context
from tests.golden import cases
from tests.golden.cases import Case
from tests.problems import vector

CASES = ["trajectory_logistic", "trajectory_cnn"]


def network(case: Case) -> nn.Module:
    """The network at the end of its trajectory."""
    return cases.trajectory_network(case, case.tensors["weights"][-1])


def data(case: Case) -> UnlearningData:
    labels, kept = case.tensors["labels"], cases.kept(case)
    images = make(case.tensors["images"].double(), labels)
    return UnlearningData(images.select(~kept), images.select(kept), None, int(labels.max()) + 1)


def system(case: Case) -> dict[str, Any]:
    """The options that the case gives; its Hessian is whole, and dense solves are exact."""
    given = case.hyperparameters
    common = {"l2": given["regularization"], "damping": given["damping"]}
    return {**common, "curvature": "hessian", "tolerance": 1e-11, "iterations": 5000}


def newton(found: Network, forget: Loss, retain: Loss, config: NewtonConfig, step: Vector) -> tuple[Vector, Vector]:
    """The right side as this package has it, and the matrix times the case's step."""
    return newton_step.direction(found, forget, retain, config.towards, config.l2 or 0.0), retain.product(step)


def jackknife(found: Network, forget: Loss, retain: Loss, config: NewtonConfig, step: Vector) -> tuple[Vector, Vector]:
    share = forget.count / (forget.count + retain.count)
    parts = forget.product(step), retain.product(step)
    product = {name: share * each + (1 - share) * parts[1][name] for name, each in parts[0].items()}
    return infinitesimal_jackknife.direction(forget, retain, config.mean_over), product


METHODS: dict[str, tuple[Callable[..., nn.Module], NewtonConfig, Callable[..., tuple[Vector, Vector]]]] = {
    "newton_step": (newton_step.unlearn, NewtonStepConfig(towards="minimum"), newton),
    "infinitesimal_jackknife": (
        infinitesimal_jackknife.unlearn,
        InfinitesimalJackknifeConfig(mean_over="all"),
        jackknife,
    ),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("of", CASES)
def test_the_steps_of_the_cases_solve_our_systems(of: str, name: str) -> None:
    """Also where the matrix is indefinite, as of a network that has hardly been trained, and nobody should step."""
    case = cases.load(of)
    _, config, sides = METHODS[name]
    config = replace(config, **system(case))
    with frozen(network(case), torch.float64) as found:
        step = case.tensors[name].double() - flat(found.weights)
        right, product = sides(found, *losses(found, data(case), config), config, shaped(step, found.weights))
        case.check(flat(product) + (config.l2 + config.damping) * step, flat(right))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("of", "solver"), [*((of, "cg") for of in CASES), ("trajectory_logistic", "closed_form")])
def test_methods_take_the_steps_of_the_cases(of: str, name: str, solver: str) -> None:
    case = cases.load(of)
    method, config, _ = METHODS[name]
    model = network(case)
    convex = len(list(model.parameters())) == 2
    config = replace(config, **system(case), solver=solver)
    try:
        method(model, data(case), config, Context(torch.Generator().manual_seed(0)))
    except RunError:  # a Hessian that is not positive definite is refused: the test above is what there is
        assert not convex
        return
    case.check(vector(model), name)
