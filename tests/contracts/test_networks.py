"""Every method, pruner, mask, adapter and metric on every family of networks; a new one is tested by being found."""

import dataclasses
import math
from functools import cache

import pytest
import torch
from torch import nn

import expunge
from expunge.core import config, registry, weights
from expunge.core.masks import Mask
from expunge.data.image_set import ImageSet, make
from expunge.data.normalisation import with_normalisation
from expunge.data.unlearning_data import UnlearningData
from expunge.unlearning import presets
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.update_masks import UpdateMask
from tests import problems
from tests.problems import attempt

NETWORKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet": ("resnet20:width=1", (1, 4, 4)),
    "vgg": ("vgg16_bn:width=1", (1, 8, 8)),
    "vit": ("vit_s:width=4,depth=1,patch=2", (1, 4, 4)),
    "swin": ("swin_small_images:width=4,depths=2+1,head_size=2,window=2", (1, 8, 8)),
    "vectors": ("mlp:hidden=6", (6,)),
    "dropout": ("mlp:hidden=6,dropout=0.5", (1, 4, 4)),
}
METHODS = list(dict.fromkeys([*registry.plugins("methods"), *presets.PRESETS]))
QUICK = {
    "epochs": 1,
    "batch_size": 7,
    "linear": True,
    "backbone_is_public": True,
    "repeatable": True,
    "l2": 1e-3,
    "damping": 1.0,
}


def images(count: int, shape: tuple[int, ...], first_id: int) -> ImageSet:
    """Random numbers in [0, 1], of three classes; the number of the class is 1."""
    generator = torch.Generator().manual_seed(first_id)
    inputs, labels = torch.rand(count, *shape, generator=generator), torch.arange(count) % 3
    inputs.flatten(1)[torch.arange(count), labels] = 1.0
    return make(inputs, labels, first_id=first_id)


def data(kind: str) -> UnlearningData:
    shape = NETWORKS[kind][1]
    return UnlearningData(images(5, shape, 0), images(9, shape, 100), images(6, shape, 500), 3)


def network(kind: str) -> nn.Module:
    """The network with input normalisation, which works on vectors too."""
    text, shape = NETWORKS[kind]
    channels = shape[0]
    return with_normalisation(problems.architecture(text, shape, 3, seed=0), (0.5,) * channels, (0.3,) * channels)


def short(name: str) -> Unlearning:
    """One epoch in small batches, and a problem that solvers find easy."""
    wanted = presets.named(name)
    quick = {key: value for key, value in QUICK.items() if key in config.field_names(type(wanted.method))}
    quick |= {"steps": None} if "epochs" in quick else {}
    return dataclasses.replace(wanted, method=dataclasses.replace(wanted.method, **quick))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_a_finite_model_of_the_same_names(name: str, kind: str) -> None:
    model, before = network(kind), problems.state(network(kind))
    after, context = problems.run(short(name), model, data(kind))
    weights.check_same(after.state_dict(), before, name)
    assert problems.finite(after)
    moved = any(not torch.equal(value, before[key]) for key, value in after.state_dict().items())
    assert moved != bool(context.notes.get("unchanged"))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", registry.plugins("pruning"))
def test_a_pruner_gives_a_sparser_mask_or_says_what_it_lacks(name: str, linear: bool, kind: str) -> None:
    plugin = registry.find("pruning", name)
    wanted = plugin.config(rate=0.5, linear=linear)
    model = network(kind).eval()
    mask, refusal = attempt(lambda: plugin.call(model, NETWORKS[kind][1], wanted, problems.context()))
    if mask is None:
        assert "no trainable convolution" in refusal or "no flow reaches the logits" in refusal
        return
    assert isinstance(mask, Mask)
    mask.check(model)
    assert mask.density() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", NETWORKS)
def test_masks_and_adapters_move_what_they_say(kind: str) -> None:
    before, method = problems.weights(network(kind)), presets.named("finetune:epochs=1,lr=0.1").method
    mask = UpdateMask("gradient", fraction=0.3)
    after, context = problems.run(Unlearning(method, mask), network(kind), data(kind))
    allowed = context.update_masks
    assert isinstance(allowed, Mask)
    assert all(torch.equal(w[~allowed[key]], before[key][~allowed[key]]) for key, w in after.named_parameters())
    adapted, _ = problems.run(Unlearning(method, adapters=LowRank(rank=1)), network(kind), data(kind))
    moved = {key for key, weight in adapted.named_parameters() if not torch.equal(weight, before[key])}
    assert moved
    assert all(before[key].ndim > 1 and len(before[key]) > 1 for key in moved)


@cache
def audited(kind: str) -> dict[str, float]:
    """The metrics of a model that has forgotten, beside another that has."""
    sets, model = data(kind), network(kind)
    given = {"forget": sets.forget, "retain": sets.retain}
    tuned, other = (expunge.unlearn(model, **given, method="finetune", epochs=1, seed=seed).model for seed in (0, 1))
    return dict(expunge.evaluate(tuned, **given, test=sets.validation, reference=other, original=model))


@pytest.mark.parametrize("kind", NETWORKS)
def test_metrics_have_the_same_values_and_finite_ones(kind: str) -> None:
    """Those that need no shadow models, triggers, masks or seconds; the others see predictions alone, too."""
    found = audited(kind)
    assert set(found) == set(audited("vectors"))
    assert len({name.partition(".")[0] for name in found}) > len(registry.plugins("metrics")) / 2
    assert all(math.isfinite(value) for value in found.values())
