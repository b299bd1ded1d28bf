"""What every unlearning is checked for, whatever the method."""

import dataclasses

import pytest

from expunge.core.errors import RequestError, RunError
from expunge.unlearning import presets
from tests import problems


@pytest.mark.parametrize(
    ("method", "cure"),
    [
        ("finetune:epochs=1,batch_size=64,lr=1e300", "try a smaller lr, or set clip"),
        ("influence:alpha=1e300", "try more damping or a smaller alpha"),
        ("fisher_forgetting:alpha=1e300", "try more damping or a smaller alpha"),
    ],
)
def test_weights_that_are_not_finite_fail_with_a_cure_that_the_method_has(method: str, cure: str) -> None:
    with pytest.raises(RunError, match=rf"\S+ has values that are not finite: {cure}"):
        problems.run(method)


def test_doing_nothing_does_nothing() -> None:
    assert problems.same(problems.unlearned("original"), problems.model())


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("FT_prune", "l1_sparse"),
        ("FT_l1", "l1_sparse"),
        ("BS", "boundary_shrink"),
        ("BE", "boundary_expanding"),
        ("RL", "random_label"),
        ("GA", "gradient_ascent"),
        ("BadT", "bad_teacher"),
        ("NU", "newton_step"),
        ("IJ", "infinitesimal_jackknife"),
        ("fisher", "fisher"),
        ("fisher_new", "fisher_forgetting"),
        ("FF", "fisher_forgetting"),
        ("IU", "influence"),
        ("wfisher", "influence"),
        ("Gan", "adversarial"),
        ("DAU", "adversarial"),
        ("SFRon", "sfron"),
    ],
)
def test_names_of_other_code_bases(alias: str, name: str) -> None:
    assert presets.canonical(alias) == presets.canonical(name) == name


SOLVED = {"weights": "tail", "curvature": "fisher", "solver": "lu", "tolerance": 2.0, "iterations": 0, "memory": 0.0}
BAD = {
    "boundary_shrink": {"bound": 1.5},
    "random_label": {"order": "shuffled", "proximal": 1.1},
    "bad_teacher": {"retain_fraction": 1.1, "temperature": 0.0},
    "sfron": {"forget_batch_size": 0, "forget_every": 0},
    "scrub": {"forget_batch_size": 0, "temperature": 0.0},
    "adversarial": {"directions": 0, "noise": 0.0, "unseen": "some", "sensitivity": "guess"},
    "newton_step": {**SOLVED, "towards": "home"},
    "infinitesimal_jackknife": {**SOLVED, "mean_over": "some"},
    "certified_removal": {"epsilon": 0.0, "delta": 1.0, "budget": 0.0, "steps": 0, "tolerance": 2.0, "iterations": 0},
}
"""Values outside a range or a list of words; those that no number may have are in the contract of methods."""


@pytest.mark.parametrize(("name", "field", "value"), [(name, *each) for name in BAD for each in BAD[name].items()])
def test_values_outside_their_range_are_named(name: str, field: str, value: object) -> None:
    with pytest.raises(RequestError, match=rf"^{field} must be .*{value}"):
        dataclasses.replace(presets.named(name).method, **{field: value})


def test_a_chance_of_zero_is_outside_its_range_too() -> None:
    with pytest.raises(RequestError, match="delta must be"):
        presets.named("certified_removal:delta=0.0")
