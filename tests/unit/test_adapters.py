"""Low-rank adapters: what they can reach, what they leave alone, and that nothing of them remains."""

import pytest
import torch
from torch import nn

from expunge.core.errors import RequestError
from expunge.core.masks import Mask, largest
from expunge.core.weights import count
from expunge.data.normalisation import with_normalisation
from expunge.unlearning import presets
from expunge.unlearning.adapters import LowRank, adapted
from tests import problems


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("text", ["finetune:epochs=2", "scrub:epochs=1", "random_label:epochs=1"])
def test_the_change_has_the_rank_and_leaves_vectors_alone(text: str, rank: int) -> None:
    before = problems.weights(problems.model())
    model, _ = problems.run(f"{text},adapters.rank={rank},lr=0.1")
    assert list(model.state_dict()) == list(problems.model().state_dict())
    for name, weight in model.named_parameters():
        assert weight.requires_grad
        change = weight.detach() - before[name]
        if weight.ndim == 1:
            assert not change.any()
        else:
            found = int(torch.linalg.matrix_rank(change.flatten(1).double(), rtol=1e-4))
            assert 0 < found <= rank


def test_vectors_are_trained_on_request() -> None:
    before = problems.weights(problems.model())
    model, _ = problems.run("finetune:epochs=1,adapters.vectors=true,lr=0.1")
    assert all(bool((weight != before[name]).any()) for name, weight in model.named_parameters())


def test_a_step_of_zero_is_the_identity() -> None:
    before = problems.weights(problems.model())
    model, _ = problems.run("finetune:epochs=1,lr=0,adapters.rank=2")
    assert problems.same(problems.weights(model), before)


def test_full_rank_follows_gradient_descent_on_the_product() -> None:
    # One plain step from U = 0 moves W by -lr s^2 (dL/dW) V^T V: by hand.
    model, data = problems.model(batch_norm=False).eval(), problems.data(retain=6)
    plan = LowRank(rank=3, scale=0.5)
    inputs, labels = data.retain.inputs.float() / 255, data.retain.labels
    before, expected = problems.weights(model), {}
    nn.functional.cross_entropy(model(inputs), labels).backward()
    slopes = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    context = problems.context()
    with adapted(model, plan, context):
        for name, module in model.named_modules():
            if hasattr(module, "parametrizations"):
                (delta,) = module.parametrizations.weight
                key = name.removesuffix(".parametrizations.weight") + ".weight"
                down = delta.down.detach()
                slope = slopes[key].flatten(1)
                expected[key] = before[key] - 0.1 * plan.scale**2 * (slope @ down.T @ down).view_as(before[key])
        optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=0.1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), value, rtol=1e-4, atol=1e-6)


def adapters_of(model: nn.Module) -> dict[str, nn.Module]:
    """The low-rank changes by the name of the layer they are in."""
    return {
        name: next(iter(next(iter(module.parametrizations.values()))))
        for name, module in model.named_modules()
        if hasattr(module, "parametrizations")
    }


@pytest.mark.parametrize("text", ["resnet18:width=2", "vit_s:width=8,depth=1", "swin_small_images:width=4,depths=2+2"])
def test_merged_weights_give_the_outputs_of_the_adapted_ones_and_base_weights_do_not_move(text: str) -> None:
    model = problems.architecture(text, (3, 16, 16), 3, seed=0).eval()
    before, x = problems.weights(model), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with adapted(model, LowRank(2, 0.5), problems.context()):
        deltas = adapters_of(model)
        with torch.no_grad():
            for delta in deltas.values():
                delta.up.normal_(std=0.1)
        expected = model(x)
        bases = {name: module.original for name, module in model.named_modules() if hasattr(module, "original")}
        assert all(torch.equal(base, before[name.replace("parametrizations.", "")]) for name, base in bases.items())
    torch.testing.assert_close(model(x), expected)
    changed = {name for name, weight in problems.weights(model).items() if not torch.equal(weight, before[name])}
    assert changed == {name for name, weight in before.items() if weight.ndim > 1 and len(weight) > 1}
    assert any(before[name].ndim == 4 for name in changed) == (not text.startswith("swin")), "convolutions too"


def test_layers_by_pattern_have_ranks_of_their_own() -> None:
    model = problems.architecture("resnet18:width=4", (3, 8, 8), 10, seed=0)
    plan = LowRank(rank=3, layers=("fc:2", "stages.0:1", "stages.1.body.*"))
    with adapted(model, plan, problems.context()):
        ranks = {name: delta.up.shape[1] for name, delta in adapters_of(model).items()}
        trained = {name.partition(".parametrizations")[0] for name, w in model.named_parameters() if w.requires_grad}
    expected = {"fc": 2, **{f"stages.0.body.{at}": 1 for at in (0, 3)}, **{f"stages.1.body.{at}": 3 for at in (0, 3)}}
    assert ranks == expected
    assert trained == set(expected), "vectors and all other layers are frozen"
    with adapted(model, LowRank(layers=("fc",), vectors=True), problems.context()):
        assert next(name for name, w in model.named_parameters() if w.requires_grad) == "fc.bias"
        assert len([w for w in model.parameters() if w.requires_grad]) == 3
    wrong = r"no matrix has the name head; there are: stem\.0, stages\.0\.body\.0"
    with pytest.raises(RequestError, match=wrong), adapted(model, LowRank(layers=("head",)), problems.context()):
        pass


def test_layers_in_text_and_within_an_input_normalisation() -> None:
    wanted = presets.named("finetune:epochs=1,lr=0.1,adapters.layers=fc:2+stages.7.*,adapters.rank=1")
    assert wanted.adapters == LowRank(rank=1, layers=("fc:2", "stages.7.*"))
    assert presets.named("finetune:adapters=(layers=fc+stages.*,rank=4)").adapters == LowRank(
        4, layers=("fc", "stages.*")
    )
    network = problems.architecture("resnet20:width=2", (1, 4, 4), 3, seed=0)
    model = with_normalisation(network, (0.5,), (0.5,))
    before = problems.weights(model)
    after, _ = problems.run(wanted, model)
    moved = {name for name, weight in after.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.split(".")[1] for name in moved} == {"fc", "stages"}
    assert all(name.startswith(("network.fc", "network.stages.7")) for name in moved)
    for bad in ("fc:0", "fc:x", "fc:-1"):
        with pytest.raises(RequestError, match="must be a number of at least 1"):
            LowRank(layers=(bad,))


def test_few_weights_are_trained() -> None:
    model = problems.model()
    whole = count(model)
    with adapted(model, LowRank(1), problems.context()):
        assert 0 < count(model) < 0.4 * whole
    assert count(model) == whole


def test_weights_that_were_frozen_stay_frozen() -> None:
    model = problems.model()
    model[0].weight.requires_grad_(False)
    before = problems.weights(model)
    after, _ = problems.run("finetune:epochs=1,adapters.rank=2,lr=0.1", model)
    assert torch.equal(dict(after.named_parameters())["0.weight"], before["0.weight"])
    assert not dict(after.named_parameters())["0.weight"].requires_grad


def test_masks_and_sparsity_hold_for_the_merged_weights() -> None:
    model = problems.model()
    before = problems.weights(model)
    mask = largest({name: weight.abs() for name, weight in before.items()}, 0.5)
    after, _ = problems.run("finetune:epochs=1,adapters.rank=2,adapters.vectors=true,lr=0.1", update_masks=mask)
    for name, weight in after.named_parameters():
        assert torch.equal(weight[~mask[name]], before[name][~mask[name]])
    assert any(bool((weight != before[name]).any()) for name, weight in after.named_parameters())
    sparse = problems.model()
    with torch.no_grad():
        for name, weight in sparse.named_parameters():
            weight.masked_fill_(~mask[name], 0.0)
    after, context = problems.run("finetune:epochs=1,adapters.rank=2,lr=0.1", sparse, sparsity=mask)
    assert all(bool((weight[~mask[name]] == 0).all()) for name, weight in after.named_parameters())
    assert isinstance(context.sparsity, Mask)
    assert set(context.sparsity) == set(mask)


def test_what_adapters_cannot_do_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot be drawn anew"):
        problems.run("retrain:epochs=1,adapters.rank=2")
    with pytest.raises(RequestError, match="an update mask for each role"):
        problems.run("sfron:epochs=1,adapters.rank=2")
    with pytest.raises(RequestError, match="rank must be a finite number, at least 1"):
        presets.named("finetune:adapters.rank=0")
    frozen = problems.model().requires_grad_(False)
    with pytest.raises(RequestError, match="no trainable matrix"):
        problems.run("finetune:adapters.rank=2", frozen)


def test_the_model_is_whole_again_after_an_error() -> None:
    model = problems.model()
    names = list(model.state_dict())
    with pytest.raises(ZeroDivisionError), adapted(model, LowRank(), problems.context()):
        raise ZeroDivisionError
    assert list(model.state_dict()) == names
    assert all(weight.requires_grad for weight in model.parameters())
