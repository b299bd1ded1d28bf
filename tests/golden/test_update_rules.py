"""Rules per role, sharpness-aware steps and the masks of roles against the original implementations."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from expunge.data.unlearning_data import UnlearningData
from expunge.methods import neggrad_plus
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule
from expunge.unlearning import update_masks
from expunge.unlearning.update_masks import UpdateMask
from tests.golden import cases
from tests.golden.cases import context, rule, tiny_data, tiny_split


@pytest.mark.parametrize("name", ["min", "max", "adaptive"])
def test_sharpness_aware_steps(name: str) -> None:
    case = cases.load("sharpness_aware")
    given, setting = case.hyperparameters, case.hyperparameters["settings"][name]
    sharpness = {"sharpness": setting["sign"], "adaptive": setting.get("adaptive", False)}
    chosen = rule(case, rho=setting["rho"], lamb=setting["lamb"], **sharpness)

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model().train()
        step = context().stepper(model, chosen, given["steps"])
        for _, batch in zip(range(given["steps"]), tiny_split("retain").batches(given["batch_size"]), strict=False):
            step(retain=lambda b=batch: cross_entropy(model(b.inputs), b.labels))
        return model.state_dict()

    cases.assert_agrees(case, compute, f"{name}.")


@pytest.mark.parametrize("pair", ["adamw_sgd", "adamw_adamw", "sgd_sgd"])
def test_dual_optim(pair: str) -> None:
    case = cases.load("dual_optim")
    rounds, size = case.hyperparameters["rounds"], case.hyperparameters["batch_size"]
    forget_kind, retain_kind = pair.split("_")
    adamw = Rule(optimizer="adamw", lr=1e-3, momentum=0.9, beta2=0.999, weight_decay=0.05)
    sgd = {role: Rule(lr=lr, momentum=0.9, weight_decay=5e-4) for role, lr in (("forget", 0.01), ("retain", 0.02))}
    both = PerRole(
        adamw if forget_kind == "adamw" else sgd["forget"], adamw if retain_kind == "adamw" else sgd["retain"]
    )

    def compute() -> dict[str, Tensor]:
        model = cases.tiny_model().train()
        forget, retain = (list(tiny_split(name).batches(size)) for name in ("forget", "retain"))
        step = context().stepper(model, both, rounds)
        for position in range(rounds):
            f, r = forget[position % len(forget)], retain[position % len(retain)]
            step(
                forget=lambda b=f: -0.1 * cross_entropy(model(b.inputs), b.labels),
                retain=lambda b=r: cross_entropy(model(b.inputs), b.labels),
            )
        return model.state_dict()

    cases.assert_agrees(case, compute, f"{pair}.")


@pytest.mark.parametrize("form", ["paper", "as_released"])
def test_sharp_minmax(form: str) -> None:
    case = cases.load("sharp_minmax")
    given = case.hyperparameters
    mask = case.mask()

    def sharp(sharpness: Literal["min", "max"], lamb: float) -> Rule:
        plain = {"lr": given["lr"], "momentum": 0.0, "weight_decay": 0.0, "rho": given["rho"]}
        return Rule(**plain, sharpness=sharpness, lamb=lamb, as_released=form == "as_released")

    pair = PerRole(forget=sharp("max", given["lamb_forget"]), retain=sharp("min", given["lamb_retain"]))

    def compute() -> dict[str, Tensor]:
        seen = tiny_data()
        # One step of each role, on the first 32 retain and the first 16 forget examples.
        forget, retain = seen.forget.select(torch.arange(16)), seen.retain.select(torch.arange(32))
        first = UnlearningData(forget, retain, None, seen.num_classes)
        config = neggrad_plus.NegGradPlusConfig(alpha=given["alpha"], epochs=1, batch_size=32, rule=pair)
        made = context(update_masks={"forget": mask, "retain": mask.inverted()})
        return neggrad_plus.unlearn(cases.tiny_model(), first, config, made).state_dict()

    cases.assert_agrees(case, compute, f"{form}.")


def test_the_mask_of_sfron() -> None:
    case = cases.load("sfron_parts")
    size = case.hyperparameters["batch_size"]
    model = cases.tiny_model()
    for role in ("forget", "retain"):
        found: dict[str, Tensor] = {}

        def compute(role: str = role, found: dict[str, Tensor] = found) -> dict[str, Tensor]:
            found.update(update_masks.mean_square(model, tiny_split(role), size))
            return found

        cases.assert_agrees(case, compute, f"{role}_fisher.")
    config = UpdateMask("ratio", threshold=case.hyperparameters["threshold"], roles="forget", batch_size=size)
    generator = torch.Generator()
    scores = update_masks.scores(model, tiny_data(), config.score, config.batch_size, generator)
    by_role = update_masks.update_masks(model, tiny_data(), config, generator)
    assert set(by_role) == {"forget"}
    for name, expected in case.prefixed("mask.").items():
        # Only a weight whose ratio is at the threshold within the case's tolerance may fall on the other side.
        close = (scores[name] / case.hyperparameters["threshold"] - 1).abs() <= 2 * case.rtol
        assert bool((by_role["forget"][name] == expected.bool())[~close].all())
        assert float(close.double().mean()) < 0.1
