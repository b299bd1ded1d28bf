"""Pruners, AO-sparse and l1-sparse: exact sparsity, nested masks, conservation, and brute force."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from expunge.core import masks, registry
from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask
from expunge.methods import ao_sparse, l1_sparse
from expunge.methods.ao_sparse import AoSparseConfig
from expunge.methods.l1_sparse import L1SparseConfig
from expunge.pruning import synflow
from expunge.pruning.iterative_magnitude import IterativeMagnitudeConfig
from expunge.pruning.magnitude import MagnitudeConfig
from expunge.pruning.random import RandomConfig
from expunge.pruning.synflow import SynflowConfig
from expunge.training import sparsity as prunable
from expunge.training.context import Context
from expunge.training.losses import cross_entropy
from expunge.training.rules import PerRole, Rule
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning, unlearn
from tests import problems

SHAPE = (1, 4, 4)
RATES = st.floats(0, 0.999)


def network(seed: int = 0, widths: tuple[int, int] = (3, 5), classes: int = 3) -> nn.Module:
    """Two convolutions and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = nn.Conv2d(1, widths[0], 3, padding=1), nn.Conv2d(widths[0], widths[1], 1)
        pooled = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[1], classes)]
        return nn.Sequential(first, nn.ReLU(), second, *pooled)


def prune(config: object, model: nn.Module, before: Mask | None = None, seed: int = 0) -> Mask:
    plugin = registry.of_config("pruning", config)
    return plugin.call(model, SHAPE, config, problems.context(seed, sparsity=before))


def left(mask: Mask, *names: str) -> int:
    return sum(int(mask[name].sum()) for name in names or mask)


def within(inner: Mask, outer: Mask) -> bool:
    return all(not bool((inner[name] & ~outer[name]).any()) for name in outer)


# Sparsity


@pytest.mark.parametrize("kind", [MagnitudeConfig, RandomConfig, IterativeMagnitudeConfig])
@given(rate=RATES, widths=st.tuples(st.integers(1, 6), st.integers(1, 6)), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_sparsity_is_what_was_asked_for_to_one_weight(
    kind: type, rate: float, widths: tuple[int, int], seed: int
) -> None:
    model = network(seed, widths)
    sizes = [9 * widths[0], widths[0] * widths[1]]
    mask = prune(kind(rate=rate), model)
    assert list(mask) == ["0.weight", "2.weight"]
    assert [tensor.numel() for tensor in mask.values()] == sizes
    assert left(mask) == sum(sizes) - round(rate * sum(sizes))


@given(
    rate=st.floats(0, 0.7),
    widths=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    iterations=st.integers(1, 12),
    as_released=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_sparsity_of_synflow(rate: float, widths: tuple[int, int], iterations: int, as_released: bool) -> None:
    total = 9 * widths[0] + widths[0] * widths[1]
    mask = prune(SynflowConfig(rate, iterations, as_released=as_released), network(1, widths))
    if as_released:
        assert left(mask) == total - sum(prunable.portions(total, rate, iterations, as_released=True))
    else:
        assert left(mask) == total - round(rate * total)


@given(rate=RATES, total=st.integers(0, 5000), steps=st.integers(1, 120))
@settings(max_examples=200, deadline=None)
def test_portions_add_up_to_the_rate(rate: float, total: int, steps: int) -> None:
    found = list(prunable.portions(total, rate, steps))
    assert len(found) == steps
    assert min(found) >= 0
    assert sum(found) == round(rate * total)
    after = total
    for index, portion in enumerate(found, start=1):
        after -= portion
        assert abs(after - total * (1 - rate) ** (index / steps)) <= 0.5 + 1e-6


def test_released_portions_miss_a_small_rate() -> None:
    """1 - 0.9^(1/100) of 1368 is 1.4, of which 1 is pruned each time."""
    assert sum(prunable.portions(1368, 0.1, 100, as_released=True)) == 100
    assert sum(prunable.portions(1368, 0.1, 100)) == 137


@pytest.mark.parametrize("kind", [MagnitudeConfig, RandomConfig, IterativeMagnitudeConfig])
@given(rate=RATES, widths=st.tuples(st.integers(1, 6), st.integers(1, 6)))
@settings(max_examples=25, deadline=None)
def test_per_layer_every_layer_has_the_rate(kind: type, rate: float, widths: tuple[int, int]) -> None:
    mask = prune(kind(rate=rate, scope="layer", linear=True), network(0, widths))
    assert len(mask) == 3
    assert all(int(kept.sum()) == kept.numel() - round(rate * kept.numel()) for kept in mask.values())


@pytest.mark.parametrize(
    "config",
    [
        MagnitudeConfig(0.3),
        MagnitudeConfig(0.3, "layer"),
        IterativeMagnitudeConfig(0.3),
        RandomConfig(0.3),
        RandomConfig(0.3, "layer"),
        SynflowConfig(0.3, iterations=3),
    ],
    ids=str,
)
def test_rounds_are_nested(config: object) -> None:
    model = network()
    kept = prune(dataclasses.replace(config, rate=0.0), model)
    assert kept.density() == 1
    for number in range(4):
        names = [[name] for name in kept] if getattr(config, "scope", "global") == "layer" else [list(kept)]
        after = prune(config, model, kept, seed=number)
        assert within(after, kept)
        for group in names:
            assert left(after, *group) == left(kept, *group) - round(0.3 * left(kept, *group))
        kept = after


# Which weights


@given(rate=RATES, seed=st.integers(0, 99), before=st.floats(0, 0.9))
@settings(max_examples=50, deadline=None)
def test_magnitude_takes_the_smallest_and_of_equal_ones_the_first(rate: float, seed: int, before: float) -> None:
    model = network(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((8 * weight).round() / 8)  # many are equal
    start = prune(RandomConfig(before), model, seed=seed)
    mask = prune(MagnitudeConfig(rate), model, start)
    entries = [
        (abs(value), index, kept)
        for index, (value, kept) in enumerate(
            (value, kept)
            for name in start
            for value, kept in zip(
                model.get_parameter(name).flatten().tolist(), start[name].flatten().tolist(), strict=True
            )
        )
    ]
    ranked = sorted((magnitude, index) for magnitude, index, kept in entries if kept)
    pruned = {index for _, index in ranked[: round(rate * len(ranked))]}
    wanted = [kept and index not in pruned for _, index, kept in entries]
    assert torch.cat([tensor.flatten() for tensor in mask.values()]).tolist() == wanted


def test_what_is_pruned_does_not_come_back_however_large() -> None:
    model = network()
    before = prune(MagnitudeConfig(0.5), model)
    with torch.no_grad():
        for name, kept in before.items():
            model.get_parameter(name).masked_fill_(~kept, 100.0)
    assert within(prune(MagnitudeConfig(0.2), model, before), before)
    assert within(prune(SynflowConfig(0.2, iterations=2), model, before), before)


@pytest.mark.parametrize("config", [MagnitudeConfig(0.5), RandomConfig(0.5), SynflowConfig(0.5, iterations=2)], ids=str)
def test_masks_of_other_tensors_stay(config: object) -> None:
    model = network()
    before = prune(MagnitudeConfig(0.4, linear=True), model)
    after = prune(config, model, before)
    assert list(after) == list(before)
    assert torch.equal(after["6.weight"], before["6.weight"])
    start = left(before, "0.weight", "2.weight")
    assert left(after, "0.weight", "2.weight") == start - round(start / 2)


def test_random_pruning_takes_each_weight_as_often_and_repeats_by_its_seed() -> None:
    model, config = network(), RandomConfig(0.3)
    drawn = [prune(config, model, seed=seed) for seed in range(400)]
    counts = torch.stack([torch.cat([kept.flatten() for kept in mask.values()]) for mask in drawn]).sum(0)
    total = counts.numel()
    share = 1 - round(0.3 * total) / total
    assert float(counts.double().mean()) == pytest.approx(400 * share)
    assert float((counts - 400 * share).abs().max()) < 5 * math.sqrt(400 * share * (1 - share))
    assert all(torch.equal(drawn[7][name], kept) for name, kept in prune(config, model, seed=7).items())


def test_linear_layers_and_frozen_weights() -> None:
    model = network()
    assert list(prune(MagnitudeConfig(0.5, linear=True), model)) == ["0.weight", "2.weight", "6.weight"]
    model.get_parameter("0.weight").requires_grad_(False)
    assert list(prune(MagnitudeConfig(0.5), model)) == ["2.weight"]
    assert list(prune(SynflowConfig(0.5, iterations=1), model)) == ["2.weight"]


@pytest.mark.parametrize("config", [kind() for kind in (MagnitudeConfig, IterativeMagnitudeConfig, RandomConfig)])
def test_every_pruner_gives_masks_for_its_model(config: object) -> None:
    model = problems.model()
    prune(config, model).check(model)


def configs(**changes: object) -> list[object]:
    kinds = [plugin.config for plugin in registry.plugins("pruning").values()]
    return [dataclasses.replace(kind(), **changes) for kind in kinds]


def test_a_model_without_convolutions_is_refused_with_the_cure() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    for config in configs():
        with pytest.raises(RequestError, match=r"no trainable convolution.*linear=true"):
            prune(config, flat)
    for config in configs(linear=True, rate=0.5):
        assert left(prune(config, flat)) == 24
        with pytest.raises(RequestError, match="no trainable convolution and no trainable linear"):
            prune(config, nn.Flatten())


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_rates_outside_their_range_are_named(rate: float) -> None:
    for kind in [plugin.config for plugin in registry.plugins("pruning").values()] + [AoSparseConfig]:
        with pytest.raises(RequestError, match="rate must be"):
            kind(rate=rate)


def test_other_bad_values_are_named() -> None:
    for kind, field, value in [
        (MagnitudeConfig, "scope", "row"),
        (RandomConfig, "scope", ""),
        (IterativeMagnitudeConfig, "rounds", 0),
        (SynflowConfig, "iterations", 0),
        (SynflowConfig, "batch_norm", "none"),
        (AoSparseConfig, "interval", 0),
        (L1SparseConfig, "threshold", -1.0),
    ]:
        with pytest.raises(RequestError, match=field):
            kind(**{field: value})


def test_weights_that_are_not_finite_cannot_be_ranked() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.weight")[0] = float("nan")
    for config in (MagnitudeConfig(), SynflowConfig(iterations=1)):
        with pytest.raises(RequestError, match="not finite"):
            prune(config, model)


# SynFlow

SMALL = (3, 8, 8)


def flows(model: nn.Module, shape: tuple[int, ...], batch_norm: str = "absolute") -> tuple[dict[str, float], float]:
    """The sum of the scores of each convolution, and the flow through all: the sum of logits without the biases."""
    kept = masks.over(None, prunable.weights(model, linear=False))
    copied = synflow.positive(model, kept, batch_norm)
    sums = {name: float(score.sum()) for name, score in synflow.scores(copied, kept, shape).items()}
    with torch.no_grad():
        total = copied(torch.ones(1, *shape, dtype=torch.float64)).sum() - copied.get_parameter("fc.bias").sum()
    return sums, float(total)


def assert_conserved(sums: dict[str, float], total: float) -> None:
    """What a stem or a block lets through together is the whole flow; what a body takes in, it gives out."""
    stems = [value for name, value in sums.items() if name.startswith("stem")]
    assert stems == pytest.approx([total])
    blocks = {name.split(".body")[0] for name in sums if ".body" in name}
    for block in blocks:
        body = [value for name, value in sums.items() if name.startswith(f"{block}.body")]
        assert body == pytest.approx([body[0]] * len(body))
        shortcut = [value for name, value in sums.items() if name.startswith(f"{block}.shortcut")]
        assert body[0] < total
        if shortcut:
            assert body[0] + shortcut[0] == pytest.approx(total)


@pytest.mark.parametrize("name", ["resnet18:width=4", "resnet20:width=4", "resnet50:width=4"])
def test_synflow_conserves_flow_at_initialisation(name: str) -> None:
    assert_conserved(*flows(problems.architecture(name, SMALL, seed=0), SMALL))


def test_without_batch_normalisation_a_trained_model_conserves_flow_too() -> None:
    model = problems.architecture("resnet18:width=4", SMALL, seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -1, 1)
            nn.init.uniform_(module.bias, -1, 1)
    with pytest.raises(AssertionError):
        assert_conserved(*flows(model, SMALL))
    assert_conserved(*flows(model, SMALL, "identity"))


def test_scores_of_synflow_are_sums_over_paths() -> None:
    """Three layers of 1x1 convolutions on one pixel: R is the sum over paths of products, enumerated here."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(4, 2, bias=False),
    )  # fmt: skip
    first, second, last = (weight.detach().double().abs().flatten(1) for weight in model.parameters())
    through = [torch.zeros_like(first), torch.zeros_like(second)]
    for i in range(2):
        for j in range(3):
            for k in range(4):
                for c in range(2):
                    path = first[j, i] * second[k, j] * last[c, k]
                    through[0][j, i] += path
                    through[1][k, j] += path
    kept = masks.over(None, prunable.weights(model, linear=False))
    found = synflow.scores(synflow.positive(model, kept, "absolute"), kept, (2, 1, 1))
    for score, wanted in zip(found.values(), through, strict=True):
        torch.testing.assert_close(score.flatten(1), wanted)


@pytest.mark.parametrize("name", ["resnet20:width=8", pytest.param("resnet18:width=8", marks=pytest.mark.slow)])
def test_synflow_empties_no_layer_at_99_percent(name: str) -> None:
    """Of images of 32 x 32: where the last stage sees a single pixel, most of its weights see padding alone."""
    model = problems.architecture(name, seed=0)
    total = sum(weight.numel() for weight in prunable.weights(model, linear=False).values())
    mask = synflow.prune(model, (3, 32, 32), SynflowConfig(0.99), problems.context())
    assert left(mask) == total - round(0.99 * total)
    assert min(int(kept.sum()) for kept in mask.values()) > 0


def test_synflow_leaves_the_model_as_it_is_and_takes_one_image_per_iteration() -> None:
    model = problems.architecture("resnet18:width=4", SMALL, seed=0).train()
    frozen = model.get_submodule("stem").eval()
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    before = problems.state(model)
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    seen: list[Tensor] = []
    backward: list[object] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]) or None)
    real = torch.autograd.grad
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", lambda *args, **more: backward.append(0) or real(*args, **more))
        synflow.prune(model, (3, 8, 8), SynflowConfig(0.5, iterations=7), problems.context())
    assert len(seen) == len(backward) == 7
    assert all(torch.equal(image, torch.ones(1, 3, 8, 8, dtype=torch.float64)) for image in seen)
    assert model.training
    assert not frozen.training
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    for name, weight in model.named_parameters():
        assert weight.requires_grad
        assert torch.equal(weight.grad, gradients[name])


def test_many_iterations_of_synflow_rank_what_is_left_anew() -> None:
    """Each iteration is one pruning by the scores under the mask of the last."""
    model = network()
    total = sum(weight.numel() for weight in prunable.weights(model, linear=False).values())
    mask: Mask | None = None
    for portion in prunable.portions(total, 0.8, 5):
        kept = masks.over(mask, prunable.weights(model, linear=False))
        found = synflow.scores(synflow.positive(model, kept, "absolute"), kept, SHAPE)
        flat = sorted((float(s), n, i) for n in kept for i, s in enumerate(found[n].flatten()) if kept[n].flatten()[i])
        after = {name: tensor.clone() for name, tensor in kept.items()}
        for _, name, index in flat[:portion]:
            after[name].view(-1)[index] = False
        mask = Mask(after)
    got = prune(SynflowConfig(0.8, iterations=5), model)
    assert all(torch.equal(got[name], kept) for name, kept in mask.items())


def test_synflow_refuses_to_rank_without_flow() -> None:
    model = problems.model()
    nn.init.constant_(model[1].running_mean, 100.0)
    with pytest.raises(RequestError, match="batch_norm=identity"):
        prune(SynflowConfig(0.5, iterations=2), model)
    assert left(prune(SynflowConfig(0.5, iterations=2, batch_norm="identity"), model)) == 18


# Steps under a mask


RULES = {
    "sgd": Rule(lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": Rule(lr=0.05, nesterov=True, clip=1.0),
    "adamw": Rule(optimizer="adamw", lr=0.01, weight_decay=0.1),
    "lion": Rule(optimizer="lion", lr=0.003, beta2=0.99, weight_decay=0.1),
    "sam": Rule(lr=0.05, rho=0.1),
    "asam": Rule(optimizer="adamw", lr=0.01, rho=0.5, adaptive=True, sharpness="max", lamb=0.5),
    "dual": PerRole(Rule(optimizer="adamw", lr=0.001), Rule(lr=0.05)),
    "first": PerRole(Rule(optimizer="adamw", lr=0.001), Rule(lr=0.05), share="first"),
    "second": PerRole(Rule(optimizer="adamw", lr=1e-3), Rule(optimizer="adamw", lr=0.01), share="second"),
    "both": PerRole(Rule(optimizer="lion", lr=1e-3), Rule(optimizer="lion", lr=1e-3), share="both"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_pruned_weight_is_exactly_zero_after_100_steps(name: str) -> None:
    model = network()
    sparsity = prune(MagnitudeConfig(0.6, linear=True), model)
    context = problems.context(sparsity=sparsity)
    before = problems.weights(model)
    forget, retain = next(problems.images(6, seed=1).batches(6)), next(problems.images(12, seed=2).batches(12))
    step = context.stepper(model.train(), RULES[name], 100)
    for number in range(100):
        if number == 50:
            context.sparsity = prune(MagnitudeConfig(0.3, linear=True), model, sparsity)
            step.sparsify(context.sparsity)
        step(
            forget=lambda: -0.1 * cross_entropy(model(forget.inputs), forget.labels),
            retain=lambda: cross_entropy(model(retain.inputs), retain.labels),
        )
    for key, weight in model.named_parameters():
        kept = context.sparsity.get(key, torch.ones_like(weight, dtype=torch.bool))
        assert bool((weight[~kept] == 0).all())
        assert bool((weight[kept] != before[key][kept]).any())
        assert int((weight[kept] == 0).sum()) == 0


# AO-sparse


def alternate(
    config: AoSparseConfig, seed: int = 0, model: nn.Module | None = None, **more: object
) -> tuple[nn.Module, Context]:
    model, context = model or problems.model(), problems.context(seed, **more)
    ao_sparse.unlearn(model, problems.data(), config, context)
    return model, context


def without_dropout() -> nn.Sequential:
    made = problems.model()
    made[4].p = 0.0
    return made


def zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())


@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("epochs", range(1, 8))
def test_alternating_reaches_the_rate_for_every_number_of_epochs(epochs: int, interval: int) -> None:
    config = AoSparseConfig(epochs=epochs, rate=0.7, interval=interval, batch_size=10)
    model, context = alternate(config)
    assert zeros(model.get_parameter("0.weight")) == round(0.7 * 36)
    assert list(context.sparsity) == ["0.weight"]
    assert context.notes["sparsity"] == pytest.approx(round(0.7 * 36) / 36)
    assert len(config.portions(36, epochs)) == math.ceil(epochs / interval)
    assert list(config.portions(36, epochs)) == list(range(0, epochs, interval))


@pytest.mark.parametrize("epochs", range(1, 8))
def test_as_released_an_odd_number_of_epochs_misses_a_pruning(epochs: int) -> None:
    found = AoSparseConfig(rate=0.95, as_released=True).portions(10**6, epochs)
    assert list(found) == [epoch for epoch in range(epochs) if (epochs - epoch) % 2 == 0]
    events = (epochs - 1) // 2 + 1
    assert sum(found.values()) / 1e6 == pytest.approx(1 - 0.05 ** (len(found) / events), abs=1e-5)
    published = {5: 0.864, 7: 0.894}
    if epochs in published:
        assert sum(found.values()) / 1e6 == pytest.approx(published[epochs], abs=5e-4)


@pytest.mark.parametrize("as_released", [True, False])
@pytest.mark.parametrize("epochs", [2, 4, 6])
def test_alternating_is_what_torch_gives(epochs: int, as_released: bool) -> None:
    """The released procedure in the terms of ``torch.nn.utils.prune``; only it ranks the weights of a step ago."""

    rule = Rule(lr=0.1, momentum=0.9, weight_decay=0.01)
    config = AoSparseConfig(epochs=epochs, rate=0.8, batch_size=7, rule=rule, as_released=as_released)
    ours, _ = alternate(config, seed=5, model=without_dropout())
    theirs, generator = without_dropout().train(), torch.Generator().manual_seed(5)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for epoch in range(epochs):
        if (epochs - epoch) % 2 == 0:
            if epoch and not as_released:
                theirs[0].weight = theirs[0].weight_orig * theirs[0].weight_mask
            share = 1 - 0.2 ** (1 / (epochs // 2))
            torch_prune.global_unstructured(
                [(theirs[0], "weight")], pruning_method=torch_prune.L1Unstructured, amount=share
            )
        for batch in problems.data().retain.batches(7, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(batch.inputs), batch.labels).backward()
            optimizer.step()
    expected = dict(theirs.state_dict())
    expected["0.weight"] = expected.pop("0.weight_orig") * expected.pop("0.weight_mask")
    got = ours.state_dict()
    assert torch.equal(got["0.weight"] == 0, expected["0.weight"] == 0)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6)


def test_alternating_goes_on_from_a_sparse_model() -> None:
    """Half of the weights is left: 0.5 of those go too, ranked by what they are under the mask."""
    model = network()
    before = prune(MagnitudeConfig(0.5, linear=True), model)
    with torch.no_grad():
        for name, kept in before.items():
            model.get_parameter(name).masked_fill_(~kept, 100.0)  # stale values, as in a checkpoint with hooks
    config = AoSparseConfig(epochs=3, rate=0.5, batch_size=10)
    after, context = alternate(config, model=model, sparsity=before)
    assert within(context.sparsity, before)
    assert torch.equal(context.sparsity["6.weight"], before["6.weight"])
    convolutions = ("0.weight", "2.weight")
    start = left(before, *convolutions)
    assert left(context.sparsity, *convolutions) == start - round(0.5 * start)
    for name, kept in context.sparsity.items():
        assert torch.equal(after.get_parameter(name) == 0, ~kept)
    total = sum(before[name].numel() for name in convolutions)
    assert context.notes["sparsity"] == pytest.approx(1 - left(context.sparsity, *convolutions) / total)


def test_alternating_prunes_no_weight_that_an_update_mask_freezes() -> None:
    model = problems.model()
    moving = torch.arange(36).view(4, 1, 3, 3) % 2 == 0
    first = model.get_parameter("0.weight").detach().clone()
    masks = {"retain": Mask({"0.weight": moving}), "forget": Mask({"0.weight": ~moving})}
    for update_masks in (masks["retain"], masks):
        after, _ = alternate(AoSparseConfig(epochs=3, rate=0.5, batch_size=10), update_masks=update_masks)
        weight = after.get_parameter("0.weight")
        assert torch.equal(weight[~moving], first[~moving])
        assert zeros(weight[moving]) == 9
    after, _ = alternate(AoSparseConfig(epochs=1, linear=True), update_masks=Mask({"0.weight": moving & False}))
    assert zeros(after.get_parameter("0.weight")) == 0
    assert zeros(after.get_parameter("5.weight")) == round(0.95 * 192)


def test_alternating_with_no_epoch_or_rate_prunes_nothing() -> None:
    model, context = alternate(AoSparseConfig(epochs=0))
    assert context.sparsity is None
    assert context.notes["sparsity"] == 0
    model, context = alternate(AoSparseConfig(epochs=2, rate=0.0))
    assert zeros(model.get_parameter("0.weight")) == 0
    assert context.notes["sparsity"] == 0


def test_alternating_says_where_the_loss_was_lost_rather_than_that_weights_cannot_be_ranked() -> None:
    with pytest.raises(RunError, match=r"the retain loss became (nan|inf)"):
        alternate(AoSparseConfig(epochs=4, batch_size=5, rule=Rule(lr=1e30)))


@pytest.mark.parametrize("method", [AoSparseConfig(epochs=1), L1SparseConfig(epochs=1, prune=True)], ids=["ao", "l1"])
def test_what_has_nothing_to_prune_says_so_before_any_step(method: object) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    context = problems.context()
    with pytest.raises(RequestError, match=r"linear=true"):
        unlearn(flat, problems.data(), Unlearning(method), context)
    assert not context.steppers
    with pytest.raises(RequestError, match="adapters"):
        unlearn(problems.model(), problems.data(), Unlearning(method, adapters=LowRank(rank=1)), problems.context())


# l1-sparse


def test_l1_sparse_reports_the_share_of_small_weights() -> None:
    model, context = problems.model(), problems.context()
    config = L1SparseConfig(epochs=2, alpha=1e-3, threshold=0.1, batch_size=10)
    l1_sparse.unlearn(model, problems.data(), config, context)
    whole = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    notes = {
        "threshold": 0.1,
        "all": float((whole.abs() < 0.1).double().mean()),
        "prunable": float((model.get_parameter("0.weight").abs() < 0.1).double().mean()),
    }
    assert context.notes["below_threshold"] == pytest.approx(notes)
    assert 0 < notes["prunable"] < 1
    assert context.sparsity is None
    assert zeros(whole) == 0


def test_l1_sparse_can_prune_the_small_weights() -> None:
    dense, pruned = without_dropout(), without_dropout()
    config = L1SparseConfig(epochs=2, alpha=1e-3, threshold=0.1, batch_size=10, linear=True)
    l1_sparse.unlearn(dense, problems.data(), config, problems.context())
    context = problems.context(sparsity=problems.full(pruned))
    l1_sparse.unlearn(pruned, problems.data(), dataclasses.replace(config, prune=True), context)
    small = 0
    for name, weight in dense.named_parameters():
        kept = (weight.abs() >= 0.1) | torch.tensor(name not in ("0.weight", "5.weight"))
        small += int((~kept).sum())
        assert torch.equal(context.sparsity[name], kept)
        assert torch.equal(pruned.get_parameter(name), weight * kept)
    assert context.notes["sparsity"] == pytest.approx(small / (36 + 192))
    assert context.notes["sparsity"] == pytest.approx(context.notes["below_threshold"]["prunable"])
    moving = torch.arange(36).view(4, 1, 3, 3) % 2 == 0
    model, before = problems.model(), problems.model().get_parameter("0.weight")
    masked = problems.context(update_masks=Mask({"0.weight": moving}))
    l1_sparse.unlearn(model, problems.data(), dataclasses.replace(config, prune=True), masked)
    assert torch.equal(model.get_parameter("0.weight")[~moving], before[~moving])
    assert zeros(model.get_parameter("0.weight")[moving]) > 0
