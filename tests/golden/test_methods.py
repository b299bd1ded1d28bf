"""The methods against the original implementations, on every case's own data and hyperparameters."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from expunge.context import Context, UnlearningData
from expunge.data.image_set import Batch, ImageSet
from expunge.masks import Mask
from expunge.methods import finetune, gradient_ascent, neggrad_plus, random_label, scrub
from expunge.updates import PerRole, Rule
from tests.golden import cases
from tests.golden.cases import Case


@dataclass(frozen=True)
class InOrder(ImageSet):
    """Batches are consecutive slices whatever the generator, as the cases say."""

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        return super().batches(size)


def split(name: str) -> InOrder:
    images = cases.tiny_split(name)
    return InOrder(images.inputs, images.labels, images.ids)


def data(model: nn.Module) -> UnlearningData:
    classes = list(model.parameters())[-1].numel()
    return UnlearningData(split("forget"), split("retain"), split("validation"), classes)


def context(**more: object) -> Context:
    return Context(torch.Generator().manual_seed(0), precision="float32", **more)  # type: ignore[arg-type]


def rule(case: Case, **more: object) -> Rule:
    given = case.hyperparameters
    assert given["optimizer"] == "SGD"
    return Rule(lr=given["lr"], momentum=given["momentum"], weight_decay=given["weight_decay"], **more)  # type: ignore[arg-type]


def passes(case: Case) -> dict[str, int]:
    return {"epochs": case.hyperparameters["epochs"], "batch_size": case.hyperparameters["batch_size"]}


@pytest.mark.parametrize(("name", "module"), [("finetune", finetune), ("gradient_ascent", gradient_ascent)])
def test_one_sided_methods(name: str, module: object) -> None:
    case = cases.load(name)
    model = cases.tiny_model(case)
    kind = {"finetune": finetune.FinetuneConfig, "gradient_ascent": gradient_ascent.GradientAscentConfig}[name]
    config = kind(rule=rule(case), **passes(case))
    unlearned = module.unlearn(model, data(model), config, context())  # type: ignore[attr-defined]
    cases.assert_close(case, unlearned.state_dict(), "expected.")


def test_neggrad_plus() -> None:
    case = cases.load("neggrad_plus")
    model = cases.tiny_model(case)
    config = neggrad_plus.NegGradPlusConfig(alpha=case.hyperparameters["alpha"], rule=rule(case), **passes(case))
    # The case cycles the forget batches through the whole run, ours begins anew each epoch: the same where
    # the number of retain batches is a multiple of the number of forget batches.
    unlearned = neggrad_plus.unlearn(model, data(model), config, context())
    cases.assert_close(case, unlearned.state_dict(), "expected.")


def given_labels(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand out the case's random labels, batch after batch, in place of drawn ones."""
    labels = iter(case.tensors["random_labels"].flatten().split(1))

    def draw(true: Tensor, *_: object) -> Tensor:
        return torch.cat([next(labels) for _ in range(len(true))])

    monkeypatch.setattr(random_label, "draw_labels", draw)


def test_random_label(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.load("random_label")
    model = cases.tiny_model(case)
    given_labels(case, monkeypatch)
    config = random_label.RandomLabelConfig(rule=rule(case), **passes(case))
    unlearned = random_label.unlearn(model, data(model), config, context())
    cases.assert_close(case, unlearned.state_dict(), "expected.")


def test_salun(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.load("salun")
    model = cases.tiny_model(case)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    given_labels(case, monkeypatch)
    mask = Mask({name: tensor.bool() for name, tensor in case.prefixed("mask.").items()})
    config = random_label.RandomLabelConfig(rule=rule(case), **passes(case))
    unlearned = random_label.unlearn(model, data(model), config, context(update_masks=mask))
    cases.assert_close(case, unlearned.state_dict(), "expected.")
    leaking = case.prefixed("gradient_mask_only.")
    assert any(not torch.allclose(leaking[name], weight, rtol=1e-4, atol=1e-6) for name, weight in before.items())
    for name, weight in unlearned.named_parameters():
        assert torch.equal(weight[~mask[name]], before[name][~mask[name]])


def test_scrub() -> None:
    case = cases.load("scrub")
    model = cases.tiny_model(case)
    given = case.hyperparameters
    config = scrub.ScrubConfig(
        maximise_epochs=given["maximise_epochs"],
        temperature=given["temperature"],
        alpha=given["alpha"],
        gamma=given["gamma"],
        rule=rule(case),
        **passes(case),
    )
    unlearned = scrub.unlearn(model, data(model), config, context())
    cases.assert_close(case, unlearned.state_dict(), "expected.")


def test_sharpness_aware_steps() -> None:
    case = cases.load("sharpness_aware")
    given = case.hyperparameters
    plain = {"lr": given["lr"], "momentum": given["momentum"], "weight_decay": given["weight_decay"]}
    for name, setting in given["settings"].items():
        model = cases.tiny_model(case)
        chosen = Rule(
            **plain,
            rho=setting["rho"],
            lamb=setting["lamb"],
            sharpness=setting["sign"],
            adaptive=setting.get("adaptive", False),
        )
        model.train()
        step = context().stepper(model, chosen, given["steps"])
        batches = split("retain").batches(given["batch_size"])
        for _, batch in zip(range(given["steps"]), batches, strict=False):
            step(retain=lambda b=batch, m=model: nn.functional.cross_entropy(m(b.inputs), b.labels))
        cases.assert_close(case, model.state_dict(), f"{name}.")


def test_sharp_minmax_in_the_form_of_the_paper() -> None:
    case = cases.load("sharp_minmax")
    given = case.hyperparameters
    model = cases.tiny_model(case)
    forget_part = Mask({name: tensor.bool() for name, tensor in case.prefixed("mask.").items()})
    plain = {"lr": given["lr"], "momentum": 0.0, "weight_decay": 0.0, "rho": given["rho"]}
    both = PerRole(
        forget=Rule(**plain, lamb=given["lamb_forget"], sharpness="max"),
        retain=Rule(**plain, lamb=given["lamb_retain"], sharpness="min"),
    )
    masks = {"forget": forget_part, "retain": forget_part.inverted()}
    retain, forget = next(split("retain").batches(32)), next(split("forget").batches(16))
    model.train()
    step = context(update_masks=masks).stepper(model, both, 1)
    alpha, loss = given["alpha"], nn.functional.cross_entropy
    step(
        retain=lambda: alpha * loss(model(retain.inputs), retain.labels),
        forget=lambda: (alpha - 1) * loss(model(forget.inputs), forget.labels),
    )
    cases.assert_close(case, dict(model.named_parameters()), "paper.")


@pytest.mark.parametrize("name", ["adamw_sgd", "adamw_adamw", "sgd_sgd"])
def test_dual_optimizers(name: str) -> None:
    case = cases.load("dual_optim")
    given = case.hyperparameters
    # The case states these in words only.
    adamw = Rule(optimizer="adamw", lr=1e-3, momentum=0.9, beta2=0.999, weight_decay=0.05)
    rates = {"forget": 0.01, "retain": 0.02}
    kinds = dict(zip(("forget", "retain"), name.split("_"), strict=True))
    rules = {
        role: adamw if kind == "adamw" else Rule(lr=rates[role], momentum=0.9, weight_decay=5e-4)
        for role, kind in kinds.items()
    }
    model = cases.tiny_model(case)
    model.train()
    step = context().stepper(model, PerRole(**rules), given["rounds"])
    forget = list(split("forget").batches(given["batch_size"]))
    retain = list(split("retain").batches(given["batch_size"]))
    loss = nn.functional.cross_entropy
    for index in range(given["rounds"]):
        f, r = forget[index % len(forget)], retain[index % len(retain)]
        step(
            forget=lambda b=f: -0.1 * loss(model(b.inputs), b.labels),
            retain=lambda b=r: loss(model(b.inputs), b.labels),
        )
    cases.assert_close(case, model.state_dict(), f"{name}.")
