"""Generators, weights and masks."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from expunge.core import masks, randomness, weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from tests import problems


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_generators_of_different_purposes_are_independent_and_repeatable() -> None:
    def draw(*purpose: str) -> list[float]:
        return torch.rand(4, generator=randomness.generator(7, *purpose)).tolist()

    assert draw("split") == draw("split")
    assert draw("split") != draw("forget")
    assert draw("a", "b") != draw("b", "a")


def test_seeded_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with randomness.seeded(randomness.generator(3)):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with randomness.seeded(randomness.generator(3)):
        assert torch.equal(torch.rand(2), first)


def test_reinitialise_draws_everything_anew_as_construction_does() -> None:
    torch.manual_seed(5)
    fresh = net()
    model = net()
    model[1].running_mean.fill_(9.0)
    torch.manual_seed(5)
    weights.reinitialise(model)
    assert problems.same(model, fresh)


def test_reinitialise_refuses_what_it_cannot_reset() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(RequestError, match=r"cannot draw 0.scale anew: give its module a reset_parameters"):
        weights.reinitialise(nn.Sequential(Bare()))


def test_distance_is_euclidean() -> None:
    first = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[0.0]])}
    second = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert weights.distance(first, second) == pytest.approx(5.0)
    with pytest.raises(RequestError, match="another architecture: b is missing"):
        weights.distance({"a": first["a"]}, second)


def test_loading_another_architecture_lists_the_differences() -> None:
    state = copy.deepcopy(net().state_dict())
    state["extra"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(4, 5)
    del state["2.bias"]
    with pytest.raises(RequestError) as caught:
        weights.load(net(), state, "file.safetensors")
    for part in ("file.safetensors", "2.bias is missing", "extra is unknown", "0.weight has shape (4, 5), not (4, 3)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.37, 0.5, 1.0])
def test_largest_equals_a_sort(fraction: float) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = {"a": torch.rand(7, 5, generator=generator), "b": torch.rand(11, generator=generator)}
    flat = np.concatenate([score.flatten().numpy() for score in scores.values()])
    count = int(fraction * len(flat))
    wanted = np.zeros(len(flat), dtype=bool)
    wanted[np.argsort(-flat, kind="stable")[:count]] = True
    got = masks.largest(scores, fraction)
    np.testing.assert_array_equal(np.concatenate([got[name].flatten().numpy() for name in scores]), wanted)
    assert got.density() == pytest.approx(count / len(flat))


def test_ties_are_broken_by_position_and_the_count_is_exact() -> None:
    got = masks.largest({"a": torch.tensor([1.0, 2.0, 1.0, 1.0])}, 0.5)
    assert got["a"].tolist() == [True, True, False, False]
    assert masks.largest({"a": torch.zeros(10)}, 0.3)["a"].sum() == 3


def test_bad_scores_and_fractions_are_refused() -> None:
    with pytest.raises(RequestError, match="not finite"):
        masks.largest({"a": torch.tensor([1.0, float("nan")])}, 0.5)
    with pytest.raises(RequestError, match=r"in \[0, 1\], got 1.5"):
        masks.largest({"a": torch.ones(2)}, 1.5)


def test_masks_are_stored_as_bits(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = Mask({"w": torch.rand(300, 101, generator=generator) < 0.3, "b": torch.tensor([True])})
    path = tmp_path / "mask.safetensors"
    masks.save(mask, path)
    loaded = masks.load(path)
    assert set(loaded) == set(mask)
    assert problems.same(loaded, mask)
    assert path.stat().st_size < 300 * 101 / 8 + 1000
    path.write_bytes(b"nonsense")
    with pytest.raises(RequestError, match="no mask file"):
        masks.load(path)


def test_a_mask_of_another_model_is_refused() -> None:
    with pytest.raises(RequestError, match=r"0.weight has shape"):
        Mask({"0.weight": torch.ones(2, 2, dtype=torch.bool)}).check(net())
    with pytest.raises(RequestError, match="bool"):
        Mask({"a": torch.ones(2)})
