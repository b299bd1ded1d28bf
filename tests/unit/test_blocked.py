"""Vectors by blocked products over several steps, against those computed one step at a time."""

import pytest
import torch

from expunge.trajectory import blocked, tangents
from expunge.trajectory.blocked import BlockedProducts, additive
from expunge.trajectory.flat_loss import LinearLoss, flat_loss
from expunge.trajectory.steps import record
from tests import problems
from tests.unit.test_trajectory import COUNT, carried, model, plan_of, problem

GROUPS = {
    "examples": torch.arange(COUNT),
    "in the order of training": torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)),
    "groups": torch.tensor([0, 0, 1, -1, 2, 2, 2, -1, 1, 0]),
    "all": torch.zeros(COUNT, dtype=torch.int64),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("width", [1, 5, 10**6])
@pytest.mark.parametrize("more", [{}, {"clip": 0.9}, {"momentum": 0.5}, {"batch_size": 1}, {"batch_size": 7}], ids=str)
def test_the_same_vectors(
    monkeypatch: pytest.MonkeyPatch, groups: torch.Tensor, whole: bool, width: int, more: dict[str, float]
) -> None:
    monkeypatch.setattr(blocked, "WIDTH", width)
    monkeypatch.setattr(blocked, "BLOCK", 2)
    with problem("linear", **more) as (loss, trajectory, _):
        assert isinstance(loss, LinearLoss)
        expected = carried(loss, trajectory, tangents.Additive(loss, trajectory, groups, whole=whole))
        found = carried(loss, trajectory, BlockedProducts(loss, trajectory, groups, whole=whole))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        assert whole or len(expected) == 1 or bool(expected.abs().amax() > 1e-4)


@pytest.mark.parametrize("kind", ["linear", "without bias"])
def test_features_that_never_change(kind: str) -> None:
    """Here the middle of every image is grey."""
    images = problems.images(COUNT)
    images.inputs[:, :, 1:3, 1:3] = 77
    with flat_loss(model(kind), images, torch.float64) as loss:
        assert isinstance(loss, LinearLoss)
        assert loss.varying == 12
        trajectory, weights = record(loss, plan_of(images))
        found, expected = (
            loss.in_order(tangent.vectors)
            for tangent in (
                BlockedProducts(loss, trajectory, GROUPS["examples"], whole=True),
                tangents.Additive(loss, trajectory, GROUPS["examples"], whole=True),
            )
            if tangents.carry(loss, trajectory, [tangent]) is not None
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        named = loss.named(weights)
        torch.testing.assert_close(loss.flat(named), weights, rtol=0, atol=0)
        plain = torch.cat([part.flatten() for part in named.values()])
        torch.testing.assert_close(loss.in_order(weights[None])[0], plain, rtol=0, atol=0)


def test_some_steps_are_clipped_and_some_are_not() -> None:
    with problem("linear", clip=0.9) as (_, trajectory, _):
        assert 0 < trajectory.clipped < trajectory.plan.steps


def test_a_step_that_leaves_nothing_of_a_vector() -> None:
    """The L2 term takes away the whole of it where rate x l2 is 1."""
    with problem("linear", lr=1.0, l2=1.0) as (loss, trajectory, _):
        groups = GROUPS["examples"]
        expected = carried(loss, trajectory, tangents.Additive(loss, trajectory, groups, whole=True))
        found = carried(loss, trajectory, BlockedProducts(loss, trajectory, groups, whole=True))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_vectors_may_be_read_on_the_way() -> None:
    with problem("linear") as (loss, trajectory, _):
        first = BlockedProducts(loss, trajectory, GROUPS["examples"], whole=True)
        second = tangents.Additive(loss, trajectory, GROUPS["examples"], whole=True)
        replay = tangents.Replay(loss, trajectory.plan, loss.flat(dict(trajectory.initial)))
        for step in replay:
            first.advance(step)
            second.advance(step)
            torch.testing.assert_close(first.vectors, second.vectors, rtol=1e-10, atol=1e-13)


def test_only_linear_models_have_blocked_products() -> None:
    for kind, wanted in (("linear", BlockedProducts), ("network", tangents.Additive)):
        with problem(kind) as (loss, trajectory, _):
            assert type(additive(loss, trajectory, GROUPS["examples"], whole=True)) is wanted
