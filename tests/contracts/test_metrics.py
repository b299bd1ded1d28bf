"""What every metric must do; a new one is tested by being found."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from expunge.core import registry
from expunge.evaluation.predictions import Predictions, Shadows, Subject, evaluate
from tests import problems

METRICS = registry.plugins("metrics")


def predictions(count: int, seed: int, lead: float = 3.0, classes: int = 4) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += lead
    return Predictions(logits, labels, torch.arange(count) + 1000 * (seed % 10))


def splits(lead: float, seed: int = 0) -> dict[str, Predictions]:
    """A model that is surer of what it was trained on; another seed is another model of the same images."""
    return {
        "forget": predictions(20, seed + 1, lead - 1),
        "retain": predictions(80, seed + 2, lead),
        "validation": predictions(16, seed + 3, lead - 1),
        "test": predictions(40, seed + 4, lead - 1),
        "triggered": predictions(30, seed + 5, lead - 2),
    }


def subject(reference: Subject | None = None, lead: float = 3.0) -> Subject:
    """A model with everything that a metric may want to know."""
    return Subject(
        splits(lead),
        {"w": torch.full((3,), lead)},
        Subject(splits(3.5, seed=10), {"w": torch.tensor([1.0, 0.0, -2.0])}),
        {"w": torch.tensor([True, False, True])},
        {"precompute": 0.5, "unlearn": 2.0},
        reference,
        scores=scores(lead),
        shadows=shadows(),
    )


def scores(lead: float) -> dict[str, torch.Tensor]:
    """Numbers under the name of every metric, one of which may be that of a score."""
    return dict.fromkeys(METRICS, torch.linspace(-2, 2 + lead, 25, dtype=torch.float64))


def shadows(seed: int = 9) -> Shadows:
    """Eight models, each of which is surer of the half of the training examples that it has seen."""
    shown = [splits(3.0)[name] for name in ("forget", "retain", "validation")]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.cat([part.ids for part in shown])
    inside = torch.rand(8, len(ids), generator=generator).argsort(dim=0) < 4
    inside[:, -len(shown[-1]) :] = False
    return Shadows(ids, torch.randn(8, len(ids), generator=generator, dtype=torch.float64) + 2 * inside, inside)


def everything(judged: Subject) -> dict[str, float]:
    return evaluate(judged, [plugin.config() for plugin in METRICS.values()], problems.context())


def judged(lead: float = 2.0) -> Subject:
    """A reference with its values."""
    reference = subject(lead=lead)
    everything(reference)
    return reference


def of(name: str, found: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in found.items() if key.partition(".")[0] == name}


@pytest.mark.parametrize("name", METRICS)
def test_describes_each_value_keeps_within_its_range_and_repeats_it(name: str) -> None:
    found, again = (of(name, everything(subject(judged()))) for _ in range(2))
    assert found == again
    described = {measure.name: measure for measure in METRICS[name].mark.measures}
    assert set(found) == set(described)
    for key, measure in described.items():
        assert measure.title
        assert measure.meaning
        assert math.isfinite(found[key])
        least, most = measure.range
        assert least is None or least <= found[key]
        assert most is None or found[key] <= most


WHOLE = subject(judged())
CLEAN = {name: part for name, part in WHOLE.splits.items() if name != "triggered"}
PARTS = {
    "the reference": ({"reference": None}, {"reference": judged(1.0)}),
    "the original": ({"original": None}, {"original": Subject(splits(2.5, seed=20), {"w": torch.ones(3)})}),
    "shadow models": ({"shadows": None}, {"shadows": shadows(8)}),
    "triggered images": ({"splits": CLEAN}, {"splits": CLEAN | {"triggered": predictions(30, 5, 0.0)}}),
    "scores": ({"scores": {}}, {"scores": scores(0.5)}),
}


@pytest.mark.parametrize("part", PARTS)
def test_without_a_part_the_values_that_depend_on_it_are_absent_and_no_others(part: str) -> None:
    without, others = ({**change, "values": {}} for change in PARTS[part])
    whole, left, other = (everything(replace(WHOLE, **{"values": {}} | change)) for change in ({}, without, others))
    assert left.items() <= whole.items()
    absent, dependent = set(whole) - set(left), {key for key in whole if whole[key] != other[key]}
    assert dependent
    assert dependent <= absent
    assert {key.partition(".")[0] for key in dependent} == {key.partition(".")[0] for key in absent}


def test_the_retrained_model_has_the_value_that_metrics_say() -> None:
    found = everything(subject(judged(3.0)))
    said = {key: measure.retrained for key, measure in registry.measures().items() if measure.retrained is not None}
    assert said
    assert {key: found[key] for key in said} == pytest.approx(said)


def test_metrics_do_not_change_the_predictions() -> None:
    judged = subject()
    before = {name: part.logits.clone() for name, part in judged.splits.items()}
    everything(judged)
    assert problems.same({name: part.logits for name, part in judged.splits.items()}, before)
