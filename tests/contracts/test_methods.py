"""What every unlearning method must do; a new one is tested by being found."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from expunge.core import randomness, registry, weights
from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask, largest
from expunge.data.unlearning_data import UnlearningData
from expunge.training.rules import PerRole, Rule
from expunge.trajectory.plan import Trajectory
from expunge.unlearning import presets
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning, unlearn
from expunge.unlearning.update_masks import UpdateMask
from tests import problems

NAMES = list(dict.fromkeys([*registry.plugins("methods"), *presets.PRESETS]))
ITERATIVE = [name for name in NAMES if hasattr(presets.named(name).method, "rule")]
FROM_THE_MODEL = [name for name in ITERATIVE if name != "retrain"]
STEPLESS = [name for name in NAMES if name not in ITERATIVE and name != "original"]
RECORDED = [name for name in NAMES if registry.of_config("methods", presets.named(name).method).mark.trajectory]
QUICK = {"epochs": 2, "batch_size": 7, "linear": True, "backbone_is_public": True, "repeatable": True, "l2": 1e-3}


def short(name: str, **changes: object) -> Unlearning:
    """A method with two epochs in small batches."""
    wanted = presets.named(name)
    fields = {field.name for field in dataclasses.fields(wanted.method)}
    quick = {key: value for key, value in QUICK.items() if key in fields}
    return dataclasses.replace(wanted, method=dataclasses.replace(wanted.method, **(quick | changes)))


def original(
    wanted: Unlearning, data: UnlearningData, model: nn.Module | None = None
) -> tuple[nn.Module, Trajectory | None]:
    """The model that is to forget, with the recorded training that led to it where the method needs one."""
    found = problems.model() if model is None else model
    needed = registry.of_config("methods", wanted.method).mark.trajectory
    return found, problems.recorded(found, data) if needed else None


def run(
    wanted: Unlearning,
    seed: int = 0,
    data: UnlearningData | None = None,
    model: nn.Module | None = None,
    **more: object,
) -> nn.Module:
    seen = data or problems.data()
    found, trajectory = original(wanted, seen, model)
    return unlearn(found, seen, wanted, problems.context(seed, trajectory=trajectory, **more))


def state(model: nn.Module) -> dict[str, Tensor]:
    return problems.state(model)


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_gives_a_finite_model_of_the_same_shape_in_evaluation_mode(name: str) -> None:
    model = run(short(name))
    weights.check_same(model.state_dict(), problems.model().state_dict(), name)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point())
    assert not model.training


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    assert equal(run(short(name), seed=3), run(short(name), seed=3))


@pytest.mark.parametrize("name", ITERATIVE)
def test_another_seed_gives_another_model(name: str) -> None:
    assert not equal(run(short(name), seed=3), run(short(name), seed=4))


@pytest.mark.parametrize("name", FROM_THE_MODEL)
def test_a_rate_of_zero_moves_no_weight(name: str) -> None:
    before = dict(problems.model().named_parameters())
    unpruned = {"rate": 0.0} if name == "ao_sparse" else {}
    after = run(short(name, rule=Rule(lr=0.0), **unpruned))
    assert problems.same(problems.weights(after), before)


@pytest.mark.parametrize("name", FROM_THE_MODEL)
def test_no_epochs_is_the_identity(name: str) -> None:
    assert equal(run(short(name, epochs=0)), problems.model())


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
def test_takes_a_rule_per_role(name: str, optimizer: str) -> None:
    rule = Rule(optimizer=optimizer, lr=1e-3, rho=0.01)
    assert run(short(name, rule=PerRole(rule, rule))) is not None


@pytest.mark.parametrize("name", [n for n in [*FROM_THE_MODEL, *STEPLESS] if n not in presets.PRESETS])
def test_weights_outside_an_update_mask_do_not_move(name: str) -> None:
    wanted = short(name)
    before = problems.weights(original(wanted, problems.data())[0])
    mask = largest({key: weight.abs() for key, weight in before.items()}, 0.5)
    if name == "certified_removal":  # what does not move keeps what it learnt
        with pytest.raises(RequestError, match="do without an update mask"):
            run(wanted, update_masks=mask)
        return
    after = dict(run(wanted, update_masks=mask).named_parameters())
    assert all(torch.equal(after[key][~mask[key]], value[~mask[key]]) for key, value in before.items())
    assert any(not torch.equal(after[key], value) for key, value in before.items()), "and the others do"


@pytest.mark.parametrize("name", NAMES)
def test_keeps_sparsity(name: str) -> None:
    model = problems.model()
    kept = largest({key: weight.detach().abs() for key, weight in model.named_parameters()}, 0.5)
    after = run(short(name), sparsity=kept)
    assert all(bool((weight[~kept[key]] == 0).all()) for key, weight in after.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_data_alone(name: str) -> None:
    data = problems.data()
    before = [images.fingerprint() for images in (data.forget, data.retain, data.validation) if images]
    run(short(name), data=data)
    assert [images.fingerprint() for images in (data.forget, data.retain, data.validation) if images] == before


@pytest.mark.parametrize("name", NAMES)
def test_a_forget_set_smaller_than_a_batch(name: str) -> None:
    assert run(short(name), data=problems.data(forget=3)) is not None


@pytest.mark.parametrize("name", NAMES)
def test_empty_sets_are_refused(name: str) -> None:
    data = problems.data()
    nothing = data.forget.select(torch.arange(0))
    for empty in (dataclasses.replace(data, forget=nothing), dataclasses.replace(data, retain=nothing)):
        with pytest.raises(RequestError, match="at least one example"):
            run(short(name), data=empty)


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_loss_that_is_not_finite_fails_with_step_and_rate(name: str) -> None:
    data = problems.data()
    poisoned = [
        dataclasses.replace(images, inputs=torch.full(images.inputs.shape, float("nan")))
        for images in (data.forget, data.retain)
    ]
    bad = dataclasses.replace(data, forget=poisoned[0], retain=poisoned[1])
    wanted = dataclasses.replace(short(name), update_mask=None)
    with pytest.raises(RunError, match=r"loss became nan at step 1 of \d+, where the learning rate was"):
        run(wanted, data=bad)


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize(("field", "value"), [("epochs", -1), ("batch_size", 0)])
def test_bad_values_name_the_field(name: str, field: str, value: object) -> None:
    with pytest.raises(RequestError, match=field):
        short(name, **{field: value})


@pytest.mark.parametrize("name", ITERATIVE)
def test_seconds_and_history_are_kept(name: str) -> None:
    context, stages = problems.context(), list[str]()
    context.keep = lambda stage, _, make: stages.append(stage) or make(randomness.child(context.generator, stage))
    unlearn(problems.model(), problems.data(), short(name), context)
    assert context.seconds["unlearn"] > 0
    assert ("precompute" in context.seconds) == (name in presets.PRESETS or bool(stages))
    history = context.history()
    assert [record["step"] for record in history] == list(range(1, len(history) + 1))
    assert len(history) == context.steppers[0].steps


def test_retraining_does_not_depend_on_the_forget_set_or_the_old_weights() -> None:
    data, other = problems.data(), problems.data(forget=7)
    first = unlearn(problems.model(seed=1), data, short("retrain"), problems.context())
    second = unlearn(problems.model(seed=2), other, short("retrain"), problems.context())
    assert equal(first, second)


def test_doing_nothing_does_nothing() -> None:
    assert equal(run(presets.named("original")), problems.model())


def test_a_teacher_is_never_changed() -> None:
    teachers: list[tuple[nn.Module, dict[str, Tensor]]] = []
    real = weights.frozen_copy

    def spy(model: nn.Module) -> nn.Module:
        teacher = real(model)
        teachers.append((teacher, copy.deepcopy(state(teacher))))
        return teacher

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "frozen_copy", spy)
        run(short("scrub"))
    teacher, before = teachers[0]
    assert problems.same(teacher, before)


def test_random_labels_are_wrong_unless_asked_otherwise() -> None:
    from expunge.methods.random_label import draw_labels

    true = torch.arange(3).repeat(2000)
    generator = torch.Generator().manual_seed(0)
    wrong = draw_labels(true, 3, False, generator)
    assert not bool((wrong == true).any())
    shares = torch.bincount((wrong - true) % 3, minlength=3) / len(true)
    assert shares.tolist() == pytest.approx([0, 0.5, 0.5], abs=0.03)
    anything = draw_labels(true, 3, True, generator)
    assert float((anything == true).double().mean()) == pytest.approx(1 / 3, abs=0.03)


NUMBERS = [
    (name, field.name, default)
    for name in NAMES
    for field in dataclasses.fields(presets.named(name).method)
    for default in [getattr(presets.named(name).method, field.name)]
    if type(default) in (int, float)
]


@pytest.mark.parametrize(("name", "field", "default"), NUMBERS, ids=[f"{name}-{field}" for name, field, _ in NUMBERS])
def test_no_number_may_be_negative_or_without_a_value(name: str, field: str, default: float) -> None:
    values = [-1] if isinstance(default, int) else [-1.0, float("nan"), float("inf"), float("-inf")]
    for value in values:
        with pytest.raises(RequestError, match=field):
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
    for field, value in RULES.items():
        with pytest.raises(RequestError, match=field):
            presets.named(name, {field: value})
    for field, value in {"fraction": 1.5, "batch_size": 0}.items():
        with pytest.raises(RequestError, match=field):
            presets.named(name, {f"mask.{field}": value})
    wrong = {"0.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(RequestError, match=r"0\.weight has shape \(2, 2\)"):
        run(dataclasses.replace(short(name), update_mask=None), update_masks=Mask(wrong))


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize(
    "rule",
    [
        Rule(lr=0.01, rho=0.05, sharpness="max", lamb=0.5, adaptive=True),
        Rule(lr=0.01, schedule="multistep", nesterov=True, warmup=0.2, clip=1.0),
        PerRole(Rule(optimizer="adamw", lr=1e-4), Rule(lr=0.01)),
        PerRole(Rule(optimizer="adamw", lr=1e-4), Rule(lr=0.01), share="first"),
        PerRole(Rule(optimizer="adamw", lr=1e-4), Rule(optimizer="adamw", lr=1e-3), share="second"),
        PerRole(Rule(lr=0.01), Rule(lr=0.02), share="both"),
    ],
    ids=["sharpness", "schedule", "dual", "first", "second", "both"],
)
def test_takes_every_rule(name: str, rule: Rule | PerRole) -> None:
    before = dict(problems.model().named_parameters())
    after = run(short(name, rule=rule))
    assert any(not torch.equal(weight, before[key]) for key, weight in after.named_parameters())
    assert all(bool(torch.isfinite(weight).all()) for weight in after.parameters())


@pytest.mark.parametrize("name", [*FROM_THE_MODEL, *STEPLESS])
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
def test_takes_every_update_mask(name: str, mask: UpdateMask) -> None:
    rule = {"rule": Rule(lr=0.01)} if name in ITERATIVE else {}
    wanted = dataclasses.replace(short(name, **rule), update_mask=mask)
    roles = registry.of_config("methods", wanted.method).mark.roles
    refused = None
    if mask.roles == "forget" and "forget" not in roles:
        refused = "takes no forget steps"
    elif mask.roles == "split" and not roles:
        refused = r"takes no steps: give it one update mask \(roles=both\)"
    elif name == "certified_removal":
        refused = "do without an update mask"
    if refused is None:
        assert run(wanted) is not None
        return
    with pytest.raises(RequestError, match=refused):
        run(wanted)


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_training_is_needed_and_left_alone(name: str) -> None:
    data, wanted = problems.data(), short(name)
    model, trajectory = original(wanted, data)
    assert trajectory is not None
    before = trajectory.digest()
    unlearn(copy.deepcopy(model), data, wanted, problems.context(trajectory=trajectory))
    assert trajectory.digest() == before
    with pytest.raises(RequestError, match=f"{name} needs the recorded training of the model.*--record"):
        unlearn(model, data, wanted, problems.context())


@pytest.mark.parametrize("name", [*FROM_THE_MODEL, *STEPLESS])
def test_takes_low_rank_adapters_or_says_why_not(name: str) -> None:
    wanted = dataclasses.replace(short(name), adapters=LowRank(rank=1), update_mask=None)
    if name in ("boundary_expanding", "ao_sparse", "l1_sparse", *STEPLESS):  # they work on the weights themselves
        with pytest.raises(RequestError, match="adapter"):
            run(wanted)
        return
    weights.check_same(run(wanted).state_dict(), problems.model().state_dict(), name)


@pytest.mark.parametrize("name", ITERATIVE)
def test_options_of_a_role_that_is_never_stepped_on_are_refused(name: str) -> None:
    roles = registry.of_config("methods", presets.named(name).method).mark.roles
    for role in ("forget", "retain"):
        if role in roles:
            assert presets.named(name, {f"{role}.lr": 0.5}) is not None
        else:
            with pytest.raises(RequestError, match=f"takes no {role} steps"):
                presets.named(name, {f"{role}.lr": 0.5})
    context = problems.context()
    unlearn(problems.model(), problems.data(), short(name), context)
    assert set(context.steps()) == set(roles), "the mark tells the truth"


@pytest.mark.parametrize("name", NAMES)
def test_one_example_to_forget_is_forgotten_or_refused_with_the_cure(name: str) -> None:
    for model in (problems.model(), flat_model()):
        try:
            found = run(short(name), data=problems.data(forget=1), model=model)
        except RequestError as error:
            message = str(error)
        else:
            message = "batch normalisation"
            assert all(bool(torch.isfinite(v).all()) for v in found.state_dict().values() if v.is_floating_point())
        assert "batch normalisation" in message


def flat_model() -> nn.Module:
    """A model whose batch normalisation has one value per channel and example."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_running_statistics_can_be_frozen() -> None:
    before = {name: value.clone() for name, value in problems.model().named_buffers()}
    wanted = dataclasses.replace(short("finetune"), update_mask=UpdateMask(layers=("5",), freeze_statistics=True))
    assert all(torch.equal(value, before[name]) for name, value in run(wanted).named_buffers() if "running" in name)
    moving = dataclasses.replace(wanted, update_mask=UpdateMask(layers=("5",)))
    assert not all(torch.equal(value, before[name]) for name, value in run(moving).named_buffers())


def test_neggrad_plus_at_alpha_one_is_fine_tuning_bit_for_bit() -> None:
    assert equal(run(short("neggrad_plus", alpha=1.0)), run(short("finetune")))
    other = dataclasses.replace(problems.data(), forget=problems.images(10, seed=77))
    assert equal(run(short("neggrad_plus", alpha=1.0), data=other), run(short("finetune")))


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_refused_or_gives_a_finite_model(name: str) -> None:
    data = UnlearningData(
        problems.images(6, 1, seed=1), problems.images(12, 1, 100, seed=2), problems.images(6, 1, 500, seed=3), 1
    )
    if name in ("boundary_shrink", "random_label", "salun"):  # they need a wrong class
        with pytest.raises(RequestError, match="class"):
            run(short(name), data=data, model=problems.model(classes=1))
        return
    found = run(short(name), data=data, model=problems.model(classes=1))
    assert all(bool(torch.isfinite(value).all()) for value in found.state_dict().values())


class Constant(nn.Module):
    """Logits that no weight and no image changes: every gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(0 * inputs.flatten(1))


@pytest.mark.parametrize("name", FROM_THE_MODEL)
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_an_all_zero_gradient_moves_nothing(name: str, rho: float) -> None:
    wanted = short(name, rule=Rule(lr=0.1, weight_decay=0.0, rho=rho, clip=1.0))
    model = unlearn(Constant(), problems.data(), wanted, problems.context())
    assert not bool(model.layer.weight.any())
