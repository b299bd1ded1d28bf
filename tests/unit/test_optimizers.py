"""Rules that share moments of the gradient, against formulas written out by hand in float64."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.training import optimizers
from expunge.training.rules import PerRole, Rule
from expunge.training.stepper import Stepper

ADAMW = Rule(optimizer="adamw", lr=0.03, momentum=0.8, beta2=0.95, weight_decay=0.1)
OTHER = Rule(optimizer="adamw", lr=0.01, momentum=0.7, beta2=0.9, weight_decay=0.02)
SGD = Rule(lr=0.05, momentum=0.6, weight_decay=0.04)
ORDER = ["forget", "retain", "retain", "forget", "retain"]


class Line(nn.Module):
    """Two weights; the gradient of the objectives below depends on where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -2.0], dtype=torch.float64))


TARGETS = {"forget": torch.tensor([3.0, 1.0], dtype=torch.float64), "retain": torch.tensor([-1.0, 0.5])}


def loss(model: Line, role: str) -> Tensor:
    return 0.5 * (model.weight - TARGETS[role]).pow(2).sum()


def ours(rule: PerRole, **masks: Mask) -> Tensor:
    model = Line()
    step = Stepper(model, rule, len(ORDER), device=torch.device("cpu"), update_masks=masks or None)
    for role in ORDER:
        step(**{role: lambda r=role: loss(model, r)})
    return model.weight.detach()


def by_hand(rule: PerRole) -> Tensor:
    """The same steps with running means per role, or one for both, and bias by the product of betas."""
    w = Line().weight.detach().clone()
    means = {(moment, role): torch.zeros(2, dtype=torch.float64) for moment in "mv" for role in ("forget", "retain")}
    left = dict.fromkeys(means, 1.0)
    for role in ORDER:
        r: Rule = getattr(rule, role)
        m = ("m", "forget" if rule.share in ("first", "both") else role)
        v = ("v", "forget" if rule.share in ("second", "both") else role)
        g = w - TARGETS[role]
        if r.optimizer == "sgd":
            means[m] = r.momentum * means[m] + (1 - r.momentum) * (g + r.weight_decay * w)
            left[m] *= r.momentum
            w = w - r.lr * means[m]
            continue
        means[m] = r.momentum * means[m] + (1 - r.momentum) * g
        means[v] = r.beta2 * means[v] + (1 - r.beta2) * g**2
        left[m] *= r.momentum
        left[v] *= r.beta2
        w = w * (1 - r.lr * r.weight_decay)
        w = w - r.lr * (means[m] / (1 - left[m])) / ((means[v] / (1 - left[v])).sqrt() + 1e-8)
    return w


@pytest.mark.parametrize(
    "rule",
    [
        PerRole(ADAMW, OTHER, "first"),
        PerRole(ADAMW, OTHER, "second"),
        PerRole(ADAMW, SGD, "first"),
        PerRole(SGD, OTHER, "first"),
        PerRole(ADAMW, OTHER),
    ],
    ids=["adamw m", "adamw v", "adamw and sgd m", "sgd and adamw m", "nothing"],
)
def test_shared_moments_follow_the_formulas(rule: PerRole) -> None:
    torch.testing.assert_close(ours(rule), by_hand(rule), rtol=1e-9, atol=1e-12)


def test_sharing_matters() -> None:
    results = [ours(PerRole(ADAMW, OTHER, share)) for share in ("nothing", "first", "second", "both")]
    for position, first in enumerate(results):
        assert all(not torch.allclose(first, second, rtol=1e-4) for second in results[:position])


@pytest.mark.parametrize("rule", [SGD, ADAMW, Rule(optimizer="lion", lr=0.01)], ids=lambda rule: rule.optimizer)
def test_two_equal_rules_that_share_everything_are_one_rule(rule: Rule) -> None:
    model = Line()
    step = Stepper(model, rule, len(ORDER), device=torch.device("cpu"))
    for role in ORDER:
        step(**{role: lambda r=role: loss(model, r)})
    assert torch.equal(ours(PerRole(rule, rule, "both")), model.weight.detach())


def test_two_equal_sgds_without_momentum_are_one_rule() -> None:
    plain = Rule(lr=0.05, momentum=0.0)
    assert torch.equal(ours(PerRole(plain, plain)), ours(PerRole(plain, plain, "both")))
    assert not torch.equal(ours(PerRole(SGD, SGD)), ours(PerRole(SGD, SGD, "both")))


def test_shared_sgd_steps_at_each_roles_own_rate() -> None:
    rule = PerRole(Rule(lr=0.5, momentum=0.5, weight_decay=0.0), Rule(lr=0.1, momentum=0.9, weight_decay=0.0), "first")
    w, b = Line().weight.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for role in ORDER:
        r: Rule = getattr(rule, role)
        b = r.momentum * b + (w - TARGETS[role])
        w = w - r.lr * b
    torch.testing.assert_close(ours(rule), w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", ["nothing", "first", "second", "both"])
def test_a_role_leaves_weights_outside_its_mask_and_the_shared_moments_there_alone(share: str) -> None:
    # Each weight is in the mask of one role only: it must move as if the other role did not exist.
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    rule = PerRole(ADAMW, OTHER, share)
    model = Line()
    masks = {"forget": Mask({"weight": first}), "retain": Mask({"weight": second})}
    step = Stepper(model, rule, len(ORDER), device=torch.device("cpu"), update_masks=masks)
    for role in ORDER:
        before = model.weight.detach().clone()
        state = [
            {k: s.clone() for k, s in step._updates[r].optimizer.state[model.weight].items() if s.shape == (2,)}
            for r in ("forget", "retain")
        ]
        step(**{role: lambda r=role: loss(model, r)})
        still = ~(first if role == "forget" else second)
        assert torch.equal(model.weight[still], before[still])
        assert not torch.equal(model.weight[~still], before[~still])
        for old, other in zip(state, ("forget", "retain"), strict=True):
            for key, tensor in old.items():
                assert torch.equal(step._updates[other].optimizer.state[model.weight][key][still], tensor[still])


def test_one_rule_with_a_mask_per_role_steps_by_role() -> None:
    masks = {"forget": Mask({"weight": torch.tensor([True, False])})}
    model = Line()
    step = Stepper(
        model, Rule(lr=0.1, momentum=0.0, weight_decay=0.0), 1, device=torch.device("cpu"), update_masks=masks
    )
    step(forget=lambda: loss(model, "forget"), retain=lambda: loss(model, "retain"))
    w = Line().weight.detach().clone()
    w = w - 0.1 * (w - TARGETS["forget"]) * torch.tensor([1.0, 0.0])
    w = w - 0.1 * (w - TARGETS["retain"])
    torch.testing.assert_close(model.weight.detach(), w)


@pytest.mark.parametrize(
    ("rule", "share"), [((SGD, SGD), "second"), ((ADAMW, SGD), "both"), ((SGD, Rule(optimizer="lion")), "first")]
)
def test_moments_that_an_optimizer_does_not_have_cannot_be_shared(rule: tuple[Rule, Rule], share: str) -> None:
    with pytest.raises(RequestError, match=f"cannot share={share}"):
        PerRole(*rule, share)


def test_eight_bits_need_a_gpu_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="adamw8bit needs a GPU"):
        Stepper(Line(), Rule(optimizer="adamw8bit"), 1, device=torch.device("cpu"))
    on_a_gpu = [SimpleNamespace(device=torch.device("cuda"))]
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RequestError, match=r"pip install 'expunge\[8bit\]'"):
        optimizers.make(Rule(optimizer="adamw8bit"), on_a_gpu)
    made: list[dict[str, object]] = []
    library = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=lambda weights, **options: made.append(options)))
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    optimizers.make(Rule(optimizer="adamw8bit", lr=0.1, weight_decay=0.05), on_a_gpu)
    assert made == [{"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05}]


def test_a_role_without_a_gradient_does_not_move_by_the_other_roles_mean() -> None:
    rule = PerRole(ADAMW, OTHER, "first")
    model = Line()
    step = Stepper(model, rule, 2, device=torch.device("cpu"))
    step(forget=lambda: loss(model, "forget"))
    before = model.weight.detach().clone()
    step(retain=lambda: 0 * model.weight.sum())
    torch.testing.assert_close(model.weight.detach(), before * (1 - OTHER.lr * OTHER.weight_decay))
