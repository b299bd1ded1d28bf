"""The change of the weights is scaled until the accuracy on the forget set is the one wanted."""

import math

import pytest
import torch
from torch import nn

from expunge.core.errors import RequestError
from expunge.data.image_set import make
from expunge.data.unlearning_data import UnlearningData
from expunge.methods.finetune import FinetuneConfig
from expunge.training.fit import fit
from expunge.training.rules import Rule
from expunge.unlearning import presets
from expunge.unlearning.reach import BISECTIONS, HALVINGS, rescale, scale, unseen_accuracy
from tests import problems

CPU = torch.device("cpu")


@pytest.mark.parametrize("crossing", [1e-4, 0.3, 0.999, 1.7, 40.0, 3000.0])
def test_the_factor_is_that_of_the_crossing(crossing: float) -> None:
    asked: list[float] = []

    def at(factor: float) -> float:
        asked.append(factor)
        return 0.5 if factor <= crossing else 0.4

    found = scale(at, 0.45, most=2.0**20)
    assert found == pytest.approx(crossing, rel=2 * 2.0**-BISECTIONS)
    assert (found <= crossing) == (crossing < 1)
    assert len(asked) <= 2 + abs(math.log2(crossing)) + 1 + BISECTIONS


def test_a_change_that_just_suffices_stays_as_it_is() -> None:
    assert scale(lambda factor: 0.0 if factor >= 0.5 else 1.0, 0.0, most=1e6) == 1


@pytest.mark.parametrize(("most", "found"), [(1.0, 1.0), (4.0, 4.0), (5.0, 5.0)])
def test_a_change_that_does_not_suffice_is_extended_as_far_as_allowed(most: float, found: float) -> None:
    assert scale(lambda _: 1.0, 0.5, most) == found


def test_a_change_that_always_goes_too_far_is_left_with_hardly_anything() -> None:
    assert scale(lambda _: 0.0, 0.5, 1.0) < 2.0 ** (1 - HALVINGS)


class Knows(nn.Module):
    """Predicts the first pixel, so that accuracies are known."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()


def images(told: list[int], labels: list[int], first: int) -> object:
    """Images that are taken for ``told``."""
    return make(torch.tensor(told).float().reshape(-1, 1, 1, 1), torch.tensor(labels), first_id=first)


def seen(validation: object) -> UnlearningData:
    """Three examples of class 0, one of class 1 and four of class 2 to forget; none of class 2 is retained."""
    forget = images([0] * 8, [0, 0, 0, 1, 2, 2, 2, 2], 0)
    return UnlearningData(forget, images([0, 1], [0, 1], 50), validation, 3)  # type: ignore[arg-type]


def test_the_accuracy_on_unseen_images_is_by_class_and_zero_for_a_class_that_is_gone() -> None:
    held = images([0, 0, 1, 0, 1, 2], [0, 0, 0, 1, 1, 2], 90)  # 2/3 of class 0, 1/2 of class 1, all of class 2
    found = unseen_accuracy(Knows(), seen(held), CPU)
    assert found == pytest.approx(3 / 8 * 2 / 3 + 1 / 8 * 1 / 2)


@pytest.mark.parametrize("held", [None, images([0], [0], 90)])
def test_without_validation_images_of_a_forgotten_class_there_is_none(held: object) -> None:
    assert unseen_accuracy(Knows(), seen(held), CPU) is None


@pytest.mark.parametrize(
    "method",
    [
        "boundary_shrink:epochs=4,lr=0.5,batch_size=5,reach=1",
        "gradient_ascent:epochs=2,lr=1e-4,batch_size=5,reach=1,extend=1e9",
        "fisher_forgetting:alpha=1e-12,reach=1,extend=1e9",
    ],
)
def test_the_accuracy_on_the_forget_set_is_reached(method: str) -> None:
    """Half of the validation images have a wrong label, so that unseen images are half right; a change back or on of an
    eighth crosses that accuracy."""
    data = problems.data()
    held = data.validation
    assert held is not None
    wrong = torch.where(torch.arange(len(held)) % 2 == 0, (held.labels + 1) % 3, held.labels)
    data = UnlearningData(data.forget, data.retain, held.with_labels(wrong), 3)
    start = fit(
        problems.model(), data.everything(), Rule(lr=0.05), problems.context(), FinetuneConfig(20, batch_size=8)
    )
    before = problems.state(start.eval())
    model, context = problems.run(method, start, data)
    note = context.notes["reach"]
    assert isinstance(note, dict)
    assert 0 < note["factor"] < 1e9
    assert note["factor"] != 1
    after = problems.state(model)

    def at(factor: float) -> float:
        scaled = {name: before[name] + factor * (value - before[name]) for name, value in after.items()}
        model.load_state_dict(scaled | {name: after[name] for name, _ in model.named_buffers()})
        correct = [model(batch.inputs).argmax(1) == batch.labels for batch in data.forget.batches(64)]
        return 100 * float(torch.cat(correct).double().mean())

    assert at(1.0) == pytest.approx(note["reached"])
    assert any(
        (at(1 + further / 128) - note["wanted"]) * (note["reached"] - note["wanted"]) <= 0 for further in range(-16, 17)
    )


def test_statistics_are_not_extended() -> None:
    """A running variance that falls would become negative."""
    model, data = problems.model(), problems.data()
    before = problems.state(model)
    after = {name: value * 0.9 if value.is_floating_point() else value for name, value in before.items()}
    model.load_state_dict(after)
    rescale(model, before, data, -1.0, 32.0, problems.context())  # no accuracy is below it: as far as allowed
    found = model.state_dict()
    for name in dict(model.named_buffers()):
        assert torch.equal(found[name], after[name])
    for name in dict(model.named_parameters()):
        torch.testing.assert_close(found[name], before[name] - 3.2 * before[name])


def test_without_validation_images_a_method_goes_as_far_as_it_goes() -> None:
    data = problems.data()
    bare = UnlearningData(data.forget, data.retain, None, 3)
    text = "random_label:epochs=2,lr=0.5,batch_size=5"
    assert problems.same(problems.unlearned(f"{text},reach=1", on=bare), problems.unlearned(f"{text},reach=none"))


@pytest.mark.parametrize("text", ["scrub:reach=1.5", "scrub:reach=-1", "scrub:extend=0.5"])
def test_ranges(text: str) -> None:
    with pytest.raises(RequestError, match=r"reach|extend"):
        presets.named(text)
