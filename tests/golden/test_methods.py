"""The methods against the original implementations, on every case's own data and hyperparameters."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from expunge.core.masks import Mask
from expunge.data.image_set import Batch, TensorImages
from expunge.data.unlearning_data import UnlearningData
from expunge.methods import finetune, gradient_ascent, neggrad_plus, random_label, scrub
from expunge.training.context import Context
from expunge.training.rules import PerRole, Rule
from tests.golden import cases
from tests.golden.cases import Case


@dataclass(frozen=True)
class InOrder(TensorImages):
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
    kind = {"finetune": finetune.FinetuneConfig, "gradient_ascent": gradient_ascent.GradientAscentConfig}[name]
    config = kind(rule=rule(case), **passes(case))

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model()
        return module.unlearn(model, data(model), config, context()).state_dict()  # type: ignore[attr-defined]

    cases.assert_agrees(case, compute, "expected.")


def test_neggrad_plus() -> None:
    case = cases.load("neggrad_plus")
    config = neggrad_plus.NegGradPlusConfig(alpha=case.hyperparameters["alpha"], rule=rule(case), **passes(case))

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model()
        return neggrad_plus.unlearn(model, data(model), config, context()).state_dict()

    cases.assert_agrees(case, compute, "expected.")


def hand_out(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the case's random labels, batch after batch, in place of drawn ones."""
    labels = iter(case.tensors["random_labels"].flatten().split(1))

    def draw(true: Tensor, *_: object) -> Tensor:
        return torch.cat([next(labels) for _ in range(len(true))])

    monkeypatch.setattr(random_label, "draw_labels", draw)


def test_random_label(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.load("random_label")
    config = random_label.RandomLabelConfig(rule=rule(case), **passes(case))

    def compute() -> dict[str, Tensor]:
        hand_out(case, monkeypatch)
        model = cases.tiny_model()
        return random_label.unlearn(model, data(model), config, context()).state_dict()

    cases.assert_agrees(case, compute, "expected.")


def test_salun(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.load("salun")
    mask = Mask({name: tensor.bool() for name, tensor in case.prefixed("mask.").items()})
    config = random_label.RandomLabelConfig(rule=rule(case), **passes(case))

    def compute() -> dict[str, Tensor]:
        hand_out(case, monkeypatch)
        model = cases.tiny_model()
        return random_label.unlearn(model, data(model), config, context(update_masks=mask)).state_dict()

    cases.assert_agrees(case, compute, "expected.")
    state, leaking = compute(), case.prefixed("gradient_mask_only.")
    before = {name: weight.detach() for name, weight in cases.tiny_model().named_parameters()}
    frozen = {name: ~moving for name, moving in mask.items()}
    assert all(torch.equal(state[name][still], before[name][still]) for name, still in frozen.items())
    assert any(not torch.equal(leaking[name][still], before[name][still]) for name, still in frozen.items())


def test_scrub() -> None:
    case = cases.load("scrub")
    given = case.hyperparameters
    config = scrub.ScrubConfig(
        maximise_epochs=given["maximise_epochs"],
        temperature=given["temperature"],
        alpha=given["alpha"],
        gamma=given["gamma"],
        rule=rule(case),
        **passes(case),
    )

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model()
        return scrub.unlearn(model, data(model), config, context()).state_dict()

    cases.assert_agrees(case, compute, "expected.")


@pytest.mark.parametrize("name", ["min", "max", "adaptive"])
def test_sharpness_aware_steps(name: str) -> None:
    case = cases.load("sharpness_aware")
    given = case.hyperparameters
    setting = given["settings"][name]
    chosen = Rule(
        lr=given["lr"],
        momentum=given["momentum"],
        weight_decay=given["weight_decay"],
        rho=setting["rho"],
        lamb=setting["lamb"],
        sharpness=setting["sign"],
        adaptive=setting.get("adaptive", False),
    )

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model().train()
        step = context().stepper(model, chosen, given["steps"])
        for _, batch in zip(range(given["steps"]), split("retain").batches(given["batch_size"]), strict=False):
            step(retain=lambda b=batch: nn.functional.cross_entropy(model(b.inputs), b.labels))
        return model.state_dict()

    cases.assert_agrees(case, compute, f"{name}.")


def test_sharp_minmax_in_the_form_of_the_paper() -> None:
    case = cases.load("sharp_minmax")
    given = case.hyperparameters
    forget_part = Mask({name: tensor.bool() for name, tensor in case.prefixed("mask.").items()})
    masks = {"forget": forget_part, "retain": forget_part.inverted()}
    plain = {"lr": given["lr"], "momentum": 0.0, "weight_decay": 0.0, "rho": given["rho"]}
    both = PerRole(
        forget=Rule(**plain, lamb=given["lamb_forget"], sharpness="max"),
        retain=Rule(**plain, lamb=given["lamb_retain"], sharpness="min"),
    )
    retain, forget = next(split("retain").batches(32)), next(split("forget").batches(16))
    alpha, loss = given["alpha"], nn.functional.cross_entropy

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model().train()
        context(update_masks=masks).stepper(model, both, 1)(
            retain=lambda: alpha * loss(model(retain.inputs), retain.labels),
            forget=lambda: (alpha - 1) * loss(model(forget.inputs), forget.labels),
        )
        return model.state_dict()

    cases.assert_agrees(case, compute, "paper.")


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
    forget = list(split("forget").batches(given["batch_size"]))
    retain = list(split("retain").batches(given["batch_size"]))
    loss = nn.functional.cross_entropy

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model().train()
        step = context().stepper(model, PerRole(**rules), given["rounds"])
        for index in range(given["rounds"]):
            f, r = forget[index % len(forget)], retain[index % len(retain)]
            step(
                forget=lambda b=f: -0.1 * loss(model(b.inputs), b.labels),
                retain=lambda b=r: loss(model(b.inputs), b.labels),
            )
        return model.state_dict()

    cases.assert_agrees(case, compute, f"{name}.")
