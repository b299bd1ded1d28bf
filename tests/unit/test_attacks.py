"""LiRA, the attack on unlearning and the correlation of changes, against plain loops and closed forms."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from expunge.core import config
from expunge.core.errors import RequestError, RunError
from expunge.evaluation import membership
from expunge.evaluation.predictions import Predictions, Shadows, Subject, evaluate
from expunge.metrics import lira, unlearning_attack
from expunge.metrics.change_correlation import correlations
from expunge.metrics.unlearning_attack import UnlearningAttackConfig
from tests import problems


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measure(subject: Subject, text: str, seed: int = 0) -> dict[str, float]:
    found = evaluate(subject, [config.parse("metrics", text)], problems.context(seed))
    return {name.partition(".")[2]: value for name, value in found.items()}


# ---- what the attacks look at


def test_log_odds_are_those_of_the_true_labels_probability() -> None:
    labels = torch.arange(50) % 7
    part = Predictions(torch.randn(50, 7, generator=generator()) * 3, labels, torch.arange(50))
    p = part.probabilities()[torch.arange(50), labels]
    torch.testing.assert_close(part.log_odds(), torch.log(p / (1 - p)))
    torch.testing.assert_close(part.losses(), -torch.log(p))


def test_log_odds_of_certain_models_do_not_overflow() -> None:
    part = Predictions(torch.tensor([[900.0, 0.0], [0.0, 900.0]]), torch.zeros(2).long(), torch.arange(2))
    assert part.log_odds().tolist() == [900.0, -900.0]
    assert part.losses().tolist() == [0.0, 900.0]


def test_an_empty_split_has_no_log_odds_and_no_losses() -> None:
    empty = Predictions(torch.empty(0, 0), torch.empty(0).long(), torch.empty(0).long())
    assert empty.log_odds().shape == empty.losses().shape == (0,)


# ---- how good an attack is


@pytest.mark.parametrize("rounded", [False, True])
def test_roc_against_all_pairs_and_all_thresholds(rounded: bool) -> None:
    draw = np.random.default_rng(0)
    targets, others = draw.normal(0.7, 1.3, 61), draw.normal(0.0, 1.0, 350)
    if rounded:  # ties
        targets, others = targets.round(), others.round()
    found = membership.roc(targets, others, (1.0, 0.1, 5.0))
    pairs = [(t > o) + 0.5 * (t == o) for t in targets for o in others]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    for name, rate in (("tpr_at_1_percent", 1.0), ("tpr_at_0_1_percent", 0.1), ("tpr_at_5_percent", 5.0)):
        thresholds = [*targets, *others, math.inf]
        allowed = [t for t in thresholds if 100 * np.mean(others >= t) <= rate]
        assert found[name] == pytest.approx(max(100 * np.mean(targets >= t) for t in allowed))


def test_a_rate_that_is_met_exactly_counts() -> None:
    assert membership.roc(np.array([0.5, 3.0]), np.arange(100.0) / 100 + 0.505 - 0.99, (1.0,)) == {
        "auc": pytest.approx(1 - 0.005),
        "tpr_at_1_percent": 100.0,
    }


def test_a_threshold_between_ties_counts() -> None:
    """Points of the curve on one line: those in the middle are thresholds too."""
    found = membership.roc(np.arange(4.0), np.arange(4.0), (50.0,))
    assert found == {"auc": 0.5, "tpr_at_50_percent": 50.0}


def test_roc_of_nobody_is_not_defined_and_of_infinity_refused() -> None:
    assert all(math.isnan(value) for value in membership.roc(np.empty(0), np.zeros(3), (1.0,)).values())
    with pytest.raises(RunError, match="not finite"):
        membership.roc(np.array([math.inf]), np.zeros(3), (1.0,))


# ---- correlation of changes


def test_correlations_are_those_of_scipy() -> None:
    draw = np.random.default_rng(1)
    first = draw.standard_normal(200).round(1)
    second = np.exp(first + draw.standard_normal(200)).round(1)
    found = correlations(first, second)
    assert found["pearson"] == pytest.approx(stats.pearsonr(first, second).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(first, second).statistic)
    assert correlations(first, np.exp(first))["spearman"] == pytest.approx(1)
    assert correlations(1e-160 * first, -1e200 * first)["pearson"] == pytest.approx(-1)


@pytest.mark.parametrize("series", [np.full(5, 0.1), np.zeros(5)])
def test_a_constant_series_has_no_correlation(series: np.ndarray) -> None:
    for pair in ((series, np.arange(5.0)), (np.arange(5.0), series), (series, series), (series[:1], series[:1])):
        assert all(math.isnan(value) for value in correlations(*pair).values())


def of_losses(losses: list[float]) -> Predictions:
    """Two classes, with these losses of class 0."""
    value = torch.tensor(losses, dtype=torch.float64)
    logits = torch.stack([torch.zeros(len(losses)), value.expm1().log().float()], dim=1)
    return Predictions(logits, torch.zeros(len(losses)).long(), torch.arange(len(losses)))


def of_all(part: Predictions, **more: object) -> Subject:
    return Subject(dict.fromkeys(("forget", "retain", "test"), part), {}, **more)


def test_predicted_and_actual_changes_by_hand() -> None:
    """Losses of 1, 5 and 2 rise by 1, 2, 3 by unlearning and by 1, 2, 9 by retraining."""
    original, retrained = of_all(of_losses([1.0, 5.0, 2.0])), of_all(of_losses([2.0, 7.0, 11.0]))
    found = measure(of_all(of_losses([2.0, 7.0, 5.0]), original=original, reference=retrained), "change_correlation")
    assert found["forget_pearson"] == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 9])[0, 1], abs=1e-6)
    assert found["retain_spearman"] == pytest.approx(1)
    assert len(found) == 6
    nothing = measure(of_all(original.splits["test"], original=original, reference=retrained), "change_correlation")
    assert all(math.isnan(value) for value in nothing.values()), "doing nothing changes nothing"


def test_examples_that_differ_are_not_compared() -> None:
    original, retrained = of_all(of_losses([1.0, 1.0])), of_all(of_losses([2.0, 3.0, 10.0]))
    with pytest.raises(RequestError, match="examples of the three models differ"):
        measure(of_all(of_losses([2.0, 3.0, 4.0]), original=original, reference=retrained), "change_correlation")


# ---- the attack on unlearning


def test_features_by_hand() -> None:
    before, after = torch.tensor([[0.2, 0.7, 0.1]]), torch.tensor([[0.3, 0.3, 0.4]])
    wanted = {
        "direct_diff": [-0.1, 0.4, -0.3],
        "sorted_diff": [0.4, -0.1, -0.3],
        "direct_concat": [0.2, 0.7, 0.1, 0.3, 0.3, 0.4],
        "sorted_concat": [0.7, 0.2, 0.1, 0.3, 0.3, 0.4],
        "l2_distance": [math.sqrt(0.26)],
    }
    for feature, row in wanted.items():
        torch.testing.assert_close(unlearning_attack.features(before, after, feature), torch.tensor([row]))


def random_split(count: int, seed: int, shift: float = 0.0) -> Predictions:
    logits = torch.randn(count, 3, generator=generator(seed))
    logits[:, 0] += shift
    return Predictions(logits, torch.arange(count) % 3, torch.arange(count) + 1000 * seed)


def attacked(forgotten: int, retained: int, shift: float, noise: float = 0.0, seed: int = 0) -> Subject:
    """Posteriors of forgotten examples move by a shift, and all by chance."""
    before = {"forget": random_split(forgotten, seed + 1), "retain": random_split(retained, seed + 2)}
    draw = generator(seed + 3)
    after = {
        name: replace(part, logits=part.logits + noise * torch.randn(part.logits.shape, generator=draw))
        for name, part in before.items()
    }
    after["forget"].logits[:, 0] += shift
    return Subject(after, {}, Subject(before, {}))


@pytest.mark.parametrize("feature", ["direct_diff", "sorted_diff", "direct_concat", "sorted_concat", "l2_distance"])
@pytest.mark.parametrize("attacker", ["logistic", "mlp"])
def test_what_moved_is_found(feature: str, attacker: str) -> None:
    found = measure(attacked(60, 300, 3.0), f"unlearning_attack:feature={feature},attacker={attacker}")
    assert found["auc"] == found[f"{attacker}_{feature}"] > 0.65


SEPARATE = {"direct_diff", "sorted_diff", "l2_distance"}


def test_where_nothing_moved_nothing_is_found() -> None:
    found = measure(attacked(30, 90, 0.0), "unlearning_attack:thorough=true")
    assert (found["auc"], found["tpr_at_1_percent"]) == (0.5, 0.0)
    assert {name for name, value in found.items() if value == 0.5} >= {
        f"{attacker}_{feature}" for attacker in ("logistic", "mlp") for feature in SEPARATE
    }


def test_the_strongest_attack_sees_what_the_one_that_is_asked_for_does_not() -> None:
    text = "unlearning_attack:feature=direct_diff,attacker=logistic,thorough=true"
    found = [measure(attacked_both_ways(seed), text) for seed in range(5)]
    assert np.mean([each["auc"] for each in found]) < 0.6, "no better than chance"
    for each in found:
        assert each["logistic_l2_distance"] == each["strongest_auc"] == 1.0
        assert each["strongest_tpr_at_1_percent"] == 100.0
        names = [f"{attacker}_{feature}" for feature, attacker in unlearning_attack.ATTACKS]
        assert each["strongest_auc"] == max(each[name] for name in names)


def attacked_both_ways(seed: int) -> Subject:
    """Probability goes from class 1 to class 0 or back: much of it in forgotten posteriors, little in retained ones.

    A little noise everywhere, lest rounding tell the two apart.
    """
    draw = generator(seed)

    def split(amounts: Tensor) -> Predictions:
        p = torch.stack([0.4 + amounts, 0.4 - amounts, torch.full((60,), 0.2)], dim=1)
        noise = 0.02 * torch.randn(60, 3, generator=draw)
        return Predictions(p.log() + noise, torch.arange(60) % 3, torch.arange(60))

    sides = 1.0 - 2.0 * (torch.randperm(60, generator=draw) % 2)
    after = {"forget": split(0.3 * sides), "retain": split(0.01 * torch.rand(60, generator=draw) - 0.005)}
    return Subject(after, {}, Subject(dict.fromkeys(after, split(torch.zeros(60))), {}))


@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_constant_features_give_exactly_chance(value: float) -> None:
    """Whatever the rounding of a matrix product does with equal rows."""
    rows, answers = np.full((46, 3), value), np.repeat([True, False], 23)
    rows[::2] += 1e-16
    for _, attacker in unlearning_attack.ATTACKS[::5]:
        config = UnlearningAttackConfig(attacker=attacker)
        parts = unlearning_attack._parts(answers, config, 0)
        found = unlearning_attack._strength(rows, answers, parts, config, 0)
        assert found == {"auc": 0.5, "tpr_at_1_percent": 0.0}


def test_each_attack_stands_beside_the_retrained_model() -> None:
    retrained = attacked_both_ways(1)
    retrained = replace(retrained, splits=retrained.splits | {"forget": retrained.original.splits["forget"]})
    before = measure(retrained, "unlearning_attack:thorough=true")
    assert "strongest_auc_retrained" not in before, "nothing to compare with"
    found = measure(replace(attacked_both_ways(1), reference=retrained), "unlearning_attack:thorough=true")
    names = [f"{attacker}_{feature}" for feature, attacker in unlearning_attack.ATTACKS]
    strongest = max(names, key=lambda name: found[name])
    assert found["strongest_auc_retrained"] == before[strongest]
    assert found["excess_auc"] == max(found[name] - before[name] for name in names)
    itself = measure(replace(retrained, reference=retrained, values={}), "unlearning_attack:thorough=true")
    assert itself["excess_auc"] == 0.0
    assert itself["strongest_auc"] == itself["strongest_auc_retrained"] == before["strongest_auc"]
    other = measure(replace(attacked_both_ways(1), reference=retrained), "unlearning_attack:as_released=true")
    assert set(other) == {"auc", "tpr_at_1_percent"}


def test_the_attacker_is_tested_on_what_he_has_not_seen() -> None:
    """Pure chance: tested on what he learned from, as released, an attacker seems to find what is not there."""
    text = "unlearning_attack:feature=direct_concat"
    honest, released = (
        np.mean([measure(attacked(20, 200, 0.0, 1.0, 10 * seed), f"{text}{option}")["auc"] for seed in range(12)])
        for option in ("", ",as_released=true")
    )
    assert abs(honest - 0.5) < 0.05
    assert released > 0.6


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_disjoint_stratified_and_whole(folds: int) -> None:
    answers = np.repeat([True, False], [23, 23])
    parts = unlearning_attack._parts(answers, UnlearningAttackConfig(folds=folds), 0)
    assert len(parts) == folds
    assert all(not set(learned) & set(tested) for learned, tested in parts)
    assert sorted(row for _, tested in parts for row in tested) == list(range(46))
    assert all(abs(answers[tested].sum() - 23 / folds) < 1 for _, tested in parts)


def test_folds_are_shuffled_by_the_seed() -> None:
    """Neighbouring rows do not share a fold: they may be of one class or of one person."""
    answers = np.repeat([True, False], [60, 60])

    def folds(seed: int) -> list[list[int]]:
        return [tested.tolist() for _, tested in unlearning_attack._parts(answers, UnlearningAttackConfig(), seed)]

    assert folds(0) == folds(0) != folds(1)
    for tested in folds(0):
        steps = np.diff(tested)
        assert np.mean(steps == 1) < 0.5, "not a run of neighbours for each answer"


def test_as_released_is_its_definition() -> None:
    """All rows, unbalanced, standardised, one logistic regression, tested on the rows that it has seen."""
    subject = attacked(20, 70, 0.5, noise=0.5)
    rows = torch.cat(
        [
            subject.original.splits[split].probabilities() - subject.splits[split].probabilities()
            for split in ("forget", "retain")
        ]
    ).numpy()
    labels = np.repeat([1, 0], [20, 70])
    scaled = StandardScaler().fit_transform(rows)
    scores = LogisticRegression(max_iter=400).fit(scaled, labels).decision_function(scaled)
    found = measure(subject, "unlearning_attack:as_released=true")
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))


@pytest.mark.parametrize("attacker", ["logistic", "mlp"])
def test_an_attacker_that_could_learn_longer_says_nothing(attacker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors here."""
    kind = {"logistic": "LogisticRegression", "mlp": "MLPClassifier"}[attacker]
    made, fitted = getattr(unlearning_attack, kind), []

    def make(**options: object) -> object:
        fitted.append(made(**{**options, "max_iter": 1}))
        return fitted[-1]

    monkeypatch.setattr(unlearning_attack, kind, make)
    measure(attacked(20, 30, 1.0, noise=0.5), f"unlearning_attack:attacker={attacker},as_released=true")
    assert [int(np.max(each.n_iter_)) for each in fitted] == [1]


def test_retained_examples_are_drawn() -> None:
    draws = [measure(attacked(20, 300, 0.3, noise=0.5), "unlearning_attack", seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    rows = unlearning_attack._drawn(torch.arange(300)[:, None], 20, generator())[:, 0]
    assert len(set(rows.tolist())) == 20
    assert rows.max() > 100, "not only the first"


@pytest.mark.parametrize(("forgotten", "retained", "defined"), [(1, 50, False), (2, 50, True), (50, 2, True)])
def test_very_few_examples_give_a_number_or_none(forgotten: int, retained: int, defined: bool) -> None:
    found = measure(attacked(forgotten, retained, 2.0, noise=0.3), "unlearning_attack")
    assert all(math.isfinite(value) == defined for value in found.values())


def test_one_fold_is_refused() -> None:
    with pytest.raises(RequestError, match="folds must be a finite number, at least 2"):
        UnlearningAttackConfig(folds=1)


# ---- LiRA


def loop(x: float, said: list[float], seen: list[bool], spread: tuple[float, float] | None) -> float:
    """The online score of one example, as the paper's box."""
    inside = [value for value, was in zip(said, seen, strict=True) if was]
    outside = [value for value, was in zip(said, seen, strict=True) if not was]
    if spread is None:
        spread = float(np.std(inside, ddof=1)), float(np.std(outside, ddof=1))
    return float(stats.norm.logpdf(x, np.mean(inside), spread[0]) - stats.norm.logpdf(x, np.mean(outside), spread[1]))


def shown(count: int, models: int, seed: int = 0) -> tuple[Tensor, Shadows]:
    """What a model and its shadows say of ``count`` examples, each seen by two shadows at least, and by not all."""
    draw = generator(seed)
    inside = torch.rand(models, count, generator=draw) < 0.5
    inside[:2], inside[2:4] = True, False
    level = 3 * torch.randn(count, generator=draw, dtype=torch.float64)
    log_odds = level + inside + torch.randn(models, count, generator=draw, dtype=torch.float64)
    return level + 0.5, Shadows(torch.randperm(count, generator=draw) + 7, log_odds, inside)


def test_the_online_score_against_a_plain_loop() -> None:
    x, shadows = shown(40, 9)
    said, seen = shadows.log_odds.T.tolist(), shadows.inside.T.tolist()
    wanted = [loop(x[i].item(), said[i], seen[i], None) for i in range(40)]
    assert lira.likelihood_ratio(x, shadows, each=True).tolist() == pytest.approx(wanted)


def test_the_pooled_spread_against_a_plain_loop() -> None:
    x, shadows = shown(40, 9)
    said, seen = shadows.log_odds.T.tolist(), shadows.inside.T.tolist()
    spreads = []
    for which in (True, False):
        squares, free = 0.0, 0
        for values, was in zip(said, seen, strict=True):
            mine = [value for value, flag in zip(values, was, strict=True) if flag is which]
            squares, free = squares + sum((v - np.mean(mine)) ** 2 for v in mine), free + len(mine) - 1
        spreads.append(math.sqrt(squares / free))
    wanted = [loop(x[i].item(), said[i], seen[i], (spreads[0], spreads[1])) for i in range(40)]
    assert lira.likelihood_ratio(x, shadows, each=False).tolist() == pytest.approx(wanted)


def test_the_offline_score_orders_as_the_papers() -> None:
    x, shadows = shown(40, 9)
    found = lira.surprise(x, shadows, each=True)
    for i in range(40):
        outside = shadows.log_odds[~shadows.inside[:, i], i].numpy()
        wanted = stats.norm.cdf(x[i].item(), outside.mean(), outside.std(ddof=1))
        assert stats.norm.cdf(found[i].item()) == pytest.approx(wanted)


def test_examples_that_all_or_no_shadows_have_seen_do_not_count() -> None:
    x, shadows = shown(12, 8)
    shadows.inside[:, 0], shadows.inside[:, 1] = True, False
    shadows.inside[:, 2] = torch.arange(8) == 0  # a mean, but no spread of its own
    assert lira.likelihood_ratio(x, shadows, each=False).isnan().nonzero().flatten().tolist() == [0, 1]
    assert lira.likelihood_ratio(x, shadows, each=True).isnan().nonzero().flatten().tolist() == [0, 1, 2]
    assert lira.surprise(x, shadows, each=False).isnan().nonzero().flatten().tolist() == [0]


def test_shadows_that_all_say_the_same_give_no_score() -> None:
    x, shadows = shown(12, 8)
    same = replace(shadows, log_odds=shadows.log_odds[:1].expand(8, -1))
    assert lira.likelihood_ratio(x, same, each=False).tolist() == pytest.approx([0.0] * 12, abs=1e-6)


def test_shadows_are_found_by_id() -> None:
    _, shadows = shown(12, 5)
    asked = torch.tensor([3, 11, 0])
    found = shadows.of(shadows.ids[asked])
    assert torch.equal(found.log_odds, shadows.log_odds[:, asked])
    assert torch.equal(found.inside, shadows.inside[:, asked])
    for foreign in (0, 10**6):
        with pytest.raises(RequestError, match="not shown these examples"):
            shadows.of(torch.tensor([8, foreign]))


EXAMPLES, INPUTS, CLASSES = 120, 140, 4


def ridge(labels: Tensor, inputs: Tensor, learned: Tensor) -> Tensor:
    """Logits (n, classes) of a linear model that has been fitted to the examples ``learned`` in closed form.

    With more inputs than examples, and labels by chance, it can only remember.
    """
    x, y = inputs[learned], 8 * torch.nn.functional.one_hot(labels[learned], CLASSES).double()
    return inputs @ torch.linalg.solve(x.T @ x + 0.5 * torch.eye(INPUTS), x.T @ y)


def over_fitted(models: int = 16) -> Subject:
    """A model that has memorised 90 of 120 examples and has not seen the others."""
    draw = generator(4)
    inputs = torch.randn(EXAMPLES + 60, INPUTS, generator=draw, dtype=torch.float64)
    labels, ids = torch.randint(CLASSES, (EXAMPLES + 60,), generator=draw), torch.arange(EXAMPLES + 60)
    halves = torch.stack([torch.randperm(EXAMPLES, generator=draw) < EXAMPLES // 2 for _ in range(models)])
    inside = torch.cat([halves, torch.zeros(models, 60, dtype=torch.bool)], dim=1)
    said = torch.stack([Predictions(ridge(labels, inputs, row), labels, ids).log_odds() for row in inside])
    target = Predictions(ridge(labels, inputs, torch.arange(90)), labels, ids)
    splits = {"retain": target.select(ids < 90), "forget": target.select((ids >= 90) & (ids < EXAMPLES))}
    return Subject(splits | {"validation": target.select(ids >= EXAMPLES)}, {}, shadows=Shadows(ids, said, inside))


def test_memory_is_found_by_true_labels() -> None:
    found = measure(over_fitted(), "lira")
    assert found["auc"] > 0.95
    assert 50 < found["tpr_at_0_1_percent"] <= found["tpr_at_1_percent"]
    assert abs(found["offline_auc"] - 0.5) < 0.1, "what it has not learned looks like what was never seen"


def test_a_model_that_remembers_what_it_was_to_forget_is_told() -> None:
    """The original judged as if it were unlearned: forgotten examples look like members, and not like unseen ones."""
    subject = over_fitted()
    splits = {"retain": subject.splits["retain"].select(torch.arange(90) < 60), "validation": subject.splits["forget"]}
    found = measure(
        replace(subject, splits=splits | {"forget": subject.splits["retain"].select(torch.arange(90) >= 60)}), "lira"
    )
    assert abs(found["auc"] - 0.5) < 0.15
    assert found["offline_auc"] > 0.9


def shuffled(seed: int) -> Tensor:
    return torch.randperm(EXAMPLES + 60, generator=generator(seed))


def with_permuted_labels(subject: Subject, seed: int) -> Subject:
    """The judged model's answers are looked up under the labels of other examples."""
    drawn = torch.randint(CLASSES, (EXAMPLES + 60,), generator=generator(seed))
    splits = {name: replace(part, labels=drawn[part.ids]) for name, part in subject.splits.items()}
    return replace(subject, splits=splits, values={})


def with_permuted_members(subject: Subject, seed: int) -> Subject:
    """The shadow models are taken to have seen other examples than they have."""
    wrong = replace(subject.shadows, inside=subject.shadows.inside[:, shuffled(seed)])
    return replace(subject, shadows=wrong, values={})


@pytest.mark.parametrize("permuted", [with_permuted_labels, with_permuted_members])
def test_nothing_is_found_by_permuted_labels(permuted: Callable[[Subject, int], Subject]) -> None:
    subject = over_fitted()
    found = [measure(permuted(subject, seed), "lira")["auc"] for seed in range(10)]
    assert abs(np.mean(found) - 0.5) < 0.1


def test_many_shadows_give_each_example_a_variance_of_its_own() -> None:
    few, many = over_fitted(16), over_fitted(lira.MANY)
    assert measure(replace(few, values={}), "lira") == measure(replace(few, values={}), "lira:variance=pooled")
    assert measure(replace(many, values={}), "lira") == measure(replace(many, values={}), "lira:variance=each")
    assert measure(replace(many, values={}), "lira") != measure(replace(many, values={}), "lira:variance=pooled")


def test_without_validation_examples_there_is_no_offline_attack() -> None:
    subject = over_fitted()
    splits = {name: part for name, part in subject.splits.items() if name != "validation"}
    assert set(measure(replace(subject, splits=splits), "lira")) == {"auc", "tpr_at_1_percent", "tpr_at_0_1_percent"}


def test_outputs_of_shadows_that_are_not_finite_fail_clearly() -> None:
    subject = over_fitted()
    subject.shadows.log_odds[3, 5] = math.nan
    with pytest.raises(RunError, match="shadow model"):
        measure(subject, "lira")
