"""Metrics and the membership attack against brute force and hand-worked cases."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn

from expunge.core import config, registry
from expunge.core.errors import RequestError, RunError
from expunge.evaluation import membership
from expunge.evaluation.predictions import Predictions, Subject, evaluate, predict
from expunge.metrics.membership_svc import MembershipSvcConfig, efficacy
from tests import problems


def given(probabilities: list[list[float]], labels: list[int]) -> Predictions:
    logits = torch.tensor(probabilities, dtype=torch.float64).log().float()
    return Predictions(logits, torch.tensor(labels), torch.arange(len(labels)))


def measure(subject: Subject, *names: str) -> dict[str, float]:
    return evaluate(subject, [config.parse("metrics", name) for name in names], problems.context())


def test_accuracies_by_hand() -> None:
    right, wrong = [0.7, 0.2, 0.1], [0.1, 0.8, 0.1]
    splits = {
        "forget": given([right, wrong, wrong, wrong], [0, 0, 0, 2]),
        "retain": given([right, right, wrong, wrong, wrong], [0, 0, 1, 1, 2]),
        "test": given([right, wrong], [0, 0]),
    }
    found = measure(Subject(splits, {}), "unlearning_accuracy", "remaining_accuracy", "test_accuracy")
    assert found == {"unlearning_accuracy": 75.0, "remaining_accuracy": 80.0, "test_accuracy": 50.0}


def test_a_class_that_is_wholly_forgotten_leaves_the_test_set() -> None:
    right, wrong = [0.7, 0.2, 0.1], [0.1, 0.8, 0.1]
    splits = {
        "forget": given([wrong], [2]),
        "retain": given([right, wrong], [0, 1]),
        "test": given([right, wrong, wrong, wrong], [0, 0, 2, 2]),
    }
    assert measure(Subject(splits, {}), "test_accuracy") == {"test_accuracy": 50.0}
    assert len(Subject(splits, {}).predictions("test")) == 2


def test_a_missing_split_is_named() -> None:
    with pytest.raises(RequestError, match="needs the test split, and there are only forget"):
        measure(Subject({"forget": given([[0.5, 0.5]], [0])}, {}), "test_accuracy")


def test_entropies_by_the_published_numbers() -> None:
    """Values worked out by hand for three outputs, right and as released."""
    part = given([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], [0, 1, 1])
    right, released = membership.features(part), membership.features(part, as_released=True)
    assert right["entropy"][:, 0] == pytest.approx([0.80182, 0.63903, 1.08890], abs=1e-5)
    assert right["m_entropy"][:, 0] == pytest.approx([0.16217, 0.06570, 1.15411], abs=1e-5)
    # As released, class 2 does not occur among the labels and enters as -p log p.
    by_hand = [
        -sum((1 - p) * math.log(p) for p in row[:2]) - row[2] * math.log(row[2])
        for row in ([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4])
    ]
    assert released["m_entropy"][:, 0] == pytest.approx(by_hand, abs=1e-5)
    assert right["correctness"][:, 0].tolist() == [1, 1, 0]
    assert right["confidence"][:, 0] == pytest.approx([0.7, 0.8, 0.3])


def test_certain_outputs_have_finite_features() -> None:
    part = Predictions(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 0]), torch.arange(2))
    for column in membership.features(part).values():
        assert np.isfinite(column).all()


def test_outputs_that_are_not_finite_fail_clearly() -> None:
    with pytest.raises(RunError, match="not finite"):
        membership.features(Predictions(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]), torch.arange(1)))


def confidences(count: int, lead: float, seed: int) -> np.ndarray:
    """Peaked near 1 with a tail, as a trained network's are."""
    generator = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(lead + 2.5 * generator.standard_normal((count, 1)))))


@pytest.mark.slow
@pytest.mark.parametrize(("lead", "other", "least"), [(6.0, 3.0, 0.999), (4.0, 3.5, 0.999), (2.0, 2.0, 0.995)])
def test_merged_values_give_the_answers_of_raw_ones(lead: float, other: float, least: float) -> None:
    """In the last case nothing tells the two sets apart: there raw values disagree with themselves at times."""
    members, others, asked = confidences(2000, lead, 1), confidences(2000, other, 2), confidences(2000, other, 3)
    values, labels = np.concatenate([members, others]), np.repeat([1.0, 0.0], 2000)
    raw = SVC(C=3, gamma="auto").fit(values, labels).predict(asked)
    merged = membership.attack(members, others)
    assert len(merged.support_) < len(SVC(C=3, gamma="auto").fit(values, labels).support_)
    assert np.mean(raw == merged.predict(asked)) >= least
    share = membership.share_of_members(merged, asked)
    assert share == pytest.approx(raw.mean(), abs=1 - least)


def test_equal_values_merge_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weighted example is so many copies: on values that lie on the grid nothing is lost."""
    monkeypatch.setattr(membership, "SMALL", 0)
    generator = np.random.default_rng(0)
    members, others = (generator.binomial(16, p, (300, 1)) / 16 for p in (0.7, 0.5))
    exact = membership.attack(members, others, exact=True)
    merged = membership.attack(members, others)
    asked = np.linspace(0, 1, 200)[:, None]
    assert merged.shape_fit_[0] <= 34
    np.testing.assert_allclose(merged.decision_function(asked), exact.decision_function(asked), atol=2e-2)


def test_a_constant_feature_and_one_class_of_answers_are_defined() -> None:
    sure = given([[0.9, 0.1]] * 6, [0] * 6)
    found = efficacy(sure, sure, sure, MembershipSvcConfig())
    assert all(share in (0.0, 1.0) for share in found.values())


def test_correctness_is_accuracy_when_members_are_right_more_often() -> None:
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    members, others = given([right] * 19 + [wrong], [0] * 20), given([right] * 8 + [wrong] * 12, [0] * 20)
    asked = given([right] * 6 + [wrong] * 4, [0] * 10)
    assert efficacy(members, others, asked, MembershipSvcConfig())["correctness"] == pytest.approx(0.6)


def test_members_are_sampled_to_the_size_of_the_test_set() -> None:
    def part(count: int, seed: int) -> Predictions:
        generator = torch.Generator().manual_seed(seed)
        return Predictions(torch.randn(count, 3, generator=generator), torch.arange(count) % 3, torch.arange(count))

    splits = {"forget": part(9, 1), "retain": part(90, 2), "test": part(30, 3)}
    first = measure(Subject(splits, {}), "membership_svc")
    other = evaluate(Subject(splits, {}), [MembershipSvcConfig()], problems.context(9))
    assert set(first) == {f"membership_svc.{k}" for k in ("correctness", "confidence", "entropy", "m_entropy", "prob")}
    assert first != other, "another seed draws other members"


def test_an_empty_forget_set_is_refused() -> None:
    empty = Predictions(torch.empty(0, 2), torch.empty(0).long(), torch.empty(0).long())
    full = given([[0.9, 0.1]], [0])
    with pytest.raises(RequestError, match="to forget"):
        measure(Subject({"forget": empty, "retain": full, "test": full}, {}), "membership_svc")


def test_distances_and_times() -> None:
    reference, original = Subject({}, {"w": torch.tensor([3.0, 0.0])}), Subject({}, {"w": torch.tensor([0.0, 1.0])})
    seconds = {"precompute": 1.0, "unlearn": 2.5}
    subject = Subject({}, {"w": torch.tensor([0.0, 4.0])}, original, seconds=seconds, reference=reference)
    assert measure(subject, "weight_distance", "run_time") == {
        "weight_distance.to_original": 3.0,
        "weight_distance.to_reference": 5.0,
        "weight_distance.relative_to_reference": pytest.approx(5 / 3),
        "weight_distance.nothing_to_reference": pytest.approx(10**0.5),
        "weight_distance.nothing_relative_to_reference": pytest.approx(10**0.5 / 3),
        "weight_distance.relative_to_nothing": pytest.approx(5 / 10**0.5),
        "run_time.precompute": 1.0,
        "run_time.unlearn": 2.5,
        "run_time.total": 3.5,
    }


def test_shares_of_nothing_are_not_defined() -> None:
    zeros = Subject({}, {"w": torch.zeros(2)})
    found = measure(Subject({}, {"w": torch.ones(2)}, zeros, reference=zeros), "weight_distance")
    assert math.isnan(found["weight_distance.relative_to_reference"])
    assert math.isnan(found["weight_distance.relative_to_nothing"])


def test_predict_runs_in_evaluation_mode_and_leaves_the_mode_alone() -> None:
    model, images = problems.model().train(), problems.images(11)
    before = problems.state(model)
    found = predict(model, images, torch.device("cpu"), batch_size=4)
    assert model.training
    assert problems.same(model, before)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model.eval()(images.inputs / 255))
    assert torch.equal(found.ids, images.ids)


def test_predictions_are_float32_whatever_the_model_is() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(torch.bfloat16)
    images = problems.images(4)
    half = dataclasses.replace(images, inputs=images.inputs.to(torch.bfloat16))
    assert predict(model, half, torch.device("cpu")).logits.dtype == torch.float32


def test_metrics_that_need_others_come_after_them() -> None:
    splits = {name: given([[0.9, 0.1], [0.4, 0.6]] * 3, [0, 1] * 3) for name in ("forget", "retain", "test")}
    reference = Subject(splits, {})
    names = ["average_gap", "tow", "membership_svc", "test_accuracy", "remaining_accuracy", "unlearning_accuracy"]
    measure(reference, *names)
    assert measure(Subject(splits, {}, reference=reference), *names)["average_gap"] == 0
    assert registry.measures()["average_gap"].better == "lower"


def two_subjects() -> tuple[Subject, Subject]:
    """Random predictions, so that the attack has something to sample; the second is the first's reference."""
    generator = torch.Generator().manual_seed(5)

    def some(count: int) -> Predictions:
        labels = torch.arange(count) % 3
        return Predictions(torch.randn(count, 3, generator=generator), labels, torch.arange(count))

    sizes = {"forget": 12, "retain": 60, "validation": 15, "test": 15}
    reference = Subject({name: some(count) for name, count in sizes.items()}, {})
    return Subject({name: some(count) for name, count in sizes.items()}, {}, reference=reference), reference


def test_a_metric_does_not_depend_on_those_asked_for_with_it() -> None:
    several = measure(two_subjects()[0], "tow", "membership_svc", "test_accuracy")
    alone = measure(two_subjects()[0], "membership_svc")
    assert alone == {name: value for name, value in several.items() if name.startswith("membership_svc")}
    assert len(several) > len(alone) > 0
    shared = problems.context()
    evaluate(two_subjects()[0], [MembershipSvcConfig()], shared)
    assert torch.equal(shared.generator.get_state(), problems.context().generator.get_state()), (
        "each draws from its own"
    )


def test_what_a_metric_needs_is_measured_too() -> None:
    subject, reference = two_subjects()
    measure(reference, "average_gap")
    assert {"average_gap", "unlearning_accuracy", "membership_svc.confidence"} <= set(measure(subject, "average_gap"))


def test_a_metric_asked_for_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="membership_svc is asked for twice"):
        measure(two_subjects()[0], "membership_svc", "membership_svc:exact=true")
