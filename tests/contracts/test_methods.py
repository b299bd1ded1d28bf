"""What every unlearning method must do; a new one is tested by being found."""

import copy
import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from torch import Tensor, nn

from expunge.cli import _plugin
from expunge.core import config, registry, weights
from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask, largest
from expunge.data.image_set import make
from expunge.data.unlearning_data import UnlearningData
from expunge.training.rules import PerRole, Rule
from expunge.unlearning import presets
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning, reads_forget_set
from expunge.unlearning.update_masks import UpdateMask
from tests import problems
from tests.problems import attempt, run, unlearned

METHODS = list(registry.plugins("methods"))
NAMES = list(dict.fromkeys([*METHODS, *presets.PRESETS]))
QUICK = {"epochs": 2, "batch_size": 7, "linear": True, "backbone_is_public": True, "repeatable": True, "l2": 1e-3}


def mark(name: str) -> registry.Mark:
    """What the decorator of the method says."""
    return registry.of_config("methods", presets.named(name).method).mark


ITERATIVE = [name for name in NAMES if mark(name).roles]
RECORDED = [name for name in METHODS if registry.find("methods", name).extras.get("trajectory")]


def short(name: str, **changes: object) -> Unlearning:
    """A method with two epochs in small batches."""
    wanted = presets.named(name)
    quick = {key: value for key, value in QUICK.items() if key in config.field_names(type(wanted.method))}
    if "epochs" in quick:
        quick |= {"epochs": type(wanted.method).epochs} if "steps" in changes else {"steps": None}
    return dataclasses.replace(wanted, method=dataclasses.replace(wanted.method, **(quick | changes)))


def alone(name: str, **changes: object) -> Unlearning:
    """The method of a preset without its update mask."""
    return dataclasses.replace(short(name, **changes), update_mask=None)


@cache
def begins_anew(name: str) -> bool:
    """Whether a method draws its weights itself: those of the model given make no difference."""
    first, second = (unlearned(short(name, epochs=0), problems.model(seed=seed)) for seed in (1, 2))
    return problems.same(problems.weights(first), problems.weights(second))


@pytest.fixture(params=ITERATIVE)
def gradual(request: pytest.FixtureRequest) -> str:
    """A method that takes steps from the model given."""
    if begins_anew(request.param):
        pytest.skip("it begins anew")
    return request.param


def start(name: str) -> nn.Module:
    """The model that is to forget: recorded where the method needs that."""
    model = problems.model()
    if name in RECORDED:
        problems.recorded(model, problems.data())
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("forget", [10, 3])
def test_gives_a_finite_model_of_the_same_shape_in_evaluation_mode(name: str, forget: int) -> None:
    """Also where the forget set is smaller than a batch."""
    model = unlearned(short(name), on=problems.data(forget=forget))
    weights.check_same(model.state_dict(), problems.model().state_dict(), name)
    assert problems.finite(model)
    assert not model.training


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes_and_in_steps_another_one_others(name: str) -> None:
    first, second, other = (unlearned(short(name), seed=seed) for seed in (3, 3, 4))
    assert problems.same(first, second)
    assert not (name in ITERATIVE and problems.same(first, other))


def test_a_rate_of_zero_moves_no_weight_but_those_it_prunes(gradual: str) -> None:
    model, context = run(short(gradual, rule=Rule(lr=0.0)))
    kept, before = context.sparsity or {}, problems.weights(problems.model())
    expected = {key: value * kept[key] if key in kept else value for key, value in before.items()}
    assert all(torch.equal(weight, expected[key]) for key, weight in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_values_of_the_paper_are_options_that_differ_from_the_defaults(name: str) -> None:
    """By one word, without the scaling of the change; what is given besides takes precedence."""
    paper, own = presets.named(f"{name}:defaults=paper"), presets.named(name)
    assert paper.reach is None
    for key, value in presets.of_paper(name).items():
        assert presets.named(name, {key: value}) != own, f"{key}={value} is the default"
        kept = presets.named(f"{name}:defaults=paper", {key: presets.option(own, key)} if "." in key else {})
        assert presets.option(kept, key) in (value, presets.option(own, key))
    assert presets.named(name, {"defaults": "paper"}) == paper
    assert presets.named(f"{name}:defaults=own") == own


def test_no_epochs_is_the_identity(gradual: str) -> None:
    assert problems.same(unlearned(short(gradual, epochs=0)), problems.model())


LONG = [name for name in NAMES if "epochs" in config.field_names(type(presets.named(name).method))]


@pytest.mark.parametrize("name", LONG)
def test_steps_in_place_of_epochs(name: str) -> None:
    """As many steps as epochs have give the same bits; fewer are taken exactly, and the schedule spans them."""
    whole, under = run(short(name))
    calls, retain = len(under.history()), sum("retain" in record["loss"] for record in under.history())
    steps = next(n for n in (calls, retain) if problems.same(whole, unlearned(short(name, steps=n))))
    assert steps == calls or "on retain batches" in _plugin.documented(type(short(name).method))["steps"]
    for number in (steps - 1, 3, 1, 0):
        history = run(short(name, steps=number, rule=Rule(lr=0.01, schedule="linear")))[1].history()
        taken = len(history) if steps == calls else sum("retain" in record["loss"] for record in history)
        assert taken == number
        rates = [rate for record in history for rate in set(record["lr"].values())]
        assert rates == pytest.approx([0.01 * (1 - step / len(history)) for step in range(len(history))])


@pytest.mark.parametrize("name", LONG)
def test_steps_beside_epochs_are_refused_and_either_replaces_the_other(name: str) -> None:
    with pytest.raises(RequestError, match="steps is given in place of epochs: leave out one"):
        presets.named(name, {"steps": 3, "epochs": type(presets.named(name).method).epochs})
    with pytest.raises(RequestError, match="steps is given in place of epochs: leave out one"):
        short(name, steps=3, epochs=2)
    by_steps = presets.named(name, {"steps": 3}, presets.named(name, {"epochs": 2})).method
    assert (by_steps.steps, by_steps.epochs) == (3, type(by_steps).epochs)
    by_epochs = presets.named(name, {"epochs": 2}, presets.named(name, {"steps": 3})).method
    assert (by_epochs.steps, by_epochs.epochs) == (None, 2)


@pytest.mark.parametrize("name", METHODS)
def test_weights_outside_an_update_mask_do_not_move(name: str) -> None:
    if name in ITERATIVE and begins_anew(name):
        pytest.skip("it begins anew")
    wanted, before = alone(name), problems.weights(start(name))
    mask = largest({key: weight.abs() for key, weight in before.items()}, 0.5)
    found, refusal = attempt(lambda: problems.weights(unlearned(wanted, update_masks=mask)))
    if found is None:
        assert name not in ITERATIVE
        assert "do without an update mask" in refusal
        return
    assert all(torch.equal(found[key][~mask[key]], value[~mask[key]]) for key, value in before.items())
    freely = problems.weights(unlearned(wanted))
    assert problems.same(found, before) == problems.same(freely, before), (
        "the others do, where the method does anything"
    )


@pytest.mark.parametrize("name", NAMES)
def test_keeps_sparsity(name: str) -> None:
    kept = largest({key: weight.abs() for key, weight in problems.weights(problems.model()).items()}, 0.5)
    after = unlearned(short(name), sparsity=kept)
    assert all(bool((weight[~kept[key]] == 0).all()) for key, weight in after.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_data_alone(name: str) -> None:
    data = problems.data()
    before = [images.fingerprint() for images in (data.forget, data.retain, data.validation)]
    unlearned(short(name), on=data)
    assert [images.fingerprint() for images in (data.forget, data.retain, data.validation)] == before


@pytest.mark.parametrize("name", NAMES)
def test_empty_sets_are_refused(name: str) -> None:
    """But for a forget set that the method does not read: its images may be gone from the disk."""
    data = problems.data()
    nothing = data.forget.select(torch.arange(0))
    for empty in (dataclasses.replace(data, forget=nothing), dataclasses.replace(data, retain=nothing)):
        if len(empty.retain) and not reads_forget_set(short(name)):
            run(short(name), on=empty)
            continue
        with pytest.raises(RequestError, match="at least one example"):
            run(short(name), on=empty)


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_loss_that_is_not_finite_fails_with_step_and_rate(name: str) -> None:
    data = problems.data()
    sets = {"forget": data.forget, "retain": data.retain}
    bad = {
        role: dataclasses.replace(images, inputs=torch.full(images.inputs.shape, torch.nan))
        for role, images in sets.items()
    }
    with pytest.raises(RunError, match=r"loss became nan at step 1 of \d+, where the learning rate was"):
        run(alone(name), on=dataclasses.replace(data, **bad))


@pytest.mark.parametrize("name", ITERATIVE)
def test_seconds_and_history_are_kept(name: str) -> None:
    context = problems.context()
    run(short(name), under=context)
    assert context.seconds["unlearn"] > 0
    assert ("precompute" in context.seconds) == (short(name).update_mask is not None or bool(mark(name).stages))
    history = context.history()
    assert [record["step"] for record in history] == list(range(1, context.steppers[0].steps + 1))


NUMBERS = [
    (name, field, kind)
    for name in NAMES
    for field, hint in get_type_hints(type(presets.named(name).method)).items()
    for kind in (int, float)
    if hint in (kind, kind | None)
]


@pytest.mark.parametrize(("name", "field", "kind"), NUMBERS, ids=[f"{name}-{field}" for name, field, _ in NUMBERS])
def test_no_number_may_be_negative_or_without_a_value(name: str, field: str, kind: type) -> None:
    values = [-1] if kind is int else [-1.0, float("nan"), float("inf"), float("-inf")]
    for value in [*values, *[0] * (field == "batch_size")]:
        with pytest.raises(RequestError, match=rf"^{field} must be .*{value:g}"):
            short(name, **{field: value})


RULES = {
    "lr": -1.0,
    "momentum": 1.0,
    "weight_decay": float("nan"),
    "warmup": 1.5,
    "clip": 0.0,
    "rho": float("inf"),
    "beta2": -0.1,
}


@pytest.mark.parametrize("name", ITERATIVE)
def test_bad_rules_and_masks_are_named(name: str) -> None:
    for field, value in (RULES | {"mask.fraction": 1.5, "mask.batch_size": 0}).items():
        with pytest.raises(RequestError, match=field.removeprefix("mask.")):
            presets.named(name, {field: value})
    wrong = {"0.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(RequestError, match=r"0\.weight has shape \(2, 2\)"):
        run(alone(name), update_masks=Mask(wrong))


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize(
    "rule",
    [
        Rule(lr=0.01, rho=0.05, sharpness="max", lamb=0.5, adaptive=True),
        Rule(lr=0.01, schedule="multistep", nesterov=True, warmup=0.2, clip=1.0),
        Rule(optimizer="lion", lr=1e-3),
        PerRole(Rule(optimizer="lion", lr=1e-3, rho=0.01), Rule(lr=0.01, rho=0.01)),
        PerRole(Rule(optimizer="adamw", lr=1e-4), Rule(lr=0.01)),
        PerRole(Rule(optimizer="adamw", lr=1e-4), Rule(lr=0.01), share="first"),
        PerRole(Rule(optimizer="adamw", lr=1e-4), Rule(optimizer="adamw", lr=1e-3), share="second"),
        PerRole(Rule(lr=0.01), Rule(lr=0.02), share="both"),
    ],
    ids=["sharpness", "schedule", "lion", "roles", "dual", "first", "second", "both"],
)
def test_takes_every_rule(name: str, rule: Rule | PerRole) -> None:
    after = unlearned(short(name, rule=rule))
    assert not problems.same(problems.weights(after), problems.weights(problems.model()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "mask",
    [
        UpdateMask(roles="split"),
        UpdateMask("ratio", threshold=1.0, roles="forget"),
        UpdateMask("difference", fraction=0.1),
        UpdateMask("random", layers=("0",), fraction=0.5),
    ],
    ids=lambda mask: mask.score,
)
def test_takes_every_update_mask_or_says_why_not(name: str, mask: UpdateMask) -> None:
    roles, before = mark(name).roles, problems.weights(start(name))
    rule = {"rule": Rule(lr=0.01)} if roles else {}
    done, refusal = attempt(lambda: run(dataclasses.replace(short(name, **rule), update_mask=mask)))
    if mask.roles == "forget" and "forget" not in roles:
        assert "takes no forget steps" in refusal
    elif mask.roles == "split" and not roles and not done:
        assert "takes no steps: give it one update mask (roles=both)" in refusal
    elif not done:
        assert not roles
        assert "do without an update mask" in refusal
    elif isinstance(done[1].update_masks, Mask) and not (roles and begins_anew(name)):
        model, context = done
        moved = {key: weight != before[key] for key, weight in model.named_parameters()}
        assert not any(bool((moved[key] & ~context.update_masks[key]).any()) for key in moved)


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_training_is_needed_and_left_alone(name: str) -> None:
    data, model = problems.data(), problems.model()
    trajectory = problems.recorded(model, data)
    before = trajectory.digest()
    run(short(name), copy.deepcopy(model), data, trajectory=trajectory)
    assert trajectory.digest() == before
    with pytest.raises(RequestError, match=f"{name} needs the recorded training of the model.*--record"):
        run(short(name), model, data, problems.context())


@pytest.mark.parametrize("name", METHODS)
def test_takes_low_rank_adapters_or_says_why_not(name: str) -> None:
    before = problems.weights(start(name))
    rule = {"rule": Rule(lr=0.1)} if mark(name).roles else {}
    wanted = dataclasses.replace(alone(name, **rule), adapters=LowRank(rank=1))
    model, refusal = attempt(lambda: unlearned(wanted))
    if model is None:
        assert "adapter" in refusal or "cannot be drawn anew" in refusal
        return
    weights.check_same(model.state_dict(), problems.model().state_dict(), name)
    ranks = {
        key: int(torch.linalg.matrix_rank((weight.detach() - before[key]).double().flatten(1), rtol=1e-4))
        for key, weight in model.named_parameters()
        if weight.ndim > 1
    }
    assert set(ranks.values()) <= ({1} if mark(name).roles else {0, 1})
    assert all(torch.equal(weight, before[key]) for key, weight in model.named_parameters() if weight.ndim == 1)


@pytest.mark.parametrize("name", ITERATIVE)
def test_options_of_a_role_that_is_never_stepped_on_are_refused(name: str) -> None:
    roles = mark(name).roles
    for role in ("forget", "retain"):
        wanted, refusal = attempt(lambda role=role: presets.named(name, {f"{role}.lr": 0.5}))
        assert wanted is None or getattr(wanted.method.rule, role).lr == 0.5
        assert (f"takes no {role} steps" in refusal) == (role not in roles)
    assert set(run(short(name))[1].steps()) == set(roles), "the mark tells the truth"


class Flat(nn.Sequential):
    """A model whose batch normalisation has one value per channel and example."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [problems.model, Flat])
def test_one_example_to_forget_is_forgotten_or_refused_with_the_cure(name: str, kind: type) -> None:
    model, refusal = attempt(lambda: unlearned(short(name), kind(), problems.data(forget=1)))
    assert "batch normalisation" in refusal if model is None else problems.finite(model)
    assert kind is Flat or model is not None, "where every channel has many values, one example is enough"


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_refused_or_gives_a_finite_model(name: str) -> None:
    data = UnlearningData(
        problems.images(6, 1, seed=1), problems.images(12, 1, 100, seed=2), problems.images(6, 1, 500, seed=3), 1
    )
    model, refusal = attempt(lambda: unlearned(short(name), problems.model(classes=1), data))
    assert "class" in refusal if model is None else problems.finite(model)


class Constant(nn.Module):
    """Logits that no weight and no image changes: every gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(0 * inputs.flatten(1))


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_an_all_zero_gradient_moves_nothing(gradual: str, rho: float) -> None:
    model = unlearned(short(gradual, rule=Rule(lr=0.1, weight_decay=0.0, rho=rho, clip=1.0)), Constant())
    assert not bool(model.layer.weight.any())


class Untouched:
    """A validation set that nobody reads."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError("a validation image was asked for")

    def __len__(self) -> int:
        raise AssertionError("a validation image was asked for")


@pytest.mark.parametrize("name", NAMES)
def test_only_methods_that_say_so_read_validation_images(name: str) -> None:
    wanted = dataclasses.replace(short(name), reach=None)  # which reads them, and is seen as a value
    data = dataclasses.replace(problems.data(), validation=Untouched())
    if mark(name).validation(wanted.method):
        with pytest.raises(AssertionError, match="a validation image was asked for"):
            unlearned(wanted, on=data)
    else:
        unlearned(wanted, on=data)


def resting(name: str) -> Unlearning:
    """A method whose steps move no weight."""
    wanted = short(name)
    rule = getattr(wanted.method, "rule", None)
    if rule is None:
        return wanted
    rules = [dataclasses.replace(each, lr=0.0) for each in presets.rules(wanted).values()]
    still = rules[0] if isinstance(rule, Rule) else PerRole(*rules, rule.share)
    return dataclasses.replace(wanted, method=dataclasses.replace(wanted.method, rule=still))


def statistics(wanted: Unlearning, shade: int = 1) -> dict[str, Tensor]:
    """The running statistics after an unlearning of forget images that are so much darker."""
    data = problems.data()
    darker = dataclasses.replace(data, forget=make(data.forget.inputs // shade, data.forget.labels, first_id=0))
    state = unlearned(wanted, problems.model(), darker).state_dict()
    return {key: value for key, value in state.items() if "running" in key}


@pytest.mark.parametrize("name", NAMES)
def test_the_docs_say_whose_images_move_the_statistics_of_batch_normalisation(name: str) -> None:
    if not registry.of_config("methods", presets.named(name).method).function.__module__.startswith("expunge."):
        pytest.skip("the documents are about our own methods")
    text = (Path(__file__).parents[2] / "docs/fidelity.md").read_text()
    groups = re.findall(r"^- They are (not moved|moved by \w+)[^:]*:([^.]*)\.", text, re.M)
    (said,) = [group for group, names in groups if f"`{name}`" in names]
    wanted, before = resting(name), {k: v for k, v in problems.model().state_dict().items() if "running" in k}
    found = statistics(wanted)
    by_forget = not problems.same(found, statistics(wanted, shade=3))
    assert said == (
        "moved by forget" if by_forget else "not moved" if problems.same(found, before) else "moved by retain"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_statistics_of_batch_normalisation_can_be_kept_by_every_method(name: str) -> None:
    mask = short(name).update_mask or UpdateMask(fraction=1.0)
    kept = dataclasses.replace(short(name), update_mask=dataclasses.replace(mask, freeze_statistics=True))
    found, refusal = attempt(lambda: statistics(kept))
    before = {k: v for k, v in problems.model().state_dict().items() if "running" in k}
    assert problems.same(found, before) if found is not None else "do without an update mask" in refusal
