"""Rules, schedules, masks and sharpness-aware steps against closed forms and torch's own optimizers."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask, largest
from expunge.core.weights import trainable
from expunge.methods.neggrad_plus import NegGradPlusConfig
from expunge.training.rules import PerRole, Rule, weight_decay_of
from expunge.training.stepper import Progress, Stepper, perturbation
from expunge.unlearning.unlearn import Unlearning
from tests import problems

CPU = torch.device("cpu")
PLAIN = Rule(lr=0.1, momentum=0.0, weight_decay=0.0)


class Quadratic(nn.Module):
    """L(w) = 1/2 w' diag(1, 10) w."""

    def __init__(self, start: tuple[float, float] = (1.0, -2.0)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def loss(self) -> torch.Tensor:
        return 0.5 * (torch.tensor([1.0, 10.0], dtype=torch.float64) * self.weight**2).sum()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


def batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(8, 1, 4, 4, generator=generator), torch.randint(3, (8,), generator=generator)


def stepper(model: nn.Module, rule: Rule | PerRole, steps: int = 4, **more: object) -> Stepper:
    return Stepper(model, rule, steps, device=CPU, **more)


def train(model: nn.Module, rule: Rule | PerRole, steps: int = 4, **more: object) -> dict[str, torch.Tensor]:
    step = stepper(model, rule, steps, **more)
    model.train()
    for index in range(steps):
        inputs, labels = batch(index)
        step(retain=lambda x=inputs, y=labels: functional.cross_entropy(model(x), y))
    return model.state_dict()


@pytest.mark.parametrize(
    ("sharpness", "adaptive", "lamb", "direction"),
    [
        ("min", False, 1.0, (1.00499, -20.99875)),
        ("min", False, 0.5, (1.0025, -20.49938)),
        ("min", True, 1.0, (1.0025, -21.99938)),
        ("min", True, 0.5, (1.00125, -20.99969)),
        ("max", False, 1.0, (0.99501, -19.00125)),
        ("max", False, 0.5, (0.9975, -19.50062)),
        ("max", True, 1.0, (0.9975, -18.00062)),
        ("max", True, 0.5, (0.99875, -19.00031)),
    ],
)
def test_sharpness_aware_direction_on_a_quadratic(
    sharpness: str, adaptive: bool, lamb: float, direction: tuple[float, float]
) -> None:
    model = Quadratic()
    rule = Rule(lr=1.0, momentum=0.0, weight_decay=0.0, rho=0.1, sharpness=sharpness, adaptive=adaptive, lamb=lamb)
    stepper(model, rule)(retain=model.loss)
    moved = torch.tensor([1.0, -2.0], dtype=torch.float64) - model.weight.detach()
    assert moved.tolist() == pytest.approx(direction, abs=1e-5)


def test_perturbation_has_radius_rho() -> None:
    weights = [nn.Parameter(torch.tensor([3.0, -1.0])), nn.Parameter(torch.tensor([[2.0]]))]
    gradients = [torch.tensor([0.5, 2.0]), torch.tensor([[-1.0]])]
    plain = perturbation(weights, gradients, 0.3, adaptive=False)
    assert torch.cat([part.flatten() for part in plain]).norm().item() == pytest.approx(0.3)
    scaled = perturbation(weights, gradients, 0.3, adaptive=True)
    relative = [part / weight.detach().abs() for part, weight in zip(scaled, weights, strict=True)]
    assert torch.cat([part.flatten() for part in relative]).norm().item() == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
def test_optimizers_are_those_of_their_libraries(name: str) -> None:
    from lion_pytorch import Lion

    rule = Rule(optimizer=name, lr=0.01, momentum=0.8, beta2=0.97, weight_decay=0.1)
    model, oracle = net(), net()
    made = {
        "sgd": lambda p: torch.optim.SGD(p, 0.01, 0.8, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, (0.8, 0.97), weight_decay=0.1),
        "lion": lambda p: Lion(p, 0.01, (0.8, 0.97), weight_decay=0.1),
    }[name](list(oracle.parameters()))
    state = train(model, rule)
    oracle.train()
    for index in range(4):
        inputs, labels = batch(index)
        made.zero_grad()
        functional.cross_entropy(oracle(inputs), labels).backward()
        made.step()
    for key, value in oracle.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-6)


def test_lion_by_its_formula() -> None:
    model = Quadratic((1.0, -2.0))
    rule = Rule(optimizer="lion", lr=0.1, momentum=0.9, beta2=0.99, weight_decay=0.5)
    stepper(model, rule)(retain=model.loss)
    # First step: the sign of (1 - beta1) g, after decoupled decay by 1 - lr wd.
    assert model.weight.tolist() == pytest.approx([0.95 - 0.1, -1.9 + 0.1])


def rates(rule: Rule, steps: int = 4) -> list[float]:
    return [rule.rate(step, steps) for step in range(steps)]


def test_schedules() -> None:
    assert rates(Rule(lr=1.0)) == [1, 1, 1, 1]
    assert rates(Rule(lr=1.0, schedule="multistep")) == pytest.approx([1, 1, 0.1, 0.01])
    assert rates(Rule(lr=1.0, schedule="cosine")) == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * share)) for share in (0.0, 0.25, 0.5, 0.75)]
    )
    assert rates(Rule(lr=1.0, schedule="linear")) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(Rule(lr=1.0, schedule="linear", warmup=0.5)) == pytest.approx([0, 0.5, 1.0, 0.5])


@pytest.mark.parametrize("steps", [4, 40])
def test_an_exponential_rate_falls_by_its_factor_at_each_step_however_long_the_run(steps: int) -> None:
    falling = rates(Rule(lr=2.0, schedule="exponential", decay=0.5), steps)
    assert falling[:4] == [2.0, 1.0, 0.5, 0.25]
    assert falling[-1] == 2.0 * 0.5 ** (steps - 1)
    assert rates(Rule(lr=2.0, schedule="exponential", decay=0.5, warmup=0.5))[:4] == [0.0, 1.0, 0.5, 0.25]
    assert rates(Rule(lr=1.0, schedule="exponential"), 3) == pytest.approx([1.0, 0.995, 0.995**2])


def test_the_steps_of_a_part_of_a_run_are_counted_from_its_beginning() -> None:
    model = Quadratic()
    rule = Rule(lr=1.0, momentum=0.0, weight_decay=0.0, schedule="exponential", decay=0.5)
    step = stepper(model, rule, steps=4, first=2)
    for _ in range(2):
        step(retain=model.loss)
    assert [record["lr"]["retain"] for record in step.history()] == [0.25, 0.125]


def test_history_shows_the_schedule_and_the_losses() -> None:
    model = Quadratic()
    seen: list[Progress] = []
    step = stepper(model, Rule(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="linear"), on_step=seen.append)
    losses = []
    for _ in range(4):
        losses.append(float(model.loss().detach()))
        step(retain=model.loss)
    history = step.history()
    assert [record["step"] for record in history] == [1, 2, 3, 4]
    assert [record["lr"]["retain"] for record in history] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    assert [record["loss"]["retain"] for record in history] == pytest.approx(losses)
    assert seen[-1] == Progress(4, 4)


def test_one_rule_steps_once_on_the_sum() -> None:
    model = Quadratic()
    stepper(model, PLAIN)(retain=model.loss, forget=lambda: -0.5 * model.loss())
    assert model.weight.tolist() == pytest.approx([1 - 0.1 * 0.5, -2 + 0.1 * 0.5 * 20])


def test_a_rule_per_role_steps_in_the_order_given() -> None:
    model = Quadratic((1.0, 0.0))
    rule = PerRole(forget=Rule(lr=0.5, momentum=0, weight_decay=0), retain=Rule(lr=0.1, momentum=0, weight_decay=0))
    stepper(model, rule)(forget=lambda: -model.loss(), retain=model.loss)
    assert model.weight.tolist() == pytest.approx([1.5 * 0.9, 0.0])
    with pytest.raises(ValueError, match="no rule for the role"):
        stepper(model, rule)(other=model.loss)


def test_dual_plain_sgd_equals_one_rule_taken_in_turns() -> None:
    single, dual = net(), net()
    one, two = stepper(single, PLAIN), stepper(dual, PerRole(PLAIN, PLAIN))
    for index in range(3):
        inputs, labels = batch(index)
        for model, step in ((single, one), (dual, two)):
            step(forget=lambda m=model, x=inputs, y=labels: -functional.cross_entropy(m(x), y))
            step(retain=lambda m=model, x=inputs, y=labels: functional.cross_entropy(m(x), y))
    assert problems.same(single.state_dict(), dual.state_dict())


def test_roles_keep_separate_momentum() -> None:
    model = Quadratic((1.0, 0.0))
    rule = Rule(lr=0.1, momentum=0.9, weight_decay=0.0)
    step = stepper(model, PerRole(rule, rule))
    for _ in range(2):
        step(forget=lambda: 0.0 * model.loss())
        step(retain=model.loss)
    # Retain alone: w = 1 - .1 = .9, then momentum .9*1 + .9 = 1.8, w = .72; forget's state stayed zero.
    assert model.weight[0].item() == pytest.approx(0.72)


def test_clipping_bounds_the_step() -> None:
    model = Quadratic()
    stepper(model, Rule(lr=1.0, momentum=0.0, weight_decay=0.0, clip=0.25))(retain=model.loss)
    moved = model.weight.detach() - torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_only_the_gradient_within_the_mask_is_clipped(rho: float) -> None:
    """The gradient is (1, -20): clipped before the mask, a twentieth of the step would be left."""
    model = Quadratic()
    rule = Rule(lr=1.0, momentum=0.0, weight_decay=0.0, clip=0.5, rho=rho)
    step = stepper(model, rule, update_masks=Mask({"weight": torch.tensor([True, False])}))
    step(retain=model.loss)
    assert model.weight.tolist() == pytest.approx([0.5, -2.0], rel=1e-5)


@pytest.mark.parametrize(
    "rule", [Rule(), Rule(optimizer="adamw"), Rule(optimizer="lion"), Rule(rho=0.05), Rule(clip=1.0)]
)
def test_weights_outside_an_update_mask_stay_bit_equal(rule: Rule) -> None:
    model = net()
    before = problems.state(model)
    generator = torch.Generator().manual_seed(3)
    mask = Mask({n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in trainable(model).items()})
    after = train(model, rule, update_masks=mask)
    for name, moving in mask.items():
        assert torch.equal(after[name][~moving], before[name][~moving])
        assert not torch.equal(after[name][moving], before[name][moving])


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
def test_frozen_weights_gather_no_momentum(name: str) -> None:
    model = net()
    mask = largest({n: torch.rand_like(w) for n, w in trainable(model).items()}, 0.5)
    step = stepper(model, Rule(optimizer=name, weight_decay=0.1), update_masks=mask)
    inputs, labels = batch()
    for _ in range(2):
        step(retain=lambda: functional.cross_entropy(model(inputs), labels))
    state = step._updates[""].optimizer.state  # the buffers are nowhere else to be seen
    for key, weight in model.named_parameters():
        buffers = [b for b in state[weight].values() if torch.is_tensor(b) and b.shape == weight.shape]
        assert buffers
        assert all(bool((b[~mask[key]] == 0).all()) for b in buffers)
    assert any(bool((b != 0).any()) for kept in state.values() for b in kept.values() if torch.is_tensor(b))


def test_a_mask_of_ones_equals_no_mask() -> None:
    with_mask, without = net(), net()
    assert problems.same(train(with_mask, Rule(), update_masks=problems.full(with_mask)), train(without, Rule()))


def test_masks_per_role_do_not_leak() -> None:
    model = net()
    first = largest({n: torch.rand_like(w) for n, w in trainable(model).items()}, 0.3)
    step = stepper(model, PerRole(Rule(), Rule()), update_masks={"forget": first, "retain": first.inverted()})
    inputs, labels = batch()
    before = problems.state(model)
    step(forget=lambda: -functional.cross_entropy(model(inputs), labels))
    assert all(torch.equal(w[~first[n]], before[n][~first[n]]) for n, w in trainable(model).items())
    before = problems.state(model)
    step(retain=lambda: functional.cross_entropy(model(inputs), labels))
    assert all(torch.equal(w[first[n]], before[n][first[n]]) for n, w in trainable(model).items())


@pytest.mark.parametrize("rule", [Rule(), Rule(optimizer="adamw"), Rule(optimizer="lion"), Rule(rho=0.05)])
def test_sparsity_stays_exactly_zero(rule: Rule) -> None:
    model = net()
    kept = largest({n: w.detach().abs() for n, w in trainable(model).items()}, 0.4)
    state = train(model, rule, sparsity=kept)
    assert all(bool((state[name][~mask] == 0).all()) for name, mask in kept.items())
    assert any(bool((state[name][mask] != 0).any()) for name, mask in kept.items())


def test_a_rate_of_zero_changes_no_weight() -> None:
    for name in ("sgd", "adamw", "lion"):
        model = net()
        before = copy.deepcopy(dict(model.named_parameters()))
        train(model, Rule(optimizer=name, lr=0.0))
        assert problems.same(problems.weights(model), before)


def test_rho_zero_is_the_plain_rule_bit_for_bit() -> None:
    assert problems.same(train(net(), Rule(rho=0.0, sharpness="max")), train(net(), Rule()))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_perturbed_pass_leaves_batch_statistics_alone(momentum: float | None) -> None:
    plain, aware = net(), net()
    for model in (plain, aware):
        model[1].momentum = momentum
    train(plain, Rule(lr=0.0), steps=2)
    train(aware, Rule(lr=0.0, rho=0.5), steps=2)
    for name in ("1.running_mean", "1.running_var"):
        assert torch.equal(plain.state_dict()[name], aware.state_dict()[name])


def test_nan_is_reported_with_its_step_and_rate() -> None:
    model = Quadratic()
    step = stepper(model, PLAIN, steps=3)
    step(retain=model.loss)
    step(retain=lambda: model.loss() * float("nan"))
    with pytest.raises(RunError, match=r"the retain loss became nan at step 2 of 3, where the learning rate was 0.1"):
        step(retain=model.loss)


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert problems.same(train(net(), Rule()), train(net(), Rule()))


def test_bfloat16_is_used_on_request_only_for_a_tiny_model() -> None:
    seen: list[torch.dtype] = []

    class Probe(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    for precision, dtype in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seen.clear()
        model = Probe(4, 2)
        stepper(model, PLAIN, precision=precision)(retain=lambda m=model: m(torch.ones(3, 4)).float().sum())
        assert seen == [dtype]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("warmup", 1.5),
        ("clip", 0.0),
        ("rho", -0.1),
        ("milestone_factor", 0.0),
        ("decay", 0.0),
        ("decay", 1.5),
        ("milestones", (0.7, 0.2)),
        ("optimizer", "adam"),
        ("schedule", "step"),
        ("sharpness", "mid"),
        ("nesterov", True),
    ],
)
def test_bad_values_name_the_field(field: str, value: object) -> None:
    extra = {"momentum": 0.0} if field == "nesterov" else {}
    with pytest.raises(RequestError, match=field):
        Rule(**{field: value, **extra})


def test_a_model_without_trainable_weights_is_refused() -> None:
    with pytest.raises(RequestError, match="no trainable weights"):
        stepper(net().requires_grad_(False), Rule())


SGD, ADAMW = Rule(weight_decay=0.5), Rule(optimizer="adamw", weight_decay=0.5)


@pytest.mark.parametrize(
    ("rule", "original", "expected"),
    [
        (Rule(), None, 5e-4),
        (Rule(), Rule(), 5e-4),
        (Rule(), SGD, 0.5),
        (Rule(), Rule(weight_decay=0.0), 0.0),
        (Rule(weight_decay=0.0), SGD, 0.0),
        (Rule(weight_decay=0.1), SGD, 0.1),
        (Rule(), ADAMW, 5e-4),
        (Rule(optimizer="adamw"), SGD, 5e-4),
        (Rule(optimizer="lion"), ADAMW, 0.5),
        (Rule(optimizer="adamw8bit"), ADAMW, 0.5),
    ],
)
def test_weight_decay_is_by_default_that_of_the_original_if_of_one_kind(
    rule: Rule, original: Rule | None, expected: float
) -> None:
    assert weight_decay_of(rule, original) == expected


def test_the_context_gives_steppers_the_weight_decay_of_the_original_for_each_role() -> None:
    for share in ("nothing", "both"):
        after = [
            problems.weights(problems.unlearned(Unlearning(NegGradPlusConfig(epochs=1, rule=rule)), original_rule=SGD))
            for rule in (
                PerRole(Rule(), Rule(lr=0.02), share),
                PerRole(SGD, Rule(lr=0.02, weight_decay=0.5), share),
                PerRole(Rule(weight_decay=5e-4), Rule(lr=0.02, weight_decay=0.5), share),
                PerRole(SGD, Rule(lr=0.02, weight_decay=5e-4), share),
            )
        ]
        assert problems.same(after[0], after[1])
        assert not any(problems.same(after[0], other) for other in after[2:])
    context = problems.context(original_rule=SGD)
    assert (context.l2_coefficient(None), context.l2_coefficient(0.0)) == (0.5, 0.0)
    assert context.notes == {"weight_decay": 0.5}
    for unknown in (None, ADAMW):
        with pytest.raises(RequestError, match="say the coefficient of the L2 term"):
            problems.context(original_rule=unknown).l2_coefficient(None)
