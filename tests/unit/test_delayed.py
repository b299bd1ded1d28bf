"""Vectors that are carried several steps at a time, against those that are carried one step at a time."""

import pytest
import torch

from expunge.trajectory import delayed, tangents
from expunge.trajectory.calculus import LinearCalculus, calculus
from expunge.trajectory.delayed import Delayed, additive
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
    monkeypatch.setattr(delayed, "WIDTH", width)
    monkeypatch.setattr(delayed, "BLOCK", 2)
    with problem("linear", **more) as (made, trajectory, _):
        assert isinstance(made, LinearCalculus)
        expected = carried(made, trajectory, tangents.Additive(made, trajectory, groups, whole=whole))
        found = carried(made, trajectory, Delayed(made, trajectory, groups, whole=whole))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        assert whole or len(expected) == 1 or bool(expected.abs().amax() > 1e-4)


@pytest.mark.parametrize("kind", ["linear", "without bias"])
def test_features_that_never_change(kind: str) -> None:
    """Here the middle of every image is grey."""
    images = problems.images(COUNT)
    images.inputs[:, :, 1:3, 1:3] = 77
    with calculus(model(kind), images, torch.float64) as made:
        assert isinstance(made, LinearCalculus)
        assert made.varying == 12
        trajectory, weights = record(made, plan_of(images))
        found, expected = (
            made.in_order(tangent.vectors)
            for tangent in (
                Delayed(made, trajectory, GROUPS["examples"], whole=True),
                tangents.Additive(made, trajectory, GROUPS["examples"], whole=True),
            )
            if tangents.carry(made, trajectory, [tangent]) is not None
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        named = made.named(weights)
        torch.testing.assert_close(made.flat(named), weights, rtol=0, atol=0)
        plain = torch.cat([part.flatten() for part in named.values()])
        torch.testing.assert_close(made.in_order(weights[None])[0], plain, rtol=0, atol=0)


def test_some_steps_are_clipped_and_some_are_not() -> None:
    with problem("linear", clip=0.9) as (_, trajectory, _):
        assert 0 < trajectory.clipped < trajectory.plan.steps


def test_a_step_that_leaves_nothing_of_a_vector() -> None:
    """The L2 term takes away the whole of it where rate x l2 is 1."""
    with problem("linear", lr=1.0, l2=1.0) as (made, trajectory, _):
        groups = GROUPS["examples"]
        expected = carried(made, trajectory, tangents.Additive(made, trajectory, groups, whole=True))
        found = carried(made, trajectory, Delayed(made, trajectory, groups, whole=True))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_vectors_may_be_read_on_the_way() -> None:
    with problem("linear") as (made, trajectory, _):
        first = Delayed(made, trajectory, GROUPS["examples"], whole=True)
        second = tangents.Additive(made, trajectory, GROUPS["examples"], whole=True)
        walk = tangents.Walk(made, trajectory.plan, made.flat(dict(trajectory.initial)))
        for step in walk:
            first.advance(step)
            second.advance(step)
            torch.testing.assert_close(first.vectors, second.vectors, rtol=1e-10, atol=1e-13)


def test_only_linear_models_are_delayed() -> None:
    for kind, wanted in (("linear", Delayed), ("network", tangents.Additive)):
        with problem(kind) as (made, trajectory, _):
            assert type(additive(made, trajectory, GROUPS["examples"], whole=True)) is wanted
