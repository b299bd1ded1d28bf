"""Hessian-free online unlearning along a recorded trajectory, against the recursions as they were published."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from expunge.data.image_set import make
from expunge.trajectory import adjoint, tangents
from expunge.trajectory.blocked import additive
from expunge.trajectory.flat_loss import FlatLoss, flat_loss
from expunge.trajectory.plan import Plan, Trajectory
from expunge.trajectory.steps import Replay, record
from tests.golden import cases
from tests.golden.cases import Case

CASES = ["trajectory_logistic", "trajectory_cnn"]


@contextmanager
def problem(name: str) -> Iterator[tuple[Case, FlatLoss, Trajectory]]:
    """The case, its loss in float64, and the trajectory as this package records it."""
    case = cases.load(name)
    given = case.hyperparameters
    images = case.tensors["images"]
    pixels = images.double() / 255 if images.dtype == torch.uint8 else images.double()
    found = make(pixels, case.tensors["labels"])
    model = cases.trajectory_network(case, case.tensors["initial"])
    batches = case.tensors["batch_plan"].long()
    rates = given["lr"] * given["decay"] ** torch.arange(len(batches), dtype=torch.float64)
    plan = Plan(found.ids, batches, rates, given["regularization"], given["clip"], 0.0)
    with flat_loss(model, found, torch.float64) as loss:
        yield case, loss, record(loss, plan)[0]


def ordered(loss: FlatLoss, vector: Tensor) -> Tensor:
    return loss.in_order(vector.detach().view(-1, vector.shape[-1])).view(vector.shape)


@pytest.mark.parametrize("name", CASES)
def test_weights_along_the_way(name: str) -> None:
    with problem(name) as (case, loss, trajectory):
        replay = Replay(loss, trajectory.plan, loss.flat(dict(trajectory.initial)))
        found = [step.weights for step in replay] + [replay.weights]
        case.check(ordered(loss, torch.stack(found)), "weights")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["as_released", "additive"])
def test_vectors_of_every_example(name: str, kind: str) -> None:
    with problem(name) as (case, loss, trajectory):
        each = torch.arange(len(case.tensors["labels"]))
        if kind == "additive":
            tangent: tangents.Tangent = additive(loss, trajectory, each, whole=True)
        else:
            tangent = tangents.AsReleased(loss, trajectory, each)
        end = tangents.carry(loss, trajectory, [tangent])
        case.check(ordered(loss, tangent.vectors), f"{kind}_vectors")
        case.check(ordered(loss, end + tangent.vectors[case.tensors["forget"].long()].sum(dim=0)), kind)


@pytest.mark.parametrize("name", CASES)
def test_set_aware(name: str) -> None:
    with problem(name) as (case, loss, trajectory):
        tangent = tangents.SetAware(loss, trajectory, cases.kept(case))
        end = tangents.carry(loss, trajectory, [tangent])
        case.check(ordered(loss, end + tangent.vectors[0]), "set_aware")


@pytest.mark.parametrize("name", CASES)
def test_retrained(name: str) -> None:
    with problem(name) as (case, loss, trajectory):
        replay = Replay(loss, trajectory.plan, loss.flat(dict(trajectory.initial)), kept=cases.kept(case))
        case.check(ordered(loss, replay.finish()), "retrained")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("memory", [10**9, 0])
def test_adjoint(name: str, memory: int) -> None:
    with problem(name) as (case, loss, trajectory):
        end = case.tensors["weights"][-1].double()
        weights = loss.flat(dict(loss.named(loss.weights)) | _named(loss, end))
        slope = loss.point(weights, torch.arange(len(case.tensors["labels"]))).gradient()
        found, _ = adjoint.influence(loss, trajectory, slope[None], memory)
        case.check(found[0], "influence_on_mean_loss")


def _named(loss: FlatLoss, plain: Tensor) -> dict[str, Tensor]:
    """A vector in the order of the names, by name."""
    named, start = {}, 0
    for name, like in loss.named(loss.weights).items():
        named[name] = plain[start : start + like.numel()].view(like.shape)
        start += like.numel()
    return named


@pytest.mark.parametrize("name", CASES)
def test_distances_to_retraining(name: str) -> None:
    case = cases.load(name)
    found = [case.tensors["weights"][-1], *(case.tensors[kind] for kind in ("as_released", "additive", "set_aware"))]
    case.check(torch.stack([(each - case.tensors["retrained"]).norm() for each in found]), "distances")
