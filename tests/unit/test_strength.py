"""An unlearning that hardly changed the forget set says so, and names the option that makes it stronger."""

import math

import pytest
import torch

from expunge.core import registry
from expunge.core.config import parse
from expunge.evaluation.predictions import Predictions
from expunge.unlearning import presets
from expunge.unlearning.strength import SHARE, cure, hardly_changed, sentence
from tests import problems


def predictions(correct: int, loss: float, n: int = 100) -> Predictions:
    """Of n examples of class 0 in two classes, so many right by a hair, with a mean loss near this one."""
    p = math.exp(-loss)
    right, wrong = (torch.tensor([[math.log(q), math.log(1 - q)]]) for q in (max(p, 0.5001), min(p, 0.4999)))
    return Predictions(
        torch.cat([right] * correct + [wrong] * (n - correct)), torch.zeros(n, dtype=torch.long), torch.arange(n)
    )


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ((90, 0.6931), (90, 0.6931), True),
        ((90, 0.6931), (100, 0.6931), True),  # it got better: nothing was forgotten
        ((90, 0.6931), (87, 0.6931), True),  # one standard error is 3.1 points
        ((90, 0.6931), (86, 0.6931), False),
        ((100, 0.1), (100, 0.1 + 0.9 * SHARE * math.log(2)), True),
        ((100, 0.1), (100, 0.1 + 1.1 * SHARE * math.log(2)), False),
    ],
)
def test_within_noise_is_no_change(before: tuple[int, float], after: tuple[int, float], same: bool) -> None:
    found = hardly_changed(predictions(*before), predictions(*after))
    assert (found is not None) == same
    if found is not None:
        assert found.accuracy == pytest.approx((before[0], after[0]))


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("gradient_ascent:lr=1e-5", "lr=5e-05"),
        ("finetune:lr=0.02", "lr=0.04"),
        ("fisher_forgetting:alpha=1e-9", "alpha=1e-07"),
        ("newton_step:damping=0.5", "damping=0.05"),
        ("sfron:lr=0.01", "forget.lr=0.02"),
        ("original", ""),
    ],
)
def test_the_cure_is_the_first_option_searched(method: str, option: str) -> None:
    assert cure(presets.named(method).method) == option


def test_every_cure_is_an_option_of_its_method() -> None:
    for name in registry.plugins("methods"):
        found = cure(presets.named(name).method)
        if found:
            assert presets.named(f"{name}:{found}") != presets.named(name)


def test_a_run_notes_that_it_hardly_changed_and_another_does_not() -> None:
    _, weak = problems.run("gradient_ascent:epochs=1,lr=1e-9,reach=none")
    _, strong = problems.run("gradient_ascent:epochs=5,lr=0.5,reach=none,batch_size=4")
    note = weak.notes["hardly_changed"]
    assert isinstance(note, dict)
    assert note["stronger"] == "lr=5e-09"
    assert "hardly_changed" not in strong.notes


def test_the_sentence_names_the_method_and_the_cure() -> None:
    notes = {"hardly_changed": {"change": "accuracy 90.0% -> 90.0%, loss 0.1 -> 0.1", "stronger": "lr=0.05"}}
    said = (
        "finetune hardly changed the forget set (accuracy 90.0% -> 90.0%, loss 0.1 -> 0.1): lr=0.05 makes it stronger"
    )
    assert sentence("finetune", notes) == said
    assert sentence("original", notes) == ""
    assert sentence("finetune", {}) == ""
    assert "left the model as it was" in sentence("finetune", {"unchanged": True})


def test_a_rule_of_zero_has_no_factor() -> None:
    method = parse("methods", "finetune:lr=0")
    assert cure(method) == "epochs=6"
