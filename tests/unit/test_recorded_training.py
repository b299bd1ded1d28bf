"""Trainings that are recorded: plain SGD on a plan of batches, and unlearning from them for each architecture."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from expunge.api.recorded import Recorded, train_recorded
from expunge.core import weights as model_weights
from expunge.core.errors import RequestError, RunError
from expunge.data.augment import Augmentation
from expunge.data.image_set import ImageSet, make
from expunge.data.normalisation import with_normalisation
from expunge.data.unlearning_data import UnlearningData
from expunge.methods.hessian_free import HessianFreeConfig
from expunge.methods.retrain import RetrainConfig
from expunge.scores import ScoreData
from expunge.scores.trajectory_influence import TrajectoryInfluenceConfig as Wanted
from expunge.scores.trajectory_influence import score_examples
from expunge.training.fit import Training, fit
from expunge.training.rules import PerRole, Rule
from expunge.trajectory.flat_loss import flat_loss
from expunge.trajectory.plan import Trajectory, draw, fingerprint, mark, read
from expunge.trajectory.record import recorded
from expunge.trajectory.steps import record
from expunge.trajectory.tangents import Additive, carry
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning, unlearn
from tests import problems

MODELS = ["logistic", "logistic:bias=false", "mlp:hidden=(6,)", "cnn:dropout=0.5", "lenet", "small_cnn:width=2"]


def pictures(count: int = 12, side: int = 16) -> ImageSet:
    """Images of three classes, in which a corner is bright, in no order of their ids."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 120, (count, 1, side, side), dtype=torch.uint8, generator=draws)
    labels = torch.arange(count) % 3
    for place, label in enumerate(labels):
        pixels[place, :, 5 * int(label) : 5 * int(label) + 5, :5] += 120
    return make(pixels, labels, first_id=40).select(torch.randperm(count, generator=draws))


def network(text: str, shape: tuple[int, ...] = (1, 16, 16)) -> nn.Module:
    return with_normalisation(problems.architecture(text, shape, 3, seed=1), (0.3,), (0.25,))


def plan(**changes: object) -> Training:
    rule = Rule(lr=0.05, momentum=0.0, weight_decay=0.01, schedule="exponential")
    given = {key: changes.pop(key) for key in [*changes] if key in {field.name for field in dataclasses.fields(Rule)}}
    return Training(2, 5, dataclasses.replace(rule, **given), record=True, **changes)


def trained(
    model: nn.Module, images: ImageSet, wanted: Training, seed: int = 0, **more: object
) -> tuple[nn.Module, Trajectory]:
    """A copy that was trained, and the trajectory."""
    found = copy.deepcopy(model)
    return found, recorded(found, images, wanted, problems.context(seed, **more))


def by_torch(model: nn.Module, images: ImageSet, trajectory: Trajectory) -> nn.Module:
    """The same batches by ``torch.optim.SGD``, its weight decay and its clipping."""
    followed, wanted = copy.deepcopy(model).eval(), trajectory.plan
    ordered = images.select(images.ids.argsort())
    optimizer = torch.optim.SGD(
        followed.parameters(), lr=1.0, momentum=wanted.momentum, weight_decay=0 if wanted.clip else wanted.l2
    )
    for number in range(wanted.steps):
        batch = wanted.batch(number)
        optimizer.param_groups[0]["lr"] = float(wanted.rates[number])
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(followed(ordered.inputs[batch] / 255), ordered.labels[batch])
        if wanted.clip:  # the L2 term is in the loss, and so in what is clipped
            loss = loss + wanted.l2 / 2 * squared_norm(followed)
        loss.backward()
        if wanted.clip:
            nn.utils.clip_grad_norm_(followed.parameters(), wanted.clip)
        optimizer.step()
    return followed


def squared_norm(model: nn.Module) -> Tensor:
    return torch.stack([weight.square().sum() for weight in model.parameters()]).sum()


@pytest.mark.parametrize("text", MODELS)
@pytest.mark.parametrize(("momentum", "clip"), [(0.0, None), (0.9, None), (0.0, 0.3), (0.9, 0.3)])
def test_it_is_what_torch_does(text: str, momentum: float, clip: float | None) -> None:
    model, images = network(text), pictures()
    found, trajectory = trained(model, images, plan(momentum=momentum, clip=clip))
    problems.assert_close(found, by_torch(model, images, trajectory), rtol=2e-4, atol=2e-5)
    assert not problems.same(found, model)
    assert trajectory.plan.steps == 6
    assert (trajectory.clipped > 0) == (clip is not None)


def test_weight_decay_is_in_what_is_clipped_unlike_in_other_trainings() -> None:
    model, images = network("logistic"), pictures(5)
    wanted = plan(clip=0.1, weight_decay=1.0)
    other = copy.deepcopy(model)
    fit(other, images, wanted.rule, problems.context(), Training(1, 5))
    found, trajectory = trained(model, images, dataclasses.replace(wanted, epochs=1))
    problems.assert_close(found, by_torch(model, images, trajectory), rtol=1e-5, atol=1e-7)
    assert float((problems.vector(found) - problems.vector(other)).norm()) > 1e-3


@pytest.mark.parametrize("text", MODELS)
def test_the_same_seed_gives_the_same_bytes(text: str) -> None:
    images = pictures()
    first, one = trained(network(text), images, plan(clip=1.0))
    second, other = trained(network(text), images, plan(clip=1.0))
    third, _ = trained(network(text), images, plan(clip=1.0), seed=1)
    assert problems.same(first, second)
    assert one.digest() == other.digest()
    assert not problems.same(first, third)


def test_the_order_of_the_images_does_not_matter() -> None:
    images = pictures()
    first, one = trained(network("cnn"), images, plan())
    second, other = trained(network("cnn"), images.select(torch.arange(12).flip(0)), plan())
    assert problems.same(first, second)
    assert one.digest() == other.digest()


@pytest.mark.parametrize("fixed", [True, False])
def test_batches_are_passes_over_all_examples_with_a_short_one_at_the_end(fixed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([8, 3, 11, 5, 9, 20, 1])
    rule = Rule(lr=0.1, momentum=0.5, weight_decay=0.2, clip=3.0, schedule="exponential", decay=0.5)
    found = draw(ids, rule, epochs=3, batch_size=3, fixed_order=fixed, generator=generator)
    assert found.ids.tolist() == [1, 3, 5, 8, 9, 11, 20]
    assert [len(found.batch(step)) for step in range(found.steps)] == [3, 3, 1] * 3
    orders = [torch.cat([found.batch(step) for step in range(first, first + 3)]) for first in (0, 3, 6)]
    assert all(torch.equal(order.sort().values, torch.arange(7)) for order in orders)
    assert torch.equal(orders[0], orders[1]) == torch.equal(orders[1], orders[2]) == fixed
    assert not torch.equal(orders[0], torch.arange(7))
    torch.testing.assert_close(found.rates, 0.1 * 0.5 ** torch.arange(9, dtype=torch.float64))
    assert (found.l2, found.clip, found.momentum) == (0.2, 3.0, 0.5)
    generator.manual_seed(0)
    cut = draw(ids, rule, epochs=9, steps=7, batch_size=3, fixed_order=fixed, generator=generator)
    assert torch.equal(cut.batches, found.batches[:7])
    torch.testing.assert_close(cut.rates, found.rates[:7])
    whole = draw(ids, rule, epochs=1, batch_size=50, fixed_order=fixed, generator=generator)
    assert whole.batches.shape == (1, 7)


def test_positions_are_found_by_id() -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.tensor([8, 3, 20])
    found = draw(known, Rule(), epochs=1, batch_size=3, fixed_order=False, generator=generator)
    assert found.positions(torch.tensor([20, 3])).tolist() == [2, 0]
    assert found.positions(torch.tensor([], dtype=torch.int64)).tolist() == []
    for ids, message in (
        ([3, 3], "twice"),
        ([3, 4], "1 of 2 ids were not trained on, 4 among"),
        ([21], "21"),
        ([-1], "-1"),
    ):
        with pytest.raises(RequestError, match=message):
            found.positions(torch.tensor(ids))


@pytest.mark.parametrize(("epochs", "count"), [(0, 3), (1, 0)])
def test_a_training_of_nothing_is_refused(epochs: int, count: int) -> None:
    with pytest.raises(RequestError, match="at least one example, and one epoch or step"):
        draw(torch.arange(count), Rule(), epochs=epochs, batch_size=3, fixed_order=False, generator=torch.Generator())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": Rule(optimizer="adamw")}, "set optimizer=sgd"),
        ({"rule": Rule(optimizer="lion")}, "set optimizer=sgd"),
        ({"rule": Rule(nesterov=True)}, "set nesterov=false"),
        ({"rule": Rule(rho=0.1)}, "set rho=0"),
        ({"rule": Rule(optimizer="adamw", rho=0.1)}, "set optimizer=sgd, rho=0"),
        ({"rule": PerRole(Rule(), Rule())}, "one rule, not one for each role"),
        ({"stop_after": 1}, "leave out stop_after"),
        ({"record": False, "fixed_order": True}, "add record"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_the_cure(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Training(**({"record": True} | changes))


def test_it_is_in_evaluation_mode_on_the_test_transform() -> None:
    """Statistics of batch normalisation stay, dropout and augmentation do nothing, and modes come back."""
    images = pictures()
    model = network("small_cnn:width=2").train()
    model[1][0].eval()
    modes = [module.training for module in model.modules()]
    found, _ = trained(model, images, plan())
    assert [module.training for module in found.modules()] == modes
    assert all(torch.equal(value, dict(model.named_buffers())[name]) for name, value in found.named_buffers())
    augmented = dataclasses.replace(images, augmentation=Augmentation())
    assert problems.same(found, trained(model, augmented, plan())[0])
    dropping, plain = (trained(network(text), images, plan())[0] for text in ("cnn:dropout=0.9", "cnn"))
    assert problems.same(dropping, plain)


def test_frozen_weights_stay() -> None:
    model = network("mlp:hidden=(6,)")
    frozen = next(iter(model_weights.trainable(model)))
    model.get_parameter(frozen).requires_grad_(False)
    found, trajectory = trained(model, pictures(), plan())
    assert torch.equal(found.get_parameter(frozen), model.get_parameter(frozen))
    assert set(trajectory.initial) == set(model_weights.trainable(model))


def test_the_trajectory_is_what_was_there_before() -> None:
    model, images, seen = network("cnn"), pictures(), list[tuple[int, int]]()
    _, trajectory = trained(
        model, images, plan(), on_step=lambda progress: seen.append((progress.step, progress.steps))
    )
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in trajectory.initial.items())
    assert trajectory.images == fingerprint(images)
    assert trajectory.end == mark(problems.vector(trained(model, images, plan())[0]))
    assert seen == [(step, 6) for step in range(1, 7)]
    again = read(trajectory.tensors())
    assert again.digest() == trajectory.digest()
    assert dataclasses.replace(again.plan, ids=None, batches=None, rates=None) == dataclasses.replace(
        trajectory.plan,
        ids=None,
        batches=None,
        rates=None,
    )


def test_a_trajectory_without_the_mark_of_its_model_is_to_be_recorded_again() -> None:
    whole = trained(network("logistic"), pictures(), plan())[1].tensors()
    header = json.loads(bytes(whole["header"].tolist()))
    del header["end"]
    older = torch.frombuffer(bytearray(json.dumps(header).encode()), dtype=torch.uint8)
    with pytest.raises(RequestError, match="train again with --record"):
        read(whole | {"header": older})


def test_damaged_tensors_are_no_trajectory() -> None:
    whole = trained(network("logistic"), pictures(), plan())[1].tensors()
    for name in whole:
        if not name.startswith("initial."):
            with pytest.raises(RequestError, match=r"not a recorded trajectory.*train again with --record"):
                read({key: value for key, value in whole.items() if key != name})
    broken: dict[str, Tensor] = {
        "norms": whole["norms"][:-1],
        "plan.rates": whole["plan.rates"][:-1],
        "plan.ids": whole["plan.ids"][:3],
    }
    for name, value in broken.items():
        with pytest.raises(RequestError, match="parts do not fit together; train again"):
            read(whole | {name: value})
    with pytest.raises(RequestError, match="parts do not fit together"):
        read({key: value for key, value in whole.items() if not key.startswith("initial.")})
    with pytest.raises(RequestError, match="not a recorded trajectory"):
        read(whole | {"header": whole["header"][:-4]})


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_step() -> None:
    images = pictures()
    nan = dataclasses.replace(images, inputs=torch.full(images.inputs.shape, float("nan")))
    with pytest.raises(RunError, match="not finite at step 1 of 6: try a smaller lr, or set clip"):
        trained(network("logistic"), nan, plan())
    with pytest.raises(RunError, match=r"not finite at step [2-6] of 6"):
        trained(network("mlp:hidden=(6,)"), images, plan(lr=1e30))


# Unlearning of each architecture.


def split(images: ImageSet, *gone: int) -> UnlearningData:
    out = images.contains(torch.tensor(gone))
    return UnlearningData(images.select(out), images.select(~out), None, 3)


def unlearned(model: nn.Module, trajectory: Trajectory, data: UnlearningData, method: object) -> nn.Module:
    return problems.unlearned(method, copy.deepcopy(model), data, trajectory=trajectory)


@pytest.mark.parametrize("text", MODELS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_tangents_of_every_architecture_lead_to_the_retrained_model(text: str, momentum: float) -> None:
    """In steps so small that no unit and no maximum of a pool changes sides, where first order is all there is."""
    model, trajectory = trained(network(text), pictures(), plan(lr=0.001 * (1 - momentum), momentum=momentum))
    data = split(pictures(), 41, 47)
    wanted = problems.vector(unlearned(model, trajectory, data, RetrainConfig(recorded=True)))
    nothing = float((problems.vector(model) - wanted).norm())
    assert nothing > 0
    for method in (HessianFreeConfig(), HessianFreeConfig("additive")):
        found = unlearned(model, trajectory, data, method)
        assert float((problems.vector(found) - wanted).norm()) < 0.02 * nothing
        assert all(torch.equal(value, dict(model.named_buffers())[name]) for name, value in found.named_buffers())


@pytest.mark.parametrize("text", MODELS)
def test_retraining_along_the_recorded_batches_is_training_without_the_examples(text: str) -> None:
    images = pictures()
    model, trajectory = trained(network(text), images, plan(momentum=0.5))
    gone = (43, 44, 45)
    found = unlearned(model, trajectory, split(images, *gone), RetrainConfig(recorded=True))
    kept = ~torch.isin(trajectory.plan.ids, torch.tensor(gone))
    batches = trajectory.plan.batches
    less = torch.where((batches >= 0) & kept[batches.clamp(min=0)], batches, -1)
    without = dataclasses.replace(trajectory, plan=dataclasses.replace(trajectory.plan, batches=less))
    problems.assert_close(found, by_torch(network(text), images, without), rtol=2e-4, atol=2e-5)


def test_retraining_without_examples_of_no_batch_is_the_recorded_training_bit_for_bit() -> None:
    """Whatever the order of the images that are left."""
    images, model = pictures(), network("cnn")
    rule = plan(clip=0.5, momentum=0.5).rule
    generator = torch.Generator().manual_seed(4)
    drawn = draw(images.ids, rule, epochs=2, batch_size=5, fixed_order=False, generator=generator)
    drawn = dataclasses.replace(drawn, batches=drawn.batches.where(drawn.batches != 7, -1))  # example 47 is in none
    with flat_loss(model, images) as loss:
        trajectory, end = record(loss, drawn)
        expected = loss.in_order(end[None])[0]
    mixed = images.select(torch.randperm(12, generator=generator))
    found = unlearned(model, trajectory, split(mixed, 47), RetrainConfig(recorded=True))
    assert torch.equal(problems.vector(found).float(), expected)


def test_retraining_does_not_read_the_trained_weights_and_refuses_other_images() -> None:
    images = pictures()
    model, trajectory = trained(network("cnn"), images, plan())
    data = split(images, 41, 47)
    first = unlearned(model, trajectory, data, RetrainConfig(recorded=True))
    assert problems.same(first, unlearned(network("cnn"), trajectory, data, RetrainConfig(recorded=True)))
    black = dataclasses.replace(data.forget, inputs=torch.zeros_like(data.forget.inputs))
    with pytest.raises(RequestError, match="of other images"):
        unlearned(model, trajectory, dataclasses.replace(data, forget=black), RetrainConfig(recorded=True))


@pytest.mark.parametrize("variant", ["set_aware", "additive"])
def test_a_whole_batch_may_be_forgotten(variant: str) -> None:
    images = pictures()
    model, trajectory = trained(network("cnn"), images, plan(fixed_order=True, lr=0.01))
    gone = trajectory.plan.ids[trajectory.plan.batch(1)]
    data = split(images, *gone.tolist())
    wanted = problems.vector(unlearned(model, trajectory, data, RetrainConfig(recorded=True)))
    assert bool(torch.isfinite(wanted).all())
    found = problems.vector(unlearned(model, trajectory, data, HessianFreeConfig(variant)))
    assert float((found - wanted).norm()) < float((problems.vector(model) - wanted).norm())


def test_hessian_free_refuses_other_images_and_other_models() -> None:
    images = pictures()
    model, trajectory = trained(network("logistic"), images, plan())
    data, wanted = split(images, 41), HessianFreeConfig()
    brighter = dataclasses.replace(data.retain, inputs=data.retain.inputs // 2)
    fewer = data.retain.select(torch.arange(5))
    cases = [
        ("of other images", model, dataclasses.replace(data, retain=brighter)),
        ("together those it was recorded on", model, dataclasses.replace(data, retain=fewer)),
        ("does not lead to this model", network("logistic"), data),
    ]
    for message, given, seen in cases:
        with pytest.raises(RequestError, match=message):
            unlearned(given, trajectory, seen, wanted)
    with pytest.raises(RequestError, match="1 of 1 ids were not trained on"):
        unlearned(model, trajectory, dataclasses.replace(data, forget=problems.images(1, first_id=90)), wanted)


def test_methods_that_need_a_trajectory_say_so() -> None:
    data = split(pictures(), 41)
    for method in (HessianFreeConfig(), RetrainConfig(recorded=True)):
        with pytest.raises(RequestError, match="expunge train --record"):
            unlearn(network("logistic"), data, Unlearning(method), problems.context())


def test_vectors_are_for_the_additive_variant() -> None:
    with pytest.raises(RequestError, match="variant=additive"):
        HessianFreeConfig(vectors="somewhere")
    model, trajectory = trained(network("logistic"), pictures(), plan())
    with pytest.raises(RequestError, match="no runs to find vectors in"):
        unlearned(model, trajectory, split(pictures(), 41), HessianFreeConfig("additive", vectors="somewhere"))


def test_vectors_are_of_the_weights_themselves_not_of_adapters() -> None:
    model, trajectory = trained(network("logistic"), pictures(), plan())

    wanted = Unlearning(HessianFreeConfig("additive", vectors="somewhere"), adapters=LowRank(rank=1))
    with pytest.raises(RequestError, match="made from adapters"):
        unlearn(model, split(pictures(), 41), wanted, problems.context(), {"trajectory": trajectory})


def test_hessian_free_notes_what_it_walked_along() -> None:
    model, trajectory = trained(network("logistic"), pictures(), plan(clip=0.3))
    _, context = problems.run(HessianFreeConfig(), model, split(pictures(), 41), trajectory=trajectory)
    assert context.notes["trajectory"] == {"steps": 6, "clipped": 6}


@pytest.mark.parametrize("images", ["train", "validation", "test"])
def test_scores_are_in_the_order_of_the_training_images_and_about_the_images_asked_for(images: str) -> None:
    sets = {"train": pictures(), "validation": pictures(7), "test": pictures(9)}
    model, trajectory = trained(network("mlp:hidden=(6,)"), sets["train"], plan())
    with flat_loss(model, sets["train"]) as flat:
        seen = sets["train"].ids.argsort()
        each = Additive(flat, trajectory, torch.arange(12), whole=True)
        carry(flat, trajectory, [each])
        asked = sets[images]
        loss = nn.functional.cross_entropy(model(asked.inputs / 255), asked.labels)
        slope = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    found = score_examples(
        model.eval(), ScoreData(**sets, num_classes=3), Wanted(images=images), problems.context(), trajectory=trajectory
    )["loss"]
    torch.testing.assert_close(found[seen], each.vectors @ slope, rtol=1e-3, atol=1e-8)
    assert not torch.equal(seen, torch.arange(12))


def test_scores_refuse_other_images_and_other_models() -> None:
    images = pictures()
    model, trajectory = trained(network("logistic"), images, plan())
    darker = dataclasses.replace(images, inputs=images.inputs // 2)
    for given, train, message in (
        (model, darker, "of other images"),
        (network("logistic"), images, "does not lead to this model"),
    ):
        seen = ScoreData(train, images, images, 3)
        with pytest.raises(RequestError, match=message):
            score_examples(given.eval(), seen, Wanted(), problems.context(), trajectory=trajectory)


# The same from Python.


def mine(**more: object) -> Recorded:
    given = {"epochs": 2, "batch_size": 5, "lr": 0.05, "momentum": 0.0} | more
    return train_recorded(network("logistic"), pictures(), **given)


def test_vectors_of_other_trainings_are_never_written_over(tmp_path: Path) -> None:
    first, second = mine(), mine(seed=1)
    found = first.precompute(tmp_path)
    before = found.path.read_bytes()
    assert first.precompute(tmp_path, memory=1e-9) == found
    groups = torch.arange(12) // 2
    for other in (
        lambda: second.precompute(tmp_path),
        lambda: first.precompute(tmp_path, dtype="bfloat16"),
        lambda: first.precompute(tmp_path, groups=groups),
    ):
        with pytest.raises(RequestError, match="choose another folder, or delete it"):
            other()
    assert found.path.read_bytes() == before


def test_stored_vectors_are_only_for_the_recorded_model(tmp_path: Path) -> None:
    recorded = mine()
    found = recorded.precompute(tmp_path)
    extras = {"trajectory": recorded.trajectory, "vectors": found}
    wanted = Unlearning(HessianFreeConfig("additive", vectors="these"))
    with recorded.deletions(found) as online:
        expected = online.delete([41])
    problems.assert_close(
        unlearn(copy.deepcopy(recorded.model), split(pictures(), 41), wanted, problems.context(), extras),
        recorded.with_weights(expected),
    )
    with torch.no_grad():
        next(recorded.model.parameters())[0, 0] += 1e-3
    with pytest.raises(RequestError, match="not the one that was recorded"), recorded.deletions(found):
        pass
    with pytest.raises(RequestError, match="not the one that was recorded"):
        unlearn(recorded.model, split(pictures(), 41), wanted, problems.context(), extras)


def test_a_model_with_other_weights_is_a_copy_of_the_same_precision() -> None:
    recorded = train_recorded(network("mlp:hidden=(6,)").double(), pictures(), epochs=1, batch_size=5, lr=0.05)
    count = model_weights.count(recorded.model)
    given = torch.randn(count, generator=torch.Generator().manual_seed(0))
    found = recorded.with_weights(given)
    assert {weight.dtype for weight in found.parameters()} == {torch.float64}
    expected = given.clone()
    given.zero_()
    assert torch.equal(torch.cat([weight.flatten() for weight in found.parameters()]), expected.double())
    for wrong in (count - 1, count + 1):
        with pytest.raises(RequestError, match=rf"has {count} trainable weights.*\({wrong},\)"):
            recorded.with_weights(torch.zeros(wrong))


def test_a_rule_and_options_of_it_are_refused() -> None:
    with pytest.raises(RequestError, match=r"give the rule, or options of it \(lr, momentum\), not both"):
        mine(rule=Rule())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (dataclasses.replace(pictures(), labels=torch.full((12,), 3)), r"labels must be in 0\.\.2"),
        (dataclasses.replace(pictures(), labels=torch.full((12,), -1)), r"labels must be in 0\.\.2"),
        (pictures(side=15), "does not accept images of shape"),
        (pictures().select(torch.arange(0)), "at least one example"),
    ],
)
def test_images_must_fit_the_model(images: ImageSet, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        train_recorded(network("logistic"), images, epochs=1, batch_size=5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": [0] * 11}, "11 groups for 12 images"),
        ({"groups": [-1] * 12}, "all 12 groups are -1"),
        ({"groups": [0.5] * 12}, "groups must be a list of integers"),
        ({"memory": 0.0}, "memory must be"),
        ({"memory": float("nan")}, "memory must be"),
    ],
)
def test_what_cannot_be_precomputed_is_refused_before_anything_is_written(
    given: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        mine().precompute(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_groups_are_in_the_order_of_the_images(tmp_path: Path) -> None:
    recorded = mine()
    together = recorded.images.ids[[2, 9]]
    found = recorded.precompute(tmp_path, groups=[0 if place in (2, 9) else -1 for place in range(12)])
    assert found.layout.ids == tuple(together.sort().values.tolist())


@pytest.mark.parametrize("wrong", [[41.0], torch.tensor(41), torch.ones(12, dtype=torch.bool)])
def test_a_forget_set_is_named_by_integers(wrong: object) -> None:
    recorded = mine()
    assert recorded.partition([41, 47])[0].ids.sort().values.tolist() == [41, 47]
    with pytest.raises(RequestError, match="ids must be a list of integers"):
        recorded.partition(wrong)
