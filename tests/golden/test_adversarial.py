"""Discriminative adversarial unlearning against the original implementation: one step of attacker and model."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from expunge.curvature import heads
from expunge.methods._attacker import Attacker, Noisy, View, learner, observe, tapped
from expunge.methods.adversarial import AdversarialConfig, decorrelation, duel
from expunge.training.losses import cross_entropy
from expunge.training.stepper import Stepper
from tests.golden import cases
from tests.golden.cases import Case, context, rule, tiny_split


@dataclass(frozen=True)
class Scene:
    """The case as it stands before the step."""

    case: Case
    model: nn.Module
    attacker: Attacker
    config: AdversarialConfig
    pair: tuple[Noisy, Noisy]

    def show(self) -> tuple[View, View]:
        with tapped(self.model, heads.classifier(self.model, tiny_split("forget"), "it")) as forward:
            first, second = (observe(self.model, forward, self.config.probe, seen) for seen in self.pair)
        return first, second


def scene() -> Scene:
    case = cases.load("adversarial")
    given = case.hyperparameters
    attacker = Attacker(case.tensors["sensitivity_forget"].shape[1], dropout=0.0)
    attacker.load_state_dict({name: value.clone() for name, value in case.prefixed("attacker.").items()})
    config = AdversarialConfig(
        adversarial_weight=given["adversarial_weight"],
        decorrelation_weight=given["decorrelation_weight"],
        off_diagonal=given["off_diagonal"],
        attacker_lr=given["attacker_lr"],
        directions=given["noisy_copies"],
        noise=given["noise"],
    )
    return Scene(case, cases.tiny_model().train(), attacker, config, (seen(case, "forget"), seen(case, "validation")))


def seen(case: Case, name: str) -> Noisy:
    size = len(case.tensors[f"sensitivity_{name}"])
    return Noisy(next(tiny_split(name).batches(size)), case.tensors[f"noise_{name}"].unflatten(0, (-1, size)))


def learner_of(now: Scene) -> Stepper:
    return learner(now.attacker, now.config.attacker_lr, 1, torch.device("cpu"))


def test_what_the_attacker_sees() -> None:
    def compute() -> dict[str, Tensor]:
        now = scene()
        forgotten, other = now.show()
        inputs = torch.cat([forgotten.inputs, other.inputs])
        classes = inputs.shape[1] // 3
        return {
            "sensitivity_forget": forgotten.inputs[:, 2 * classes :],
            "sensitivity_validation": other.inputs[:, 2 * classes :],
            "attacker_input": inputs,
            "decorrelation_loss": decorrelation(other.features, forgotten.features, now.config.off_diagonal),
        }

    case = cases.load("adversarial")
    cases.assert_agrees(case.only(*compute()), compute, "")


def test_what_the_attacker_says_of_what_it_sees() -> None:
    case = cases.load("adversarial")
    # From the inputs of the case: ours differ in the rounding that sensitivity divides by the noise.
    cases.assert_agrees(
        case.only("attacker_logits"), lambda: {"attacker_logits": scene().attacker(case.tensors["attacker_input"])}, ""
    )


def test_one_step_of_the_attacker_and_one_of_the_model() -> None:
    def compute() -> dict[str, Tensor]:
        now, case = scene(), cases.load("adversarial")
        learn, step = learner_of(now), context().stepper(now.model, rule(case), 1)
        retain = next(tiny_split("retain").batches(len(case.tensors["sensitivity_forget"])))
        with tapped(now.model, heads.classifier(now.model, tiny_split("forget"), "it")) as forward:
            show = partial(observe, now.model, forward, now.config.probe)
            step(
                forget=duel(show, *now.pair, now.attacker, learn, now.config),
                retain=lambda: cross_entropy(forward(retain.inputs)[0], retain.labels),
            )
        ours, theirs = (stepper.history()[0]["loss"] for stepper in (step, learn))
        losses: dict[str, float] = {
            "attacker_loss": theirs["attacker"],
            "retain_loss": ours["retain"],
            "adversarial_loss": adversarial_part(now, ours["forget"]),
        }
        return (
            {f"defender_after.{name}": value for name, value in now.model.state_dict().items()}
            | {f"attacker_after.{name}": value for name, value in now.attacker.state_dict().items()}
            | {name: torch.tensor(loss) for name, loss in losses.items()}
        )

    case = cases.load("adversarial")
    parts = ("defender_after.", "attacker_after.", "attacker_loss", "retain_loss", "adversarial_loss")
    wanted = {name: value for name, value in case.tensors.items() if name.startswith(parts)}
    cases.assert_agrees(replace(case, tensors=without_key_biases(wanted)), lambda: without_key_biases(compute()), "")


def adversarial_part(now: Scene, forget_loss: float) -> float:
    """The adversarial loss of a step, from the weighted sum in its history."""
    alike = float(now.case.tensors["decorrelation_loss"]) * now.config.decorrelation_weight
    return (forget_loss - alike) / now.config.adversarial_weight


def without_key_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The attacker without the biases of its keys: softmax takes no notice of them.

    Their gradient is rounding noise about 0, which Adam's first step divides by its own size.
    """
    biases = {name: value for name, value in state.items() if name.endswith("in_proj_bias")}
    return state | {name: torch.cat([value.chunk(3)[part] for part in (0, 2)]) for name, value in biases.items()}
