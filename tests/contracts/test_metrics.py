"""What every metric must do; a new one is tested by being found."""

import math
from dataclasses import replace

import pytest
import torch

from expunge.core import registry
from expunge.evaluation.predictions import Predictions, Shadows, Subject, evaluate
from expunge.training.context import Context

CHANGED = ("forget", "retain", "test")
METRICS = registry.plugins("metrics")


def predictions(count: int, seed: int, lead: float = 3.0, classes: int = 4) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += lead
    return Predictions(logits, labels, torch.arange(count) + 1000 * seed)


def subject(reference: Subject | None = None, lead: float = 3.0) -> Subject:
    splits = {
        "forget": predictions(20, 1, lead - 1),
        "retain": predictions(80, 2, lead),
        "validation": predictions(16, 3, lead - 1),
        "test": predictions(40, 4, lead - 1),
        "triggered": predictions(30, 5, lead - 2),
    }
    weights = {"w": torch.full((3,), lead)}
    seconds = {"precompute": 0.5, "unlearn": 2.0}
    scores = {"gaussian_poison": torch.linspace(-2, 2 + lead, 25, dtype=torch.float64)}
    before = {name: replace(part, logits=part.logits.flip(0) + part.logits) for name, part in splits.items()}
    original = Subject(before, {"w": torch.zeros(3)})
    sparsity = {"w": torch.tensor([True, False, True])}
    shown = [splits[name] for name in ("forget", "retain", "validation")]
    return Subject(splits, weights, original, sparsity, seconds, reference, scores=scores, shadows=shadows(shown))


def shadows(shown: list[Predictions]) -> Shadows:
    """Eight models, each of which is surer of the half of the training examples that it has seen."""
    generator = torch.Generator().manual_seed(9)
    ids = torch.cat([part.ids for part in shown])
    inside = torch.rand(8, len(ids), generator=generator).argsort(dim=0) < 4
    inside[:, -len(shown[-1]) :] = False
    return Shadows(ids, torch.randn(8, len(ids), generator=generator, dtype=torch.float64) + 2 * inside, inside)


def context(seed: int = 0) -> Context:
    return Context(torch.Generator().manual_seed(seed))


def everything(judged: Subject) -> dict[str, float]:
    return evaluate(judged, [plugin.config() for plugin in METRICS.values()], context())


def with_reference() -> dict[str, float]:
    reference = subject(lead=2.0)
    everything(reference)
    return everything(subject(reference))


@pytest.mark.parametrize("name", METRICS)
def test_gives_finite_numbers_under_its_own_name(name: str) -> None:
    found = with_reference()
    mine = {key: value for key, value in found.items() if key.split(".")[0] == name}
    assert mine
    assert all(math.isfinite(value) for value in mine.values())


@pytest.mark.parametrize("name", METRICS)
def test_the_same_seed_gives_the_same_numbers(name: str) -> None:
    first, second = with_reference(), with_reference()
    assert {k: v for k, v in first.items() if k.startswith(name)} == {
        k: v for k, v in second.items() if k.startswith(name)
    }


def test_without_a_reference_only_comparisons_are_absent() -> None:
    alone, compared = everything(subject()), with_reference()
    assert set(compared) - set(alone) == {
        "average_gap",
        "tow",
        "tow.tow_mia",
        "weight_distance.to_reference",
        "weight_distance.relative_to_reference",
        "weight_distance.nothing_to_reference",
        "weight_distance.nothing_relative_to_reference",
        "weight_distance.relative_to_nothing",
        *(f"change_correlation.{split}_{kind}" for split in CHANGED for kind in ("pearson", "spearman")),
    }


def test_without_the_original_only_comparisons_with_it_are_absent() -> None:
    whole, reference = subject(), subject(lead=2.0)
    everything(reference)
    alone = everything(replace(whole, original=None, reference=reference, values={}))
    assert {name.partition(".")[0] for name in set(everything(replace(whole, reference=reference))) - set(alone)} == {
        "unlearning_attack",
        "change_correlation",
        "weight_distance",
    }
    assert "weight_distance.relative_to_reference" in alone
    assert "weight_distance.to_original" not in alone


def test_without_shadow_models_only_their_attack_is_absent() -> None:
    whole = subject()
    alone = everything(replace(whole, shadows=None, values={}))
    assert {name.partition(".")[0] for name in set(everything(whole)) - set(alone)} == {"lira"}


def test_a_reference_has_no_gap_to_itself() -> None:
    reference = subject()
    everything(reference)
    found = everything(subject(reference))
    assert found["average_gap"] == 0
    assert found["tow"] == found["tow.tow_mia"] == 1
    assert found["weight_distance.to_reference"] == found["weight_distance.relative_to_reference"] == 0
    assert all(found[f"change_correlation.{split}_pearson"] == pytest.approx(1) for split in CHANGED)


@pytest.mark.parametrize("name", METRICS)
def test_describes_each_value_and_keeps_within_its_range(name: str) -> None:
    found = {key: value for key, value in with_reference().items() if key.partition(".")[0] == name}
    described = {measure.name: measure for measure in METRICS[name].mark.measures}
    assert set(found) == set(described)
    for key, measure in described.items():
        assert measure.title
        assert measure.meaning
        least, most = measure.range
        assert least is None or least <= found[key]
        assert most is None or found[key] <= most


def test_the_retrained_model_has_the_value_that_metrics_say() -> None:
    reference = subject()
    everything(reference)
    found = everything(subject(reference))
    said = {key: measure.retrained for key, measure in registry.measures().items() if measure.retrained is not None}
    assert {key.partition(".")[0] for key in said} >= {"average_gap", "tow", "change_correlation", "weight_distance"}
    for key, value in said.items():
        assert found[key] == pytest.approx(value), key


def test_without_poisoned_data_only_its_metrics_are_absent() -> None:
    whole = subject()
    clean = replace(whole, splits={k: v for k, v in whole.splits.items() if k != "triggered"}, scores={}, values={})
    assert set(everything(whole)) - set(everything(clean)) == {
        "attack_success_rate",
        "gaussian_poison.mean",
        "gaussian_poison.true_positive_rate",
    }


def test_metrics_do_not_change_the_predictions() -> None:
    judged = subject()
    before = {name: part.logits.clone() for name, part in judged.splits.items()}
    everything(judged)
    assert all(torch.equal(part.logits, before[name]) for name, part in judged.splits.items())
