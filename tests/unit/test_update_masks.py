"""Which weights may move: scores against autograd, selections against sorting, files in bits."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import masks, weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.data.image_set import ImageSet
from expunge.unlearning import presets, update_masks
from expunge.unlearning.unlearn import Unlearning, unlearn
from expunge.unlearning.update_masks import UpdateMask
from tests import problems


def flat(scores: dict[str, Tensor]) -> Tensor:
    return torch.cat([score.flatten() for score in scores.values()])


def scores(config: UpdateMask, seed: int = 0) -> dict[str, Tensor]:
    return update_masks.scores(
        problems.model(), problems.data(), config.score, config.batch_size, torch.Generator().manual_seed(seed)
    )


def gradients(images: ImageSet, size: int) -> list[dict[str, Tensor]]:
    """The gradient of each batch's mean loss, in evaluation mode."""
    model = problems.model().eval()
    found = []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        loss = functional.cross_entropy(model(images.inputs[part].float() / 255), images.labels[part])
        model.zero_grad()
        loss.backward()
        found.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    return found


def test_scores_are_their_formulas() -> None:
    data, size = problems.data(), 4
    forget, retain = gradients(data.forget, size), gradients(data.retain, size)

    def mean(batches: list[dict[str, Tensor]], power: int, name: str) -> Tensor:
        return torch.stack([batch[name] ** power for batch in batches]).mean(0)

    for name in forget[0]:
        expected = {
            "gradient": torch.stack([batch[name] for batch in forget]).sum(0).abs(),
            "difference": mean(forget, 1, name).abs() - mean(retain, 1, name).abs(),
            "ratio": (mean(forget, 2, name) + 1e-15) / (mean(retain, 2, name) + 1e-15),
        }
        for score, value in expected.items():
            found = scores(UpdateMask(score, batch_size=size))[name]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-6)


def test_random_scores_come_from_the_generator() -> None:
    assert torch.equal(flat(scores(UpdateMask("random"), 1)), flat(scores(UpdateMask("random"), 1)))
    assert not torch.equal(flat(scores(UpdateMask("random"), 1)), flat(scores(UpdateMask("random"), 2)))
    mask = update_masks.choose(scores(UpdateMask("random")), UpdateMask("random", fraction=0.25))
    assert mask.density() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_the_fraction_takes_the_largest(fraction: float) -> None:
    found = scores(UpdateMask("difference"))
    mask = update_masks.choose(found, UpdateMask("difference", fraction=fraction))
    chosen, every = flat(dict(mask)), flat(found)
    assert int(chosen.sum()) == int(fraction * len(every))
    if chosen.any() and not chosen.all():
        assert every[chosen].min() >= every[~chosen].max()


def test_the_threshold_is_the_least_score() -> None:
    found = scores(UpdateMask("ratio"))
    mask = update_masks.choose(found, UpdateMask("ratio", threshold=1.0))
    assert torch.equal(flat(dict(mask)), flat(found) >= 1.0)


def test_one_pass_over_the_data_serves_all_thresholds() -> None:
    seen = []
    model = problems.model()
    model.register_forward_hook(lambda *_: seen.append(1))
    data = problems.data()
    found = update_masks.scores(model, data, "gradient", 5, torch.Generator())
    for fraction in (0.1, 0.3, 0.5, 0.9):
        update_masks.choose(found, UpdateMask(fraction=fraction))
    assert len(seen) == data.forget.steps(5)


def test_layers_are_ranked_among_themselves() -> None:
    found = scores(UpdateMask())
    last = [name for name in found if name.startswith("5.")]
    whole = update_masks.choose(found, UpdateMask(layers=("5",)))
    half = update_masks.choose(found, UpdateMask(layers=("5",), fraction=0.5))
    for mask, share in ((whole, 1.0), (half, 0.5)):
        assert set(mask) == set(found)
        size = sum(found[name].numel() for name in last)
        assert sum(int(mask[name].sum()) for name in last) == int(share * size)
        assert not any(bool(mask[name].any()) for name in found if name not in last)
    biases = update_masks.choose(found, UpdateMask(layers=("*.bias",)))
    assert {name for name, part in biases.items() if part.any()} == {n for n in found if n.endswith("bias")}
    with pytest.raises(RequestError, match=r"no weight is named 'fc'; there are 0\.weight"):
        update_masks.choose(found, UpdateMask(layers=("fc",)))


def test_roles() -> None:
    found = scores(UpdateMask())
    both = update_masks.choose(found, UpdateMask(fraction=0.3))
    forget = update_masks.choose(found, UpdateMask(fraction=0.3, roles="forget"))
    split = update_masks.choose(found, UpdateMask(fraction=0.3, roles="split"))
    assert list(forget) == ["forget"]
    for name, part in both.items():
        assert torch.equal(forget["forget"][name], part)
        assert torch.equal(split["forget"][name], part)
        assert torch.equal(split["retain"][name], ~part)


@pytest.mark.parametrize(
    "text", ["sfron:epochs=1", "sharp_minmax:epochs=1,forget.lr=0.01", "neggrad_plus:mask.roles=split"]
)
def test_a_split_never_leaks(text: str) -> None:
    """Weights outside the forget part move only by retain steps, and with ``split`` the others only by forget steps."""
    before = problems.weights(problems.model())
    wanted = presets.named(text + ",retain.lr=0,retain.weight_decay=0")
    context = problems.context()
    after = unlearn(problems.model(), problems.data(), wanted, context)
    mask = context.update_masks["forget"]
    moved = [(weight != before[name]) for name, weight in after.named_parameters()]
    assert any(bool(part.any()) for part in moved)
    assert not any(bool((part & ~mask[name]).any()) for part, name in zip(moved, before, strict=True))


def test_running_statistics_can_be_frozen() -> None:
    last = UpdateMask(layers=("5",))
    for mask, still in ((dataclasses.replace(last, freeze_statistics=True), True), (last, False)):
        wanted = dataclasses.replace(presets.named("finetune:epochs=1"), update_mask=mask)
        after = dict(problems.unlearned(wanted).named_buffers())
        before = dict(problems.model().named_buffers())
        assert all(
            torch.equal(after[f"1.running_{what}"], before[f"1.running_{what}"]) == still for what in ("mean", "var")
        )


@pytest.mark.parametrize("score", ["gradient", "difference", "ratio"])
def test_an_all_zero_gradient_has_a_mask(score: str) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.zeros(len(inputs), 3) + 0 * self.weight.sum()

    found = update_masks.update_masks(Constant(), problems.data(), UpdateMask(score), torch.Generator())
    assert found["weight"].tolist() == [True, True, False, False]  # ties go by position


def test_the_mode_of_every_module_is_as_before() -> None:
    model = problems.model().train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    update_masks.gradient(model, problems.data().forget, 4)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": -0.1}, "fraction must be in"),
        ({"fraction": float("nan")}, "fraction must be in"),
        ({"fraction": 0.5, "threshold": 1.0}, "a fraction or a threshold, not both"),
        ({"threshold": float("nan")}, "threshold must be a finite number"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"roles": "splt"}, "roles must be one of both, forget, split"),
        ({"score": "foo"}, "score must be one of gradient"),
    ],
)
def test_bad_values_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        UpdateMask(**options)


def test_a_mask_of_another_model_is_refused() -> None:
    mask = Mask({"0.weight": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(RequestError, match=r"0\.weight has shape"):
        unlearn(problems.model(), problems.data(), presets.named("finetune"), problems.context(update_masks=mask))


def test_a_resnet18_mask_is_stored_in_bits(tmp_path: Path) -> None:
    network = problems.architecture("resnet18")
    mask = problems.full(network)
    masks.save(mask, tmp_path / "mask.safetensors")
    assert (tmp_path / "mask.safetensors").stat().st_size < 2_000_000
    assert weights.count(network) / 8 < 2_000_000
    stored = masks.load(tmp_path / "mask.safetensors")
    assert all(torch.equal(stored[name], part) for name, part in mask.items())


def test_presets_keep_their_word_only_in_their_shape() -> None:
    assert presets.label(presets.named("salun:mask.fraction=0.2,epochs=3")) == "salun"
    assert presets.label(presets.named("salun:mask.score=difference")) == "salun"
    assert presets.label(presets.named("random_label:mask.score=random")) == "random_label"
    assert presets.label(presets.named("random_label:mask.layers=fc")) == "random_label"
    assert presets.label(presets.named("random_label:mask.fraction=1.0")) == "random_label"
    assert presets.label(presets.named("neggrad_plus:mask.roles=split")) == "neggrad_plus"
    assert presets.label(presets.named("sharp_minmax:forget.rho=0,retain.rho=0")) == "neggrad_plus"
    assert presets.label(presets.named("sharp_minmax:forget.lr=0.5")) == "sharp_minmax"
    assert presets.label(presets.named("sharp_minmax")) == "sharp_minmax"
    assert presets.label(presets.named("neggrad_plus")) == "neggrad_plus"
    assert presets.label(Unlearning(presets.named("sfron").method)) == "sfron"
