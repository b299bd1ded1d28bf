"""The backdoor trigger against the golden case."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from expunge.data.image_set import make
from expunge.data.poisoning import poison, stamp, triggered
from expunge.data.poisons.patch import PatchTrigger
from tests.golden import cases


def channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("as_float", [False, True])
def test_the_trigger(as_float: bool) -> None:
    case = cases.load("backdoor_trigger")
    trigger = PatchTrigger(size=case.hyperparameters["size"], margin=case.hyperparameters["margin"])
    images, expected = (channels_first(case.tensors[name]) for name in ("images", "poisoned"))
    if as_float:
        images, expected = images / 255, expected / 255
    data = make(images, torch.zeros(len(images), dtype=torch.int64))
    assert torch.equal(stamp(data, trigger).inputs, expected)


def test_a_poisoned_training_set_and_a_triggered_test_set() -> None:
    case = cases.load("backdoor_trigger")
    trigger = PatchTrigger(size=case.hyperparameters["size"], margin=case.hyperparameters["margin"])
    images, expected = (channels_first(case.tensors[name]) for name in ("images", "poisoned"))
    data = make(images, torch.arange(len(images)))
    config = replace(trigger, share=1.0, target=1)
    got, ids = poison(data, config, num_classes=len(images))
    assert torch.equal(got.inputs, expected)
    assert torch.equal(got.labels, torch.ones(len(images), dtype=torch.int64))
    assert torch.equal(ids, data.ids)
    asked = triggered(data, config)
    assert torch.equal(asked.inputs, expected[data.labels != 1])


def test_the_default_is_the_published_trigger() -> None:
    case = cases.load("backdoor_trigger")
    trigger = PatchTrigger()
    published = {"size": trigger.size, "margin": trigger.margin}
    if published != dict(case.hyperparameters):
        pytest.skip("another family of cases has another trigger")
    data = make(channels_first(case.tensors["images"]), torch.zeros(len(case.tensors["images"]), dtype=torch.int64))
    assert torch.equal(stamp(data, trigger).inputs, channels_first(case.tensors["poisoned"]))
