"""First-order methods against loops written by hand, closed forms, and what they must leave alone."""

import copy
import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from expunge.core import weights as model_weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask, largest
from expunge.data.image_set import Batch, ImageSet, make
from expunge.data.unlearning_data import UnlearningData
from expunge.methods import (
    bad_teacher,
    boundary_expanding,
    boundary_shrink,
    finetune,
    gradient_ascent,
    l1_sparse,
    random_label,
    retrain,
)
from expunge.methods.bad_teacher import BadTeacherConfig
from expunge.methods.boundary_expanding import BoundaryExpandingConfig
from expunge.methods.boundary_shrink import BoundaryShrinkConfig
from expunge.methods.finetune import FinetuneConfig
from expunge.methods.gradient_ascent import GradientAscentConfig
from expunge.methods.l1_sparse import AccuracyCollapseWarning, L1SparseConfig
from expunge.methods.neggrad_plus import NegGradPlusConfig
from expunge.methods.random_label import RandomLabelConfig
from expunge.methods.retrain import RetrainConfig
from expunge.training.context import Context
from expunge.training.rules import PerRole, Rule
from tests import problems

PLAIN = Rule(lr=0.1, momentum=0.0, weight_decay=0.0)


def in_order(**sizes: int) -> UnlearningData:
    data = problems.data(**sizes)
    sets = {"forget": problems.in_order(data.forget), "retain": problems.in_order(data.retain)}
    return dataclasses.replace(data, **sets)


def model(**more: object) -> nn.Module:
    """The shared problem without dropout, so that a loop by hand sees the same numbers."""
    made = problems.model(**more)
    made[4].p = 0.0
    return made


def trained() -> nn.Module:
    """A model that knows the classes."""
    config = FinetuneConfig(epochs=20, batch_size=30, rule=Rule(lr=0.1))
    return finetune.unlearn(model(), problems.data(retain=60), config, problems.context()).eval()


assert_same_state = partial(problems.assert_close, rtol=1e-5, atol=1e-6)


def descend(made: nn.Module, losses: list[Callable[[], Tensor]], lr: float = 0.1) -> nn.Module:
    """Plain gradient descent, one step per loss."""
    made.train()
    for loss in losses:
        gradients = torch.autograd.grad(loss(), list(made.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(made.parameters(), gradients, strict=True):
                weight.sub_(lr * gradient)
    return made


def l1_norm(made: nn.Module) -> Tensor:
    return torch.cat([weight.flatten() for weight in made.parameters()]).norm(p=1)


# l1-sparse


def test_the_l1_weight_falls_linearly_and_is_zero_in_the_last_epochs() -> None:
    config = L1SparseConfig(final_epochs=2, alpha=0.3)
    assert [config.alpha_of(e, 5) for e in range(5)] == pytest.approx([0.3, 0.2, 0.1, 0, 0])
    for final, expected in ((0, [0.3, 0.2, 0.1]), (3, [0, 0, 0]), (7, [0, 0, 0])):
        config = L1SparseConfig(final_epochs=final, alpha=0.3)
        assert [config.alpha_of(e, 3) for e in range(3)] == pytest.approx(expected)


def test_l1_sparse_by_hand() -> None:
    data = in_order(retain=14)
    config = L1SparseConfig(epochs=2, final_epochs=0, alpha=0.02, batch_size=7, rule=PLAIN)
    got = l1_sparse.unlearn(model(), data, config, problems.context())
    by_hand = model()
    steps = [(b, a) for a in (0.02, 0.01) for b in data.retain.batches(7)]
    wanted = descend(
        by_hand,
        [
            lambda b=b, a=a: functional.cross_entropy(by_hand(b.inputs), b.labels) + a * l1_norm(by_hand)
            for b, a in steps
        ],
    )
    assert_same_state(got, wanted)


@pytest.mark.parametrize("rule", [Rule(lr=0.05), Rule(lr=0.05, rho=0.1), PerRole(Rule(lr=1.0), Rule(lr=0.05))])
@pytest.mark.parametrize("changes", [{"alpha": 0.0}, {"alpha": 0.5, "final_epochs": 2}])
def test_without_a_penalty_l1_sparse_is_fine_tuning_bit_for_bit(
    rule: Rule | PerRole, changes: dict[str, float]
) -> None:
    same = {"epochs": 2, "batch_size": 7, "rule": rule}
    context, other = problems.context(), problems.context()
    with context.seeded():  # dropout draws too
        first = l1_sparse.unlearn(problems.model(), problems.data(), L1SparseConfig(**same, **changes), context)
    with other.seeded():
        second = finetune.unlearn(problems.model(), problems.data(), FinetuneConfig(**same), other)
    assert problems.same(first, second)


def test_l1_shrinks_weights() -> None:
    norms = []
    for alpha in (0.0, 0.02):
        config = L1SparseConfig(epochs=20, batch_size=30, alpha=alpha, rule=Rule(lr=0.05))
        norms.append(l1_norm(l1_sparse.unlearn(model(), problems.data(), config, problems.context())).item())
    assert norms[1] < 0.95 * norms[0]


def test_warns_with_the_cure_when_l1_ruins_the_model() -> None:
    data = problems.data(retain=60)
    ruinous = L1SparseConfig(epochs=8, batch_size=20, alpha=5.0, rule=Rule(lr=0.05))
    with pytest.warns(AccuracyCollapseWarning, match=r"fell from .* alpha = 5 is too large .* try a tenth"):
        l1_sparse.unlearn(trained(), data, ruinous, problems.context())


@pytest.mark.parametrize(
    ("start", "changes"),
    [
        (trained, {"alpha": 1e-4}),  # a good model that stays good
        (trained, {"alpha": 5.0, "epochs": 1, "final_epochs": 1}),  # no epoch with a penalty
        (trained, {"alpha": 5.0, "epochs": 0}),
        (model, {"alpha": 1e-4}),  # a model that was never good
    ],
)
def test_does_not_warn_without_reason(start: Callable[[], nn.Module], changes: dict[str, float]) -> None:
    config = L1SparseConfig(**({"epochs": 2, "batch_size": 20, "rule": Rule(lr=0.05)} | changes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        l1_sparse.unlearn(start(), problems.data(retain=60), config, problems.context())


# Boundary shrink


class Planes(nn.Module):
    """Logits of one pixel x: three lines whose largest one changes at x = 0.5 and x = 0.8."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.0, 10.0, 20.0]))
        self.offset = nn.Parameter(torch.tensor([0.0, -5.0, -13.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) * self.slope + self.offset


def pixels(*values: float, labels: list[int]) -> ImageSet:
    return make(torch.tensor(values).view(-1, 1, 1, 1), torch.tensor(labels))


def test_the_nearest_wrong_class_by_hand() -> None:
    forget = pixels(0.45, 0.1, 0.78, 0.97, labels=[0, 0, 1, 2])
    original = model_weights.frozen_copy(Planes())
    # 0.45 crosses into class 1, 0.78 into class 0 or 2 by its gradient; 0.1 and 0.97 stay.
    released = boundary_shrink.nearest_labels(original, forget, BoundaryShrinkConfig(as_released=True))
    assert released.tolist()[0] == 1
    assert released.tolist()[1] == 0
    assert released.tolist()[3] == 2
    ours = boundary_shrink.nearest_labels(original, forget, BoundaryShrinkConfig())
    assert ours.tolist()[0] == 1
    assert ours.tolist()[1] == 1  # at 0.2: -3 against -9
    assert ours.tolist()[3] == 1  # at 0.87: 3.7 against 0
    assert ours.tolist()[2] == released.tolist()[2] == 2


def test_the_step_is_clipped_and_rounded() -> None:
    seen: list[Tensor] = []

    class Spy(Planes):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.detach())
            return super().forward(inputs)

    forget = pixels(0.02, 0.45, 0.98, labels=[2, 0, 0])
    boundary_shrink.nearest_labels(model_weights.frozen_copy(Spy()), forget, BoundaryShrinkConfig(bound=0.1))
    expected = [round(255 * x) / 255 for x in (0.12, 0.55, 1.0)]
    # The first is pushed away from class 2, to smaller x: clipped at 0.
    assert seen[1].flatten().tolist() == pytest.approx([0.0, *expected[1:]], abs=1e-7)


@pytest.mark.parametrize("bound", [0.0, 0.1])
def test_an_image_without_a_gradient_keeps_its_place(bound: float) -> None:
    flat = Planes()
    with torch.no_grad():
        flat.slope.zero_()
        flat.offset.copy_(torch.tensor([3.0, 1.0, 2.0]))
    config = BoundaryShrinkConfig(bound=bound)
    labels = boundary_shrink.nearest_labels(model_weights.frozen_copy(flat), pixels(0.3, 0.7, labels=[0, 1]), config)
    assert labels.tolist() == [2, 0]


def test_the_labels_do_not_depend_on_the_batch_size() -> None:
    original, forget = model_weights.frozen_copy(trained()), problems.images(31)
    labels = [
        boundary_shrink.nearest_labels(original, forget, BoundaryShrinkConfig(batch_size=size)) for size in (1, 7, 64)
    ]
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[0], labels[2])
    assert not bool((labels[0] == forget.labels).any())


def test_boundary_shrink_by_hand() -> None:
    data = in_order(forget=14)
    config = BoundaryShrinkConfig(epochs=2, batch_size=7, rule=PLAIN)
    got = boundary_shrink.unlearn(model(), data, config, problems.context())
    by_hand = model()
    nearest = boundary_shrink.nearest_labels(model_weights.frozen_copy(by_hand), data.forget, config)
    batches = [(b, nearest[7 * i : 7 * i + 7]) for _ in range(2) for i, b in enumerate(data.forget.batches(7))]
    assert_same_state(
        got, descend(by_hand, [lambda b=b, y=y: functional.cross_entropy(by_hand(b.inputs), y) for b, y in batches])
    )


def test_boundary_shrink_wants_pixels_in_the_unit_interval() -> None:
    data = problems.data()
    forget = make(data.forget.inputs.float() / 100 - 1, data.forget.labels)
    with pytest.raises(RequestError, match=r"within \[0, 1\].* lie in \[-1, .*let the model normalise"):
        boundary_shrink.unlearn(
            model(), dataclasses.replace(data, forget=forget), BoundaryShrinkConfig(), problems.context()
        )


# Boundary expanding


def test_boundary_expanding_by_hand() -> None:
    data = in_order(forget=14)
    got = boundary_expanding.unlearn(
        start := model(), data, BoundaryExpandingConfig(epochs=2, batch_size=7, rule=PLAIN), problems.context(5)
    )
    assert got is start
    by_hand, context = model(), problems.context(5)
    with context.seeded():
        row = nn.Linear(64, 1)
    wider = nn.Linear(64, 4)
    with torch.no_grad():
        wider.weight.copy_(torch.cat([by_hand[5].weight, row.weight]))
        wider.bias.copy_(torch.cat([by_hand[5].bias, row.bias]))
    by_hand[5] = wider
    shadow = torch.full((7,), 3)
    batches = [b for _ in range(2) for b in data.forget.batches(7)]
    descend(by_hand, [lambda b=b: functional.cross_entropy(by_hand(b.inputs), shadow) for b in batches])
    for name, value in by_hand.state_dict().items():
        first = value[:3] if name.startswith("5.") else value
        torch.testing.assert_close(got.state_dict()[name], first, rtol=1e-5, atol=1e-6)


def test_boundary_expanding_gives_back_the_same_parameters() -> None:
    start = model()
    before = dict(start.named_parameters())
    layer = start[5]
    boundary_expanding.unlearn(
        start, problems.data(), BoundaryExpandingConfig(epochs=1, rule=PLAIN), problems.context()
    )
    after = dict(start.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert start[5] is layer
    assert layer.out_features == 3


def test_a_failed_run_leaves_no_shadow() -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    start = model()
    with pytest.raises(KeyboardInterrupt):
        boundary_expanding.unlearn(start, problems.data(), BoundaryExpandingConfig(), problems.context(on_step=stop))
    model_weights.check_same(start.state_dict(), model().state_dict(), "the model")


def test_boundary_expanding_takes_a_classifier_without_bias_and_frozen_layers() -> None:
    start = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3, bias=False))
    start[3].requires_grad_(False)
    before = start[3].weight.clone()
    boundary_expanding.unlearn(
        start, problems.data(), BoundaryExpandingConfig(epochs=1, rule=PLAIN), problems.context()
    )
    assert torch.equal(start[3].weight, before)
    assert not start[3].weight.requires_grad


def test_boundary_expanding_under_masks_of_each_role_and_sparsity() -> None:
    start = model()
    before = problems.weights(start)
    moving = largest({name: weight.abs() for name, weight in before.items()}, 0.5)
    masks = {"forget": moving, "retain": problems.full(start)}
    kept = Mask({"5.weight": before["5.weight"] > 0})
    got = boundary_expanding.unlearn(
        start,
        problems.data(),
        BoundaryExpandingConfig(epochs=2, rule=PerRole(PLAIN, PLAIN)),
        problems.context(update_masks=masks, sparsity=kept),
    )
    after = dict(got.named_parameters())
    assert bool((after["5.weight"][before["5.weight"] <= 0] == 0).all())
    frozen = ~moving["0.weight"]
    assert torch.equal(after["0.weight"][frozen], before["0.weight"][frozen])
    assert not torch.equal(after["0.weight"], before["0.weight"])


def test_a_shadow_row_moves_under_masks() -> None:
    """All old weights are still, and yet the loss falls: the shadow learns."""
    start = model()
    nothing = problems.full(start).inverted()
    context = problems.context(update_masks=nothing)
    config = BoundaryExpandingConfig(epochs=20, batch_size=10, rule=PLAIN)
    boundary_expanding.unlearn(start, problems.data(), config, context)
    losses = [record["loss"]["forget"] for record in context.history()]
    assert losses[-1] < 0.5 * losses[0]
    for name, weight in model().named_parameters():
        assert torch.equal(start.get_parameter(name), weight)


def test_boundary_expanding_says_what_it_needs() -> None:
    def run(made: nn.Module) -> None:
        boundary_expanding.unlearn(made, problems.data(), BoundaryExpandingConfig(), problems.context())

    inner = nn.Flatten(), nn.Linear(16, 3), nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 3, 1)
    for made in (nn.Sequential(nn.Conv2d(1, 3, 4)), nn.Sequential(*inner)):
        with pytest.raises(RequestError, match=r"boundary_expanding adds a class.*must be the output of an nn.Linear"):
            run(nn.Sequential(made, nn.Flatten()))
    adapted = model()
    parametrize.register_parametrization(adapted[5], "weight", nn.Identity())
    with pytest.raises(RequestError, match="do without adapters"):
        run(adapted)


# NegGrad+


def test_neggrad_plus_at_alpha_one_is_fine_tuning_bit_for_bit_whatever_is_forgotten() -> None:
    tuned = problems.unlearned(FinetuneConfig(epochs=2, batch_size=7, rule=Rule(lr=0.01)))
    for forget in (problems.data().forget, problems.images(10, seed=77)):
        data = dataclasses.replace(problems.data(), forget=forget)
        assert problems.same(
            problems.unlearned(NegGradPlusConfig(alpha=1.0, epochs=2, batch_size=7, rule=Rule(lr=0.01)), on=data), tuned
        )


# Random labels


def test_random_labels_are_wrong_unless_asked_otherwise() -> None:
    true = torch.arange(3).repeat(2000)
    generator = torch.Generator().manual_seed(0)
    drawn = random_label.draw_labels(true, 3, False, generator)
    shares = torch.bincount((drawn - true) % 3, minlength=3) / len(true)
    assert shares.tolist() == [0, pytest.approx(0.5, abs=0.03), pytest.approx(0.5, abs=0.03)]
    anything = random_label.draw_labels(true, 3, True, generator)
    assert float((anything == true).double().mean()) == pytest.approx(1 / 3, abs=0.03)


def test_alternating_without_a_threshold_is_the_default() -> None:
    given = RandomLabelConfig()
    assert (given.order, given.true_label, given.proximal) == ("alternate", False, 0.0)


def mixed_by_hand(made: nn.Module, data: UnlearningData, labels: Callable[[Tensor], Tensor], seed: int) -> nn.Module:
    """One step on a single batch of everything, by the mean over it."""
    inputs = torch.cat([data.forget.inputs, data.retain.inputs]) / 255
    y = torch.cat([labels(data.forget.labels), data.retain.labels])
    return descend(made, [lambda: functional.cross_entropy(made(inputs), y)])


def wrong(labels: Tensor, *_: object) -> Tensor:
    return (labels + 1) % 3


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_a_mixed_step_is_one_on_the_mean_over_the_batch(rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_label, "draw_labels", wrong)
    data = problems.data(forget=10, retain=30)
    rule = dataclasses.replace(PLAIN, rho=rho)
    context = problems.context()
    got = random_label.unlearn(
        model(), data, RandomLabelConfig(epochs=1, batch_size=40, order="mixed", rule=rule), context
    )
    if rho == 0:
        assert_same_state(got, mixed_by_hand(model(), data, wrong, 0))
    else:  # one objective under the stepper's own rule
        joint = make(
            torch.cat([data.forget.inputs, data.retain.inputs]),
            torch.cat([wrong(data.forget.labels), data.retain.labels]),
        )
        wanted = finetune.unlearn(
            model(),
            dataclasses.replace(data, retain=joint),
            FinetuneConfig(epochs=1, batch_size=40, rule=rule),
            problems.context(),
        )
        assert_same_state(got, wanted)
    (record,) = context.history()
    made = model().train()
    n = functional.cross_entropy(
        made(torch.cat([data.forget.inputs, data.retain.inputs]) / 255),
        torch.cat([wrong(data.forget.labels), data.retain.labels]),
        reduction="none",
    )
    expected = {"forget": n[:10].sum().item() / 40, "retain": n[10:].sum().item() / 40}
    assert record["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_mixed_step_by_role_is_two_steps_on_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_label, "draw_labels", wrong)
    data = problems.data(forget=10, retain=30)
    rules = PerRole(PLAIN, dataclasses.replace(PLAIN, lr=0.3))
    config = RandomLabelConfig(epochs=1, batch_size=40, order="mixed", rule=rules)
    got = random_label.unlearn(model(), data, config, problems.context())
    by_hand = model()
    inputs = torch.cat([data.forget.inputs, data.retain.inputs]) / 255
    y = torch.cat([wrong(data.forget.labels), data.retain.labels])
    losses = lambda: functional.cross_entropy(by_hand(inputs), y, reduction="none")  # noqa: E731
    descend(by_hand, [lambda: losses()[:10].sum() / 40])
    descend(by_hand, [lambda: losses()[10:].sum() / 40], lr=0.3)
    assert_same_state(got, by_hand)


@pytest.mark.parametrize("by_role", [False, True])
def test_mixed_epochs_see_every_example_once_and_keep_masks(by_role: bool) -> None:
    start, context = model(), problems.context()
    before = problems.weights(start)
    mask = largest({name: weight.abs() for name, weight in before.items()}, 0.5)
    context.update_masks = mask
    rule = PerRole(Rule(rho=0.01), Rule()) if by_role else Rule()
    seen: list[Tensor] = []
    real = random_label.draw_labels

    def spy(labels: Tensor, *rest: object) -> Tensor:
        seen.append(labels)
        return real(labels, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_label, "draw_labels", spy)
        got = random_label.unlearn(
            start, problems.data(), RandomLabelConfig(epochs=2, batch_size=9, order="mixed", rule=rule), context
        )
    assert [len(labels) for labels in seen] == 2 * [9, 9, 9, 9, 4]
    assert torch.equal(torch.cat(seen).bincount(), 2 * torch.cat([s.labels for s in sets()]).bincount())
    for name, weight in got.named_parameters():
        assert torch.equal(weight[~mask[name]], before[name][~mask[name]])


def sets() -> tuple[ImageSet, ImageSet]:
    data = problems.data()
    return data.forget, data.retain


@pytest.mark.parametrize("module", [random_label, bad_teacher])
def test_sets_of_two_types_cannot_be_mixed(module: ModuleType) -> None:
    data = problems.data()
    bright = make(data.forget.inputs.float() / 255, data.forget.labels)
    config = RandomLabelConfig(order="mixed") if module is random_label else BadTeacherConfig()
    with pytest.raises(RequestError, match="both must have one type"):
        module.unlearn(model(), dataclasses.replace(data, forget=bright), config, problems.context())


def start(weight: nn.Parameter, first: Tensor) -> random_label.Start:
    """All entries may move."""
    return random_label.Start(weight, first, torch.arange(weight.numel()))


def test_frozen_weights_do_not_count_for_the_soft_threshold() -> None:
    weight, first = nn.Parameter(torch.tensor([0.0, 0.0, 1.0, -2.0])), torch.zeros(4)
    random_label.soft_threshold([random_label.Start(weight, first, torch.tensor([2, 3]))], 0.5)
    assert weight.tolist() == [0.0, 0.0, 0.0, -1.0]


def test_soft_threshold_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,))]
    first = [torch.randn(weight.shape, generator=generator) for weight in weights]
    d = torch.cat([(w.detach() - f).flatten() for w, f in zip(weights, first, strict=True)])
    t = d.abs().sort().values[7]  # floor(0.5 * 17) = 8 of 17 go back
    random_label.soft_threshold([start(w, f) for w, f in zip(weights, first, strict=True)], 0.5)
    got = torch.cat([(w.detach() - f).flatten() for w, f in zip(weights, first, strict=True)])
    torch.testing.assert_close(got, d.sign() * torch.relu(d.abs() - t))
    back = torch.cat([(w.detach() == f).flatten() for w, f in zip(weights, first, strict=True)])
    assert int(back.sum()) == 8


def test_soft_threshold_is_the_proximal_step() -> None:
    """It minimises (w - w')^2 / 2 + t |w - w_0|: no point of a grid is better."""
    first, moved = torch.tensor([0.2, -0.4, 0.0]), torch.tensor([0.9, -0.5, -0.3])
    weight = nn.Parameter(moved.clone())
    random_label.soft_threshold([start(weight, first)], 2 / 3)  # t = 0.3, the second smallest move
    grid = torch.linspace(-1, 1, 20001)[:, None]
    cost = (grid - moved) ** 2 / 2 + 0.3 * (grid - first).abs()
    torch.testing.assert_close(weight.detach(), grid[cost.argmin(dim=0), 0], rtol=0, atol=2e-4)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_soft_threshold_at_the_ends(share: float) -> None:
    weight, first = nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), torch.zeros(3)
    random_label.soft_threshold([start(weight, first)], share)
    assert weight.tolist() == ([0, 0, 0] if share == 1 else [1, -2, 3])
    random_label.soft_threshold([], share)  # nothing to shrink


def test_the_share_that_goes_back_falls_over_the_run() -> None:
    start = model()
    total, shares = model_weights.count(start), []
    first = problems.weights(start)
    real = random_label.soft_threshold

    def spy(weights: list[tuple[nn.Parameter, Tensor]], share: float) -> None:
        real(weights, share)
        back = sum(int((weight == first[name]).sum()) for name, weight in start.named_parameters())
        shares.append((share, back / total))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_label, "soft_threshold", spy)
        config = RandomLabelConfig(epochs=1, batch_size=10, proximal=0.8)
        random_label.unlearn(start, problems.data(), config, problems.context())
    assert [share for share, _ in shares] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    for share, back in shares:
        assert back == pytest.approx(share, abs=2 / total)


def test_no_share_is_the_plain_method_and_all_of_it_nearly_stands_still() -> None:
    def run(**changes: object) -> nn.Module:
        config = RandomLabelConfig(epochs=1, batch_size=40, **changes)
        return random_label.unlearn(model(), problems.data(), config, problems.context())

    assert problems.same(run(), run(proximal=0.0))
    assert not problems.same(run(), run(proximal=0.5))
    sparse = run(proximal=1.0, order="mixed")  # one step, after which everything goes back
    assert all(torch.equal(weight, sparse.get_parameter(name)) for name, weight in model().named_parameters())


def test_the_threshold_keeps_sparsity() -> None:
    start = model()
    kept = largest({name: weight.detach().abs() for name, weight in start.named_parameters()}, 0.5)
    config = RandomLabelConfig(epochs=1, batch_size=10, proximal=0.5)
    got = random_label.unlearn(start, problems.data(), config, problems.context(sparsity=kept))
    assert all(bool((weight[~kept[name]] == 0).all()) for name, weight in got.named_parameters())


@pytest.mark.parametrize("order", ["alternate", "mixed"])
@pytest.mark.parametrize(("classes", "present"), [(2, 2), (11, 4)])
def test_wrong_labels_are_of_any_class_of_the_model(
    order: str, classes: int, present: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those of which there is no example."""
    real, drawn = random_label.draw_labels, list[tuple[Tensor, Tensor]]()
    monkeypatch.setattr(
        random_label, "draw_labels", lambda true, *rest: drawn.append((true, real(true, *rest))) or drawn[-1][1]
    )
    data = dataclasses.replace(problems.data(classes=present, forget=22), num_classes=classes)
    config = RandomLabelConfig(epochs=4, batch_size=20, order=order)
    random_label.unlearn(model(classes=classes), data, config, problems.context())
    true, wrong = (torch.cat(each) for each in zip(*drawn, strict=True))
    assert not bool((true == wrong).any())
    assert set(wrong.tolist()) == set(range(classes))


# Gradient ascent


def test_gradient_ascent_with_l1_by_hand() -> None:
    data = in_order(forget=14)
    config = GradientAscentConfig(epochs=2, batch_size=7, l1=0.03, rule=PLAIN)
    got = gradient_ascent.unlearn(model(), data, config, problems.context())
    by_hand = model()
    batches = [b for _ in range(2) for b in data.forget.batches(7)]
    wanted = descend(
        by_hand,
        [lambda b=b: 0.03 * l1_norm(by_hand) - functional.cross_entropy(by_hand(b.inputs), b.labels) for b in batches],
    )
    assert_same_state(got, wanted)


# Bad teacher


def probability_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 sum_c t_c log(t_c / s_c), from probabilities in float64."""
    t, s = (torch.softmax(logits.double() / temperature, dim=1) for logits in (teacher, student))
    return temperature**2 * (t * (t / s).log()).sum(dim=1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_by_its_formula(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(6, 4, generator=generator) for _ in range(2))
    got = bad_teacher.divergence(student, teacher, temperature)
    expected = probability_divergence(teacher, student, temperature)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    assert bad_teacher.divergence(student, student, temperature).abs().max() < 1e-6


@pytest.mark.parametrize("by_role", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bad_teacher_in_closed_form(by_role: bool, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made = problems.spied_teachers(monkeypatch)
    data, context = problems.data(forget=10, retain=30), problems.context()
    rule = PerRole(PLAIN, dataclasses.replace(PLAIN, lr=0.2)) if by_role else PLAIN
    config = BadTeacherConfig(epochs=1, batch_size=40, retain_fraction=1.0, temperature=temperature, rule=rule)
    got = bad_teacher.unlearn(model(), data, config, context)
    competent, incompetent = made
    assert_same_state(competent, model())

    x_forget, x_retain = data.forget.inputs / 255, data.retain.inputs / 255
    by_hand = model()

    def part(role: str) -> Tensor:
        student = by_hand(torch.cat([x_forget, x_retain]))
        if role == "forget":
            return probability_divergence(incompetent(x_forget), student[:10], temperature).sum() / 40
        return probability_divergence(competent(x_retain), student[10:], temperature).sum() / 40

    by_hand.train()
    expected = {"forget": part("forget").item(), "retain": part("retain").item()}
    by_hand = model()
    if by_role:
        descend(by_hand, [lambda: part("forget")])
        descend(by_hand, [lambda: part("retain")], lr=0.2)
    else:
        descend(by_hand, [lambda: part("forget") + part("retain")])
        for name, buffer in by_hand.named_buffers():  # the statistics of one pass, not of two
            buffer.copy_(got.get_buffer(name))
    assert_same_state(got, by_hand)
    (record,) = context.history()
    if not by_role:
        assert record["loss"] == pytest.approx(expected, rel=1e-4)
        assert int(got.get_buffer("1.num_batches_tracked")) == 1
    assert record["loss"]["forget"] == pytest.approx(expected["forget"], rel=1e-4)


def test_the_teachers_never_change_and_the_bad_one_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = problems.spied_teachers(monkeypatch)
    start = trained()
    original = copy.deepcopy(start)
    snapshots: list[list[dict[str, Tensor]]] = []
    context = problems.context(on_step=lambda _: snapshots.append([problems.state(t) for t in made]))
    config = BadTeacherConfig(epochs=3, batch_size=8, rule=Rule(lr=0.05))
    got = bad_teacher.unlearn(start, problems.data(), config, context)
    assert not problems.same(got, original)
    competent, incompetent = made
    assert problems.same(competent, original)
    assert not competent.training
    assert not incompetent.training
    assert not any(weight.requires_grad for teacher in made for weight in teacher.parameters())
    for first, second in zip(snapshots[0], snapshots[-1], strict=True):
        assert problems.same(first, second)
    assert not any(torch.equal(incompetent.get_parameter(name), original.get_parameter(name)) for name in ("0.weight",))


def test_the_incompetent_teacher_comes_from_the_generator_of_the_run() -> None:
    def weights(seed: int) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            made = problems.spied_teachers(patch)
            bad_teacher.unlearn(model(), problems.data(), BadTeacherConfig(epochs=0), problems.context(seed))
        return problems.vector(made[1])

    torch.manual_seed(1)
    first = weights(0)
    torch.manual_seed(2)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@pytest.mark.parametrize(("fraction", "drawn"), [(0.0, 0), (0.3, 9), (1.0, 30)])
def test_the_share_of_the_retain_set_is_drawn_once(fraction: float, drawn: int) -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                seen.append(inputs)
            return self.layer(inputs.flatten(1))

    config = BadTeacherConfig(epochs=3, batch_size=100, retain_fraction=fraction, rule=PLAIN)
    bad_teacher.unlearn(Spy(), problems.data(), config, problems.context())
    assert [len(inputs) for inputs in seen] == 3 * [10 + drawn]
    rows = [{tuple(image.flatten().tolist()) for image in inputs} for inputs in seen]
    assert rows[0] == rows[1] == rows[2]


def test_the_share_of_the_retain_set_is_drawn_from_all_of_it() -> None:
    """Over some seeds every retained image is seen, not only the first ones, and each seed draws others."""

    def seen(seed: int) -> set[int]:
        start, inputs = model(), []
        start.register_forward_hook(lambda module, given, _: inputs.append(given[0]) if module is start else None)
        config = BadTeacherConfig(epochs=1, batch_size=100, retain_fraction=0.3, rule=PLAIN)
        bad_teacher.unlearn(start, data, config, problems.context(seed))
        shown = {tuple(image.flatten().tolist()) for image in inputs[0]}
        return {number for number, image in enumerate(every) if image in shown}

    data = problems.data()
    every = [tuple(image.flatten().tolist()) for image in data.retain.inputs / 255]
    draws = [seen(seed) for seed in range(20)]
    assert [len(drawn) for drawn in draws] == 20 * [9]
    assert set.union(*draws) == set(range(30))
    assert len({frozenset(drawn) for drawn in draws}) == 20


def test_a_student_of_one_class_has_nothing_to_learn() -> None:
    data = problems.data(classes=1)
    config = BadTeacherConfig(epochs=1, rule=PLAIN)
    got = bad_teacher.unlearn(model(classes=1), data, config, problems.context())
    assert all(torch.equal(weight, got.get_parameter(name)) for name, weight in model(classes=1).named_parameters())


# All of them


@pytest.mark.parametrize("module", [boundary_shrink, random_label])
def test_one_class_has_no_wrong_label(module: ModuleType) -> None:
    config = BoundaryShrinkConfig() if module is boundary_shrink else RandomLabelConfig()
    with pytest.raises(RequestError, match="with one class"):
        module.unlearn(model(classes=1), problems.data(classes=1), config, problems.context())


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (l1_sparse, L1SparseConfig(epochs=1)),
        (boundary_expanding, BoundaryExpandingConfig(epochs=1)),
        (gradient_ascent, GradientAscentConfig(epochs=1)),
        (random_label, RandomLabelConfig(epochs=1, true_label=True, order="mixed")),
    ],
)
def test_one_class_is_no_error_where_no_wrong_one_is_needed(module: ModuleType, config: object) -> None:
    got = module.unlearn(model(classes=1), problems.data(classes=1), config, problems.context())
    assert all(bool(torch.isfinite(weight).all()) for weight in got.parameters())


# Retraining


def test_retraining_does_not_depend_on_the_forget_set_or_the_old_weights() -> None:
    wanted = RetrainConfig(epochs=2, batch_size=7)
    first = problems.unlearned(wanted, problems.model(seed=1))
    assert problems.same(first, problems.unlearned(wanted, problems.model(seed=2), problems.data(forget=7)))


def reset(start: nn.Module, context: Context) -> nn.Module:
    with context.seeded():
        model_weights.reinitialise(start)
    return start


def test_label_smoothing_by_its_formula() -> None:
    data = in_order(retain=14)
    config = RetrainConfig(epochs=2, batch_size=7, label_smoothing=0.2, rule=PLAIN)
    context = problems.context()
    with context.seeded():
        got = retrain.unlearn(model(), data, config, context)
    by_hand = reset(model(), problems.context())

    def smoothed(batch: Batch) -> Tensor:
        log_p = torch.log_softmax(by_hand(batch.inputs), dim=1)
        own = log_p[torch.arange(len(batch.labels)), batch.labels]
        return (-0.8 * own - 0.2 / 3 * log_p.sum(dim=1)).mean()

    batches = [b for _ in range(2) for b in data.retain.batches(7)]
    assert_same_state(got, descend(by_hand, [lambda b=b: smoothed(b) for b in batches]))


@pytest.mark.parametrize("adaptive", [False, True])
def test_retraining_with_sharpness_aware_steps_by_hand(adaptive: bool) -> None:
    data = in_order(retain=14)
    rule = dataclasses.replace(PLAIN, rho=0.5, adaptive=adaptive)
    context = problems.context()
    with context.seeded():
        got = retrain.unlearn(model(), data, RetrainConfig(epochs=2, batch_size=7, rule=rule), context)
    by_hand = reset(model(), problems.context()).train()
    weights = list(by_hand.parameters())
    for batch in [b for _ in range(2) for b in data.retain.batches(7)]:
        loss = functional.cross_entropy(by_hand(batch.inputs), batch.labels)
        gradients = torch.autograd.grad(loss, weights)
        buffers = {name: value.clone() for name, value in by_hand.named_buffers()}
        sizes = [weight.detach().abs() if adaptive else torch.ones_like(weight) for weight in weights]
        norm = torch.cat([(s * g).flatten() for s, g in zip(sizes, gradients, strict=True)]).norm()
        moves = [0.5 * s * s * g / norm for s, g in zip(sizes, gradients, strict=True)]
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.add_(move)
        gradients = torch.autograd.grad(functional.cross_entropy(by_hand(batch.inputs), batch.labels), weights)
        with torch.no_grad():
            for weight, move, gradient in zip(weights, moves, gradients, strict=True):
                weight.sub_(move + 0.1 * gradient)
            for name, value in by_hand.named_buffers():  # the perturbed pass only counts
                value.copy_(buffers[name] + (1 if name.endswith("num_batches_tracked") else 0))
    assert_same_state(got, by_hand)
