"""SFRon and SCRUB: their schedules, weights, rewinding, cost and ranges."""

import copy
import dataclasses
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.methods import scrub, sfron
from expunge.training import batches as mixed
from expunge.training.context import Context
from expunge.training.rules import PerRole, Rule
from expunge.unlearning import presets
from tests import problems

FORGET, RETAIN = 10, 30


def roles(context: Context) -> list[str]:
    return ["+".join(record["loss"]) for record in context.history()]


def sizes(model: nn.Module) -> list[int]:
    """The batch sizes of all calls of this model, but not of its copies, from now on."""
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if module is model and module.training:
            seen.append(len(inputs[0]))

    model.register_forward_hook(note)
    return seen


# ---- SFRon: weights


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.6, 1.0, 2.0, 40.0])
def test_adaptive_weights_sum_to_one_and_follow_the_formula(exponent: float) -> None:
    losses = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 3 + 1e-3
    powers = losses.double() ** -exponent
    weights = sfron.adaptive_weights(losses, exponent)
    assert float(weights.double().sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(weights.double(), powers / powers.sum(), rtol=2e-5, atol=1e-12)


def test_adaptive_weights_of_a_case_worked_by_hand() -> None:
    # 1/sqrt(l) is 1, 2, 4: a seventh, two and four.
    assert sfron.adaptive_weights(torch.tensor([1, 1 / 4, 1 / 16]), 0.5).tolist() == pytest.approx(
        [1 / 7, 2 / 7, 4 / 7]
    )
    assert sfron.adaptive_weights(torch.tensor([0.2, 0.0, 3.0]), 0.0).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 3.0])
def test_a_loss_of_zero_counts_as_the_smallest_positive_one(exponent: float) -> None:
    losses = torch.tensor([0.5, 0.0, 0.1, 2.0])
    expected = sfron.adaptive_weights(torch.tensor([0.5, 0.1, 0.1, 2.0]), exponent)
    assert sfron.adaptive_weights(losses, exponent).tolist() == expected.tolist()
    assert sfron.adaptive_weights(torch.zeros(4), exponent).tolist() == [0.25] * 4
    assert sfron.adaptive_weights(torch.zeros(1), exponent).tolist() == [1.0]


def test_tiny_losses_overflow_nothing() -> None:
    weights = sfron.adaptive_weights(torch.tensor([1e-38, 1e-7, 1.0]), 5.0)
    assert weights.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_a_loss_of_zero_does_not_kill_the_batch(exponent: float) -> None:
    # Examples of loss about 1, and one so sure that its loss is 0 in float32.
    usual = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 5
    sure = 100.0 * functional.one_hot(labels[7:], 5)

    def gradient(logits: Tensor, count: int) -> Tensor:
        logits = logits.requires_grad_()
        loss = sfron.adaptive_loss(logits, labels[:count], exponent)
        assert math.isfinite(float(loss.detach()))
        return torch.autograd.grad(loss, logits)[0]

    alone = gradient(usual.clone(), 7)
    together = gradient(torch.cat([usual, sure]), 8)
    assert float(functional.cross_entropy(sure, labels[7:])) == 0
    assert bool(torch.isfinite(together).all())
    assert float(together[:7].norm()) > 0.5 * float(alone.norm())
    # The others keep their proportions.
    torch.testing.assert_close(together[:7] / together[:7].norm(), alone / alone.norm())


def test_a_batch_of_zero_losses_has_no_gradient_and_no_nan() -> None:
    labels = torch.arange(4)
    logits = (100.0 * functional.one_hot(labels, 4)).requires_grad_()
    loss = sfron.adaptive_loss(logits, labels, 0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0
    assert float(gradient.abs().max()) < 1e-6


def test_the_weights_are_constants_for_the_gradient() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float32).requires_grad_()
    labels = torch.arange(6) % 3
    probabilities = torch.softmax(logits.detach(), dim=1)
    losses = -probabilities[torch.arange(6), labels].log()
    weights = losses**-0.5 / (losses**-0.5).sum()
    (gradient,) = torch.autograd.grad(sfron.adaptive_loss(logits, labels, 0.5), logits)
    torch.testing.assert_close(gradient, weights[:, None] * (probabilities - functional.one_hot(labels, 3)))


def test_without_an_exponent_it_is_the_mean() -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
    torch.testing.assert_close(sfron.adaptive_loss(logits, labels, 0.0), functional.cross_entropy(logits, labels))


# ---- SFRon: the loop


@pytest.mark.parametrize(
    ("rule", "epochs", "size", "every"),
    [(None, 3, 7, 5), (None, 2, 8, 3), (Rule(lr=1e-3), 3, 7, 5), (None, 2, 30, 1), (None, 1, 10, 9), (None, 0, 7, 5)],
)
def test_the_history_counts_both_kinds_of_step(rule: Rule | None, epochs: int, size: int, every: int) -> None:
    config = sfron.SfronConfig(epochs=epochs, batch_size=size, forget_every=every, rule=rule or sfron.RULES)
    total = epochs * problems.data().retain.steps(size)
    expected = [role for t in range(total) for role in (["forget"] if t % every == 0 else []) + ["retain"]]
    assert roles(problems.run(config)[1]) == expected
    assert Counter(expected) == Counter({"forget": math.ceil(total / every), "retain": total})


def test_an_epoch_costs_one_forward_per_step() -> None:
    model = problems.model()
    seen = sizes(model)
    config = sfron.SfronConfig(epochs=4, batch_size=10, forget_batch_size=4, forget_every=5)
    problems.run(config, model)
    # T = 12; forget steps at 0, 5 and 10, of 4, 4 and the last 2 examples.
    assert seen == [4, *[10] * 5, 4, *[10] * 5, 2, *[10] * 2]


def test_forget_batches_are_as_large_as_retain_batches_by_default() -> None:
    model = problems.model()
    seen = sizes(model)
    problems.run(sfron.SfronConfig(epochs=1, batch_size=5, forget_every=6), model)
    assert seen == [5] * 7


def test_batches_are_shuffled_anew_at_each_boundary() -> None:
    images = problems.data().forget
    batches = mixed.cycle(images, 4, torch.Generator().manual_seed(0))
    passes = [torch.cat([next(batches).ids for _ in range(images.steps(4))]) for _ in range(3)]
    assert all(sorted(ids.tolist()) == sorted(images.ids.tolist()) for ids in passes)
    assert len({tuple(ids.tolist()) for ids in passes}) == 3


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_against_a_plain_loop(shared: bool) -> None:
    # Whole sets as batches and no dropout: the order of examples does not matter.
    epochs, every, alpha, exponent, lr, clip = 6, 4, 25.0, 0.7, 0.02, 1.5
    clipped, plain = Rule(lr=lr, schedule="cosine", clip=clip), Rule(lr=lr, schedule="cosine")
    rule = clipped if shared else PerRole(forget=clipped, retain=plain)
    config = sfron.SfronConfig(
        epochs=epochs, forget_every=every, alpha=alpha, exponent=exponent, batch_size=64, rule=rule
    )
    models = [problems.model() for _ in range(2)]
    for model in models:
        model[4].p = 0.0
    data = problems.data()
    got, context = problems.run(config, models[0], data)

    model = models[1].train()
    make = lambda: torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)  # noqa: E731
    forgetter = make()
    retainer = forgetter if shared else make()
    calls, taken, norms, losses = epochs + 2, 0, [], []

    def take(optimizer: torch.optim.Optimizer, loss: Tensor, limit: float) -> None:
        nonlocal taken
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), limit)))
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * taken / calls))
        optimizer.step()
        losses.append(float(loss.detach()))
        taken += 1

    forget, retain = next(data.forget.batches(64)), next(data.retain.batches(64))
    for t in range(epochs):
        if t % every == 0:
            each = functional.cross_entropy(model(forget.inputs), forget.labels, reduction="none")
            weights = each.detach() ** -exponent / (each.detach() ** -exponent).sum()
            decay = 0.5 * (1 + math.cos(math.pi * t / epochs))
            take(forgetter, -alpha * decay * (weights * each).sum(), clip)
            assert norms[-1] > clip  # the limit matters
        take(retainer, functional.cross_entropy(model(retain.inputs), retain.labels), clip if shared else math.inf)
    assert [next(iter(record["loss"].values())) for record in context.history()] == pytest.approx(losses, rel=1e-3)
    for ours, theirs in zip(got.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_rates_by_default_are_those_of_the_share_of_the_run() -> None:
    _, context = problems.run(sfron.SfronConfig(epochs=10, batch_size=6, forget_every=5))
    total, t = 50, 0
    for record in context.history():
        (role, rate), *_ = record["lr"].items()
        wanted = 0.03 * 0.5 * (1 + math.cos(math.pi * t / total))
        # Exact in forget steps; in between a retain step is at most one call ahead.
        assert rate == pytest.approx(wanted, abs=1e-12 if role == "forget" else 0.03 * math.pi / 2 / (total + 10))
        t += role == "retain"


def test_only_forget_steps_are_clipped_by_default() -> None:
    rule = sfron.SfronConfig().rule
    assert (rule.forget.clip, rule.retain.clip) == (7.0, None)
    assert dataclasses.replace(rule.forget, clip=None) == rule.retain


def test_it_forgets_what_it_is_told_and_keeps_the_rest() -> None:
    data = problems.data(retain=60)
    one_class = dataclasses.replace(
        data, forget=data.forget.select(data.forget.labels == 0), retain=data.retain.select(data.retain.labels != 0)
    )
    trained = problems.unlearned("finetune:epochs=5,batch_size=16,lr=0.05", on=problems.data(retain=60))
    config = sfron.SfronConfig(epochs=10, batch_size=10, forget_every=1)
    unlearned = problems.unlearned(config, copy.deepcopy(trained), one_class)
    context = problems.context()
    assert scrub.error(trained, one_class.forget, context) == 0
    assert scrub.error(unlearned, one_class.forget, context) > Fraction(1, 2)
    assert scrub.error(unlearned, one_class.retain, context) < Fraction(1, 5)


def test_the_preset_is_the_published_schedule() -> None:
    method = presets.named("sfron").method
    assert (method.steps, method.forget_every, method.alpha, method.batch_size) == (1500, 5, 25.0, 128)
    assert (method.rule.forget.clip, method.rule.forget.lr, method.rule.retain.lr) == (7.0, 0.01, 0.01)


def test_sfron_is_found_by_its_other_name_and_takes_options() -> None:
    method = presets.named("SFRon:alpha=1,forget.optimizer=adamw,forget.lr=1e-4").method
    assert (method.alpha, method.rule.forget.optimizer, method.rule.forget.lr, method.rule.retain.lr) == (
        1,
        "adamw",
        1e-4,
        0.03,
    )


# ---- SCRUB: the schedule


def test_maximising_comes_first_and_only_in_the_first_epochs() -> None:
    model = problems.model()
    seen = sizes(model)
    config = scrub.ScrubConfig(epochs=3, maximise_epochs=2, batch_size=15, forget_batch_size=4)
    _, context = problems.run(config, model)
    first, last = ["forget"] * 3 + ["retain"] * 2, ["retain"] * 2
    assert roles(context) == first + first + last
    assert seen == 2 * [4, 4, 2, 15, 15] + [15, 15]


@pytest.mark.parametrize(("epochs", "maximised", "steps"), [(4, 1, 3 + 4 * 2), (3, 5, 3 * 3 + 3 * 2), (2, 0, 2 * 2)])
def test_the_schedule_of_scrub_runs_over_the_steps_that_are_taken(epochs: int, maximised: int, steps: int) -> None:
    rule = Rule(lr=0.5, schedule="linear")
    config = scrub.ScrubConfig(epochs, maximise_epochs=maximised, batch_size=15, forget_batch_size=4, rule=rule)
    _, context = problems.run(config)
    rates = [rate for record in context.history() for rate in record["lr"].values()]
    assert rates == pytest.approx([0.5 * (1 - taken / steps) for taken in range(steps)])


def test_forget_batches_of_scrub_are_as_large_as_retain_batches_on_request() -> None:
    model = problems.model()
    seen = sizes(model)
    problems.run(scrub.ScrubConfig(epochs=1, maximise_epochs=1, batch_size=5, forget_batch_size=None), model)
    assert seen == [5] * 8


@pytest.mark.parametrize("rewind", [False, True])
def test_a_step_of_scrub_costs_one_forward_of_student_and_teacher_each(rewind: bool) -> None:
    model = problems.model()
    calls: Counter[str] = Counter()

    def note(module: nn.Module, _: object, logits: Tensor) -> None:
        if module is not model:
            calls["teacher"] += 1
            assert not logits.requires_grad
            assert not module.training
        else:
            calls["student" if module.training else "errors"] += 1

    model.register_forward_hook(note)
    config = scrub.ScrubConfig(epochs=3, maximise_epochs=2, batch_size=7, rewind=rewind)
    _, context = problems.run(config, model)
    assert calls["student"] == calls["teacher"] == len(context.history())
    # Rewinding looks once at the forget set per checkpoint and once at the validation set; the outputs before and after
    # are compared for every method.
    assert calls["errors"] == 2 + (4 + 1 if rewind else 0)


def test_the_teacher_is_the_original_and_never_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = problems.spied_teachers(monkeypatch)
    problems.run(scrub.ScrubConfig(epochs=2, batch_size=7))
    (teacher,) = teachers
    assert problems.same(teacher, problems.model())


# ---- SCRUB: rewinding

PLAIN = scrub.ScrubConfig(epochs=4, maximise_epochs=2, batch_size=7, forget_batch_size=5, rule=Rule(lr=0.05))
REWOUND = dataclasses.replace(PLAIN, rewind=True)


def after(epochs: int, seed: int = 0) -> nn.Module:
    """The student after so many epochs: with a constant rate, the plain method stopped early."""
    return problems.unlearned(dataclasses.replace(PLAIN, epochs=epochs), seed=seed)


def wrong(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model.eval()(inputs / 255).argmax(dim=1) != labels).double().mean())


@pytest.mark.parametrize("index", range(5))
def test_rewinds_to_the_checkpoint_of_a_given_sequence_of_errors(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Errors on the forget set 0, 1/8, 2/8, 3/8, 4/8 after 0..4 epochs, then the error on unseen examples.
    errors = iter([Fraction(j, 8) for j in range(5)] + [Fraction(index, 8) + Fraction(1, 100)])
    monkeypatch.setattr(scrub, "error", lambda *_: next(errors))
    rewound, context = problems.run(REWOUND)
    # Bit for bit, with the statistics of batch normalisation; so the random stream was the same.
    assert problems.same(rewound, after(index))
    assert int(rewound.state_dict()["1.num_batches_tracked"]) == min(index, 2) * 2 + index * 5
    assert roles(context) == roles(problems.run(PLAIN)[1])
    assert not problems.same(rewound, after((index + 1) % 5))


@pytest.mark.parametrize("seed", range(6))
def test_rewinds_to_the_epoch_that_brute_force_finds(seed: int) -> None:
    data = problems.data()
    students = [after(epochs, seed) for epochs in range(5)]
    wanted = wrong(students[-1], data.validation.inputs, data.validation.labels)
    gaps = [abs(wrong(student, data.forget.inputs, data.forget.labels) - wanted) for student in students]
    chosen = max(j for j in range(5) if gaps[j] <= min(gaps) + 1e-9)
    assert problems.same(problems.unlearned(REWOUND, seed=seed), students[chosen])


def test_the_checkpoint_nearest_to_the_error_wanted_wins_and_the_later_of_two() -> None:
    thirds = [Fraction(0), Fraction(1, 3), Fraction(2, 3), Fraction(1)]
    assert scrub.nearest(thirds, Fraction(3, 10)) == 1
    assert scrub.nearest(thirds, Fraction(1, 2)) == 2
    assert scrub.nearest(thirds, Fraction(0)) == 0
    assert scrub.nearest([Fraction(1, 4)] * 3, Fraction(1)) == 2
    # In floating point 0.3 - 0.2 is below 0.2 - 0.1.
    assert scrub.nearest([Fraction(3, 10), Fraction(1, 10)], Fraction(1, 5)) == 1
    assert scrub.nearest([Fraction(1, 10), Fraction(3, 10)], Fraction(1, 5)) == 1


def test_the_error_is_the_share_of_wrong_answers_in_evaluation_mode() -> None:
    model = problems.model().train()
    data = problems.data()
    before = problems.state(model)
    share = scrub.error(model, data.retain, problems.context())
    assert model.training
    assert problems.same(model, before)
    assert float(share) == pytest.approx(wrong(model, data.retain.inputs, data.retain.labels))


def test_unseen_examples_are_those_of_the_forgotten_classes() -> None:
    data = problems.data()
    everything = scrub.of_forgotten_classes(data)
    assert everything.ids.tolist() == data.validation.ids.tolist()
    of_two = dataclasses.replace(data, forget=data.forget.select(data.forget.labels == 2))
    assert set(scrub.of_forgotten_classes(of_two).labels.tolist()) == {2}
    assert len(scrub.of_forgotten_classes(of_two)) == int((data.validation.labels == 2).sum())


def test_rewinding_needs_unseen_examples_of_the_forgotten_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problems.data()
    others = data.validation.select(data.validation.labels != 2)
    of_two = dataclasses.replace(data, forget=data.forget.select(data.forget.labels == 2), validation=others)
    # Said before the work: not even the teacher is made.
    monkeypatch.setattr(scrub.weights, "frozen_copy", lambda _: pytest.fail("the work has begun"))
    for bad in (of_two, dataclasses.replace(data, validation=None)):
        model = problems.model()
        with pytest.raises(RequestError, match=r"rewind compares with unseen examples.* or leave rewind off"):
            problems.run(REWOUND, model, bad)
        assert problems.same(model, problems.model())


def test_without_rewinding_no_validation_set_is_needed() -> None:
    data = problems.data()
    without = dataclasses.replace(data, validation=None)
    assert problems.same(problems.unlearned(PLAIN, on=without), problems.unlearned(PLAIN, on=data))


def test_only_rewinding_counts_as_seeing_validation_images() -> None:
    """Its decorator says so, as the contract of methods checks of the defaults."""
    mark = registry.of_config("methods", PLAIN).mark
    assert (mark.validation(PLAIN), mark.validation(REWOUND)) == (False, True)


def test_rewinding_after_no_epochs_gives_the_original() -> None:
    assert problems.same(problems.unlearned(dataclasses.replace(REWOUND, epochs=0)), problems.model())


def test_the_result_states_the_steps_and_the_epoch_that_was_rewound_to() -> None:
    _, context = problems.run(sfron.SfronConfig(epochs=2, batch_size=7, forget_every=3))
    assert context.steps() == {"forget": 4, "retain": 10}
    note = problems.run(scrub.ScrubConfig(epochs=2, batch_size=7, rewind=True))[1].notes["rewind"]
    assert len(note["forget_errors"]) == 3
    distances = [abs(found - note["wanted"]) for found in note["forget_errors"]]
    assert distances[note["epoch"]] == min(distances)
