"""Discriminative adversarial unlearning: each piece against a slow truth, and the run against what it promises."""

import copy
import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.core import randomness, registry
from expunge.core.errors import RequestError, RunError
from expunge.curvature import heads
from expunge.data.augment import Augmentation
from expunge.data.image_set import Batch, ImageSet, make
from expunge.data.unlearning_data import UnlearningData
from expunge.methods import _attacker, adversarial
from expunge.methods._attacker import Attacker, Noisy, Pretraining, Probe, View
from expunge.methods.adversarial import AdversarialConfig
from expunge.methods.finetune import FinetuneConfig
from expunge.training.rules import PerRole, Rule
from tests import problems

SMALL = AdversarialConfig(epochs=2, batch_size=7, pretrain_steps=2, directions=3)
COPIES, DERIVATIVE = Probe("copies", 5, 1e-6), Probe("derivative", 5, 1e-6)


def change(**changes: object) -> AdversarialConfig:
    return dataclasses.replace(SMALL, **changes)


def batch(count: int = 6, seed: int = 0) -> Batch:
    images = problems.images(count, seed=seed)
    return Batch(images.inputs.double() / 255, images.labels, images.ids)


def observed(model: nn.Module, probe: Probe, given: Batch, seed: int = 0) -> View:
    noisy = _attacker.noisy(given, probe, torch.Generator().manual_seed(seed))
    with _attacker.tapped(model, model[-1]) as forward:
        return _attacker.observe(model, forward, probe, noisy)


def sensitivity(view: View) -> Tensor:
    return view.inputs[:, view.inputs.shape[1] // 3 * 2 :]


# What the attacker sees


@pytest.mark.parametrize("probe", [COPIES, DERIVATIVE])
def test_the_sensitivity_of_a_linear_model_is_that_of_its_matrix(probe: Probe) -> None:
    torch.manual_seed(0)
    model, given = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), batch()
    directions = _attacker.noisy(given, probe, torch.Generator().manual_seed(0)).directions
    expected = (directions.flatten(2) @ model[1].weight.T).abs().mean(0)
    torch.testing.assert_close(sensitivity(observed(model, probe, given)), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("training", [True, False])
def test_derivatives_agree_with_the_whole_jacobian(training: bool) -> None:
    model, given = problems.model().double().train(training), batch()
    model[4].p = 0.0
    found = sensitivity(observed(model, DERIVATIVE, given))
    jacobian = torch.autograd.functional.jacobian(copy.deepcopy(model), given.inputs)  # of every image in all logits
    directions = _attacker.noisy(given, DERIVATIVE, torch.Generator().manual_seed(0)).directions
    expected = torch.einsum("bcixyz,kixyz->kbc", jacobian, directions).abs().mean(0)
    torch.testing.assert_close(found, expected)


def test_copies_and_derivatives_agree_as_the_noise_vanishes_in_value_and_gradient() -> None:
    model, given = problems.model().double().eval(), batch()
    gaps: list[float] = []
    exact = sensitivity(observed(model, DERIVATIVE, given))
    for noise in (1e-1, 1e-3, 1e-6):
        gaps.append(
            float((sensitivity(observed(model, Probe("copies", 5, noise), given)) - exact).abs().max().detach())
        )
    assert gaps[0] > gaps[1] >= gaps[2]
    assert gaps[2] < 1e-7
    moved = [weight for name, weight in model.named_parameters() if name != "5.bias"]  # of which slopes know nothing
    first, second = (
        torch.autograd.grad(sensitivity(observed(model, probe, given)).sum(), moved, allow_unused=True)
        for probe in (COPIES, DERIVATIVE)
    )
    for weight, *found in zip(moved, first, second, strict=True):
        a, b = (torch.zeros_like(weight) if gradient is None else gradient for gradient in found)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("probe", [COPIES, DERIVATIVE])
def test_what_is_seen_is_logits_labels_and_features(probe: Probe) -> None:
    model, given = problems.model().double().eval(), batch()
    view = observed(model, probe, given)
    torch.testing.assert_close(view.inputs[:, :3], model(given.inputs))
    assert torch.equal(view.inputs[:, 3:6], nn.functional.one_hot(given.labels, 3).double())
    torch.testing.assert_close(view.features, model[:-1](given.inputs))


@pytest.mark.parametrize("probe", [COPIES, DERIVATIVE])
def test_looking_leaves_no_trace_and_sees_no_dropout(probe: Probe) -> None:
    model, given = problems.model().double().train(), batch()
    before, modes = problems.state(model), [module.training for module in model.modules()]
    views = [observed(model, probe, given) for _ in range(2)]
    assert torch.equal(views[0].inputs, views[1].inputs)
    assert problems.same(model, before)
    assert [module.training for module in model.modules()] == modes
    assert model[1].track_running_stats
    model(given.inputs)
    assert not problems.same(model, before)


def test_batch_statistics_are_used_and_frozen_layers_keep_theirs() -> None:
    model, given = problems.model().double().train(), batch()
    model[1].running_mean.fill_(7.0)
    lively = observed(model, DERIVATIVE, given).inputs
    model[1].eval()
    assert not torch.allclose(observed(model, DERIVATIVE, given).inputs, lively)
    model[4].eval()
    torch.testing.assert_close(observed(model, DERIVATIVE, given).inputs[:, :3], model(given.inputs))


def test_a_failure_while_looking_restores_the_model() -> None:
    model, given = problems.model().train(), batch()  # float32 weights, float64 images
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        observed(model, COPIES, given)
    assert [module.training for module in model.modules()] == modes
    assert not model[-1]._forward_pre_hooks
    assert model[1].track_running_stats


def test_the_view_is_in_float32_under_autocast() -> None:
    model = problems.model().eval()
    given = dataclasses.replace(batch(), inputs=batch().inputs.float())
    plain = observed(model, COPIES, given)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(given.inputs).dtype == torch.bfloat16
        cast = observed(model, COPIES, given)
    assert torch.equal(plain.inputs, cast.inputs)


# The attacker


@pytest.mark.parametrize(("classes", "count"), [(10, 141_886), (100, 511_066)])
def test_the_attacker_has_the_published_size(classes: int, count: int) -> None:
    assert sum(weight.numel() for weight in Attacker(classes).parameters()) == count


def test_the_attacker_by_hand() -> None:
    torch.manual_seed(0)
    attacker, inputs = Attacker(3, dropout=0.0), torch.randn(8, 9)
    gelu, norm = nn.functional.gelu, nn.functional.layer_norm
    scaled = (inputs - inputs.mean(0)) / (inputs.var(0, correction=0) + 1e-5).sqrt()
    rows = []
    for row in scaled:
        tokens = torch.stack([row[[c, 3 + c, 6 + c]] for c in range(3)])  # logit, label, sensitivity of a class
        x = gelu(tokens @ attacker.fc1.weight.T + attacker.fc1.bias)
        for layer in attacker.transformer_encoder.layers:
            attention: Any = layer.self_attn
            q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).split(64, dim=1)
            heads = [
                torch.softmax(q[:, h] @ k[:, h].T / 4, dim=1) @ v[:, h]
                for h in (slice(i, i + 16) for i in (0, 16, 32, 48))
            ]
            x = norm(x + torch.cat(heads, 1) @ attention.out_proj.weight.T + attention.out_proj.bias, (64,))
            hidden = gelu(x @ layer.linear1.weight.T + layer.linear1.bias)
            x = norm(x + hidden @ layer.linear2.weight.T + layer.linear2.bias, (64,))
        rows.append(attacker.fc3(torch.relu(attacker.fc2(x.flatten()))))
    torch.testing.assert_close(attacker(inputs), torch.stack(rows), rtol=1e-4, atol=1e-5)


def test_members_are_ones_and_others_zeros() -> None:
    members, others = torch.full((3, 2), 5.0), torch.zeros(4, 2)
    logits = torch.tensor([[0.0, 2.0]]).expand(7, 2)
    loss = _attacker.recognition(lambda inputs: logits * inputs[:, :1].sign(), members, others)
    sure, unsure = torch.tensor(2.0).neg().exp().log1p(), torch.tensor(2.0).log()
    torch.testing.assert_close(loss, (3 * sure + 4 * unsure) / 7)


def test_pretraining_learns_to_tell_what_can_be_told() -> None:
    model, plan = problems.model(), Pretraining(30, 16, 1e-3, Probe("derivative", 2, 1e-3))
    dark = problems.images(20, first_id=100)
    dark = dataclasses.replace(dark, inputs=dark.inputs // 4)
    members = problems.images(20)
    state = _attacker.pretrained(model, model[-1], members, dark, plan, torch.Generator().manual_seed(0))
    attacker = Attacker(3, dropout=0.0)
    attacker.load_state_dict(state)
    views = [observed(model, plan.probe, next(images.batches(20))).inputs for images in (members, dark)]
    assert float(_attacker.recognition(attacker, *views).detach()) < 0.3


def test_pretraining_depends_on_its_generator_alone_and_changes_nothing() -> None:
    model, plan = problems.model().train(), Pretraining(2, 5, 1e-3, Probe("copies", 2, 1e-3))
    before, states = problems.state(model), []
    for seed, other in ((0, 1), (0, 2), (3, 1)):
        torch.manual_seed(other)
        drawn = torch.Generator().manual_seed(seed)
        given = problems.images(12), problems.images(9, first_id=50)
        states.append(_attacker.pretrained(model, model[-1], *given, plan, drawn))
    assert problems.same(states[0], states[1])
    assert not problems.same(states[0], states[2])
    assert problems.same(model, before)


# The loss of the model


def test_decorrelation_by_loops() -> None:
    first, second = (torch.randn(6, 4, dtype=torch.float64) for _ in range(2))
    expected = 0.0
    for d, e in itertools.product(range(4), range(4)):
        a, b = first[:, d], second[:, e]
        k = float(((a - a.mean()) / a.std() * (b - b.mean()) / b.std()).mean())
        expected += (k - 1) ** 2 if d == e else 0.3 * k**2
    assert float(adversarial.decorrelation(first, second, 0.3)) == pytest.approx(expected, rel=1e-6)


def test_constant_features_count_as_zeros_with_finite_gradients() -> None:
    features = torch.randn(5, 3)
    features[:, 1] = 0.0
    features.requires_grad_()
    assert torch.equal(adversarial.standardised(features)[:, 1], torch.zeros(5))
    loss = adversarial.decorrelation(features, torch.randn(5, 3), 0.1)
    loss.backward()
    assert bool(torch.isfinite(features.grad).all())


def test_a_batch_of_one_has_no_correlation() -> None:
    features = torch.randn(1, 4, requires_grad=True)
    loss = adversarial.decorrelation(features, torch.randn(1, 4), 0.1)
    loss.backward()
    assert float(loss.detach()) == 4.0
    assert torch.equal(features.grad, torch.zeros(1, 4))


def view(count: int, seed: int) -> View:
    torch.manual_seed(seed)
    return View(torch.randn(count, 9, requires_grad=True), torch.randn(count, 5, requires_grad=True))


def test_the_defence_misleads_the_attacker_and_leaves_it_as_it_is() -> None:
    torch.manual_seed(0)
    attacker, forgotten, other = Attacker(3, dropout=0.0), view(6, 1), view(6, 2)
    before = problems.state(attacker)
    loss = adversarial.defence(attacker, forgotten, other, change(adversarial_weight=0.7, decorrelation_weight=0.2))
    loss.backward()
    assert problems.same(attacker, before)
    assert all(weight.grad is None for weight in attacker.parameters())
    assert bool(forgotten.inputs.grad.any())
    assert bool(other.features.grad.any())
    logits = attacker(torch.cat([forgotten.inputs, other.inputs]))
    mistaken = nn.functional.cross_entropy(logits, torch.tensor([0] * 6 + [1] * 6))
    expected = 0.7 * mistaken + 0.2 * adversarial.decorrelation(forgotten.features, other.features, 5e-3)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_the_attacker_learns_once_in_each_step(rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = count_attacks(monkeypatch)
    problems.run(change(rule=Rule(lr=0.01, rho=rho)))
    assert [stepper.taken for stepper in steps] == [SMALL.pretrain_steps, 2 * problems.data().retain.steps(7)]


def count_attacks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    real: Callable[..., Any] = _attacker.learner

    def learner(*given: Any) -> Any:
        made.append(real(*given))
        return made[-1]

    monkeypatch.setattr(_attacker, "learner", learner)
    monkeypatch.setattr(adversarial, "learner", learner)
    return made


def test_the_attacker_learns_before_the_model_answers() -> None:
    torch.manual_seed(0)
    attacker, forgotten, other = Attacker(3, dropout=0.0), view(6, 1), view(6, 2)
    views = {1: forgotten, 2: other}
    pair = [Noisy(batch(seed=seed), torch.full((1,), float(seed))) for seed in views]
    learn = _attacker.learner(attacker, 0.01, 1, torch.device("cpu"))
    objective = adversarial.duel(lambda seen: views[int(seen.directions)], *pair, attacker, learn, SMALL)
    twin = copy.deepcopy(attacker)
    optimizer = torch.optim.Adam(twin.parameters(), 0.01)
    nn.functional.cross_entropy(
        twin(torch.cat([forgotten.inputs, other.inputs]).detach()), torch.tensor([1] * 6 + [0] * 6)
    ).backward()
    optimizer.step()
    losses = [objective(), objective()]  # the second as a sharpness-aware rule asks
    assert learn.taken == 1
    assert forgotten.inputs.grad is None
    torch.testing.assert_close(losses[0], adversarial.defence(twin, forgotten, other, SMALL), rtol=1e-4, atol=1e-5)
    assert torch.equal(losses[0], losses[1])


# Which layer, which images


@pytest.mark.parametrize("name", ["logistic", "mlp", "resnet20", "small_cnn"])
@pytest.mark.parametrize("kind", ["copies", "derivative"])
def test_features_of_every_kind_of_model(name: str, kind: Any) -> None:
    plugin = registry.find("models", name)
    model: Any = plugin.call(plugin.config(), (1, 8, 8), 4)
    images = make(torch.rand(3, 1, 8, 8), torch.arange(3))
    probe = Probe(kind, 2, 1e-3)
    layer = heads.classifier(model, images, "it")
    assert layer.out_features == 4
    with _attacker.tapped(model.train(), layer) as forward:
        seen = _attacker.noisy(next(images.batches(3)), probe, torch.Generator())
        found = _attacker.observe(model, forward, probe, seen)
    assert found.features.shape == (3, layer.in_features)
    assert found.inputs.shape == (3, 12)


class TwoHeads(nn.Module):
    """The layer that gives the logits is not the last one, neither in order nor in time."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.head, self.extra, self.scale = nn.Linear(16, 3), nn.Linear(16, 3), scale

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.head(inputs.flatten(1))
        self.extra(inputs.flatten(1))
        return logits if self.scale == 1 else logits * self.scale


def test_the_layer_is_the_one_that_gives_the_logits() -> None:
    model = TwoHeads().train()
    assert heads.classifier(model, problems.images(3), "it") is model.head
    assert model.training
    assert not model.head._forward_hooks


def test_a_model_without_such_a_layer_is_refused() -> None:
    model = TwoHeads(scale=2.0)
    with pytest.raises(RequestError, match=r"output of an nn\.Linear"):
        problems.run(SMALL, model)
    assert not model.head._forward_hooks
    assert not model.head._forward_pre_hooks


def test_no_hook_is_left() -> None:
    model, _ = problems.run(SMALL)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("validation", [None, problems.images(12).select(torch.arange(0))])
def test_a_validation_set_is_needed(validation: ImageSet | None) -> None:
    data = dataclasses.replace(problems.data(), validation=validation)
    with pytest.raises(RequestError, match="needs a validation set"):
        problems.run(SMALL, on=data)


def by_class(data: UnlearningData, forgotten: int) -> UnlearningData:
    images = data.everything()
    chosen = images.labels == forgotten
    return dataclasses.replace(data, forget=images.select(chosen), retain=images.select(~chosen))


def test_forgotten_classes_are_no_example_unless_asked() -> None:
    data = by_class(problems.data(), 1)
    assert set(adversarial._unseen(data, SMALL).labels.tolist()) == {0, 2}
    assert set(adversarial._unseen(data, change(unseen="all")).labels.tolist()) == {0, 1, 2}
    assert len(adversarial._unseen(problems.data(), SMALL)) == len(problems.data().validation or [])
    only = dataclasses.replace(data, validation=data.forget)
    with pytest.raises(RequestError, match="unseen=all"):
        problems.run(SMALL, on=only)


def test_unseen_images_carry_the_augmentation_of_the_training_images() -> None:
    data = problems.data()
    data = dataclasses.replace(data, retain=dataclasses.replace(data.retain, augmentation=Augmentation(1)))
    assert adversarial._unseen(data, SMALL).augmentation == Augmentation(1)
    assert data.everything().augmentation == Augmentation(1)


def test_batches_are_whole_shuffled_and_without_end() -> None:
    images = problems.images(10)
    drawn = list(itertools.islice(_attacker.draws(images, 4, torch.Generator().manual_seed(0)), 20))
    assert all(len(set(given.ids.tolist())) == 4 for given in drawn)
    assert set(torch.cat([given.ids for given in drawn]).tolist()) == set(range(10))
    assert not torch.equal(drawn[0].ids, drawn[2].ids)
    (joined,) = itertools.islice(_attacker.draws(problems.images(5), 4, torch.Generator()), 1)
    assert len(joined.labels) == 4


@pytest.mark.parametrize(("forget", "validation"), [(1, 12), (2, 1), (1, 1), (10, 3)])
@pytest.mark.parametrize("kind", ["copies", "derivative"])
def test_sets_of_any_size(forget: int, validation: int, kind: Any) -> None:
    data = problems.data(forget=forget)
    data = dataclasses.replace(data, validation=problems.images(validation, first_id=500))
    _, context = problems.run(change(epochs=1, sensitivity=kind), on=data)
    assert len(context.history()) == data.retain.steps(7)


# The stage


def before(config: AdversarialConfig, data: UnlearningData) -> dict[str, Tensor]:
    """The attacker that a run begins with."""
    generator = randomness.child(problems.context().generator, "attacker")
    return adversarial.attacker_before(problems.model(), data, config, generator)


def test_the_attacker_does_not_depend_on_the_forget_set() -> None:
    images = problems.data().everything()
    found = []
    for forgotten in (images.labels == 1, torch.arange(40) < 3):
        data = dataclasses.replace(problems.data(), forget=images.select(forgotten), retain=images.select(~forgotten))
        found.append(before(change(pretrain_steps=None), data))
    assert problems.same(*found)
    passes = 3 * -(-40 // SMALL.batch_size)
    assert problems.same(found[0], before(change(pretrain_steps=passes), problems.data())), "three passes over all"


def test_an_attacker_that_is_given_is_used_and_is_not_changed() -> None:
    made = problems.unlearned(SMALL)
    state = before(SMALL, problems.data())
    handed = {name: value.clone() for name, value in state.items()}
    assert problems.same(problems.unlearned(SMALL, extras={"attacker": handed}), made)
    assert problems.same(handed, state)
    other = before(change(attacker_lr=0.01), problems.data())
    assert not problems.same(problems.unlearned(SMALL, extras={"attacker": other}), made)


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(AdversarialConfig)])
def test_the_stage_names_the_options_that_the_attacker_depends_on(field: str) -> None:
    others = {"pretrain_steps": 3, "batch_size": 6, "attacker_lr": 0.01, "directions": 2, "noise": 0.01}
    others |= {"sensitivity": "derivative", "epochs": 9, "adversarial_weight": 0.1, "decorrelation_weight": 0.5}
    others |= {"off_diagonal": 0.1, "unseen": "all", "stop_after": 4, "stop_lr": 0.1, "rule": Rule(lr=0.1), "steps": 5}
    stopped = change(stop_after=9)
    in_place = {"epochs": AdversarialConfig.epochs} if field == "steps" else {}
    changed = dataclasses.replace(stopped, **{field: others[field]}, **in_place)
    differs = not problems.same(before(stopped, problems.data()), before(changed, problems.data()))
    stage = adversarial.ATTACKER
    assert differs == (field in stage.fields) == (stage.only(changed) != stage.only(stopped))


# The run


@pytest.mark.parametrize("rho", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["copies", "derivative"])
def test_work_is_what_the_formulas_need(kind: Any, rho: float) -> None:
    model, data, m = problems.model(), problems.data(), SMALL.directions
    passed: list[int] = []
    model.register_forward_hook(lambda _, given, __: passed.append(given[0].shape[0]))
    config = change(sensitivity=kind, rule=Rule(rho=rho), epochs=3, batch_size=6)
    problems.run(config, model, data)
    each = 2 * 6 * (1 + (m if kind == "copies" else 0))  # of the forget and the validation set
    steps = 3 * data.retain.steps(6)
    times = 2 if rho else 1
    first = 2 + (config.pretrain_steps or 0) * each  # one image to find the last layer, twice, and the attacker's steps
    judged = 2 * len(data.forget)  # whether the outputs have changed
    assert sum(passed) == first + times * (3 * len(data.retain) + steps * each) + judged


def test_stopping_at_once_is_fine_tuning() -> None:
    models = [problems.model() for _ in range(2)]
    for model in models:
        model[4].p = 0.0
    first, _ = problems.run(change(stop_after=0), models[0])
    tuned = FinetuneConfig(epochs=2, batch_size=7, rule=SMALL.rule)
    second = problems.unlearned(tuned, models[1])
    assert problems.same(first, second)


def test_stopping_leaves_retain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    learners = count_attacks(monkeypatch)
    _, context = problems.run(change(stop_after=3))
    roles = [set(record["loss"]) for record in context.history()]
    assert roles == [{"forget", "retain"}] * 3 + [{"retain"}] * 7
    assert learners[1].taken == 3


ROLES = PerRole(forget=Rule(lr=0.02), retain=Rule(lr=0.02))


@pytest.mark.parametrize(
    "rule", [Rule(lr=0.02), ROLES, Rule(lr=0.02, schedule="linear")], ids=["one", "roles", "linear"]
)
@pytest.mark.parametrize("stop_lr", [None, 0.005, 0.08])
def test_the_learning_rate_after_the_stop(rule: Rule | PerRole, stop_lr: float | None) -> None:
    _, context = problems.run(change(stop_after=3, stop_lr=stop_lr, rule=rule))
    rates = [record["lr"]["retain"] for record in context.history()]
    shares = [1 - taken / 10 for taken in range(10)] if rule == Rule(lr=0.02, schedule="linear") else [1.0] * 10
    peaks = [0.02] * 3 + [0.02 if stop_lr is None else stop_lr] * 7
    assert rates == pytest.approx([peak * share for peak, share in zip(peaks, shares, strict=True)])


def test_momentum_is_kept_over_the_stop() -> None:
    """As in the released code, which sets another rate in the same optimizer: the rule's own rate changes nothing."""
    wanted = change(stop_after=3, rule=Rule(lr=0.02))
    assert problems.same(problems.unlearned(dataclasses.replace(wanted, stop_lr=0.02)), problems.unlearned(wanted))


def test_a_learning_rate_after_no_stop_is_refused() -> None:
    with pytest.raises(RequestError, match="say when by stop_after"):
        AdversarialConfig(stop_lr=0.01)


def test_running_statistics_come_from_the_retain_set() -> None:
    data = problems.data()
    model, _ = problems.run(change(epochs=1, rule=Rule(lr=0.0)))
    twin = problems.model().train()
    for given in data.retain.batches(7, problems.context().generator):
        twin(given.inputs)
    # The order of batches is another one: the momentum of the average weighs them otherwise, nothing else differs.
    assert int(model[1].num_batches_tracked) == int(twin[1].num_batches_tracked) == data.retain.steps(7)


@pytest.mark.parametrize("probe", [Probe("copies", 3, 1e-3), Probe("derivative", 3, 1e-3)])
def test_the_model_moves_so_that_an_attacker_that_stays_as_it_is_is_mistaken(probe: Probe) -> None:
    torch.manual_seed(0)
    model, attacker = problems.model().train(), Attacker(3, dropout=0.0)
    pair = []
    for seed in (1, 2):
        given = next(problems.images(8, seed=seed).batches(8))
        pair.append(_attacker.noisy(given, probe, torch.Generator().manual_seed(seed)))
    learn = _attacker.learner(attacker, 0.0, 40, torch.device("cpu"))
    step = problems.context().stepper(model, Rule(lr=0.05), 40)
    with _attacker.tapped(model, model[-1]) as forward:
        show = partial(_attacker.observe, model, forward, probe)
        for _ in range(40):
            step(forget=adversarial.duel(show, *pair, attacker, learn, change(decorrelation_weight=0.0)))
    losses = [record["loss"]["forget"] for record in step.history()]
    assert losses[-1] < 0.9 * losses[0]


def test_the_forget_loss_is_in_float32_whatever_the_precision() -> None:
    first, second = (problems.run(SMALL, precision=p)[1].history()[0]["loss"] for p in ("float32", "bfloat16"))
    assert first["forget"] == second["forget"]
    assert first["retain"] != second["retain"]


def test_per_role_the_forget_step_comes_first() -> None:
    nothing = Rule(lr=0.0)
    rules = (PerRole(forget=nothing, retain=nothing), PerRole(forget=Rule(lr=0.1), retain=nothing))
    first, other = (problems.run(change(epochs=1, rule=rule))[1].history()[0]["loss"] for rule in rules)
    assert first["forget"] == other["forget"]
    assert first["retain"] != other["retain"]


def test_an_attacker_that_diverges_says_so() -> None:
    with pytest.raises(RunError, match="the attacker loss became nan at step"):
        problems.run(change(attacker_lr=1e38, pretrain_steps=4))
