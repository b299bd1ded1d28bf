"""What every architecture must do; a new one is tested by being found."""

import re

import pytest
import torch

from expunge.core import config, weights
from expunge.core.errors import RequestError
from tests import problems
from tests.problems import architecture, attempt, narrow

NAMES = problems.architectures()
SHAPE = (3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [SHAPE, (1, 28, 28), (1, 8, 8), (3, 2, 2), (10,)], ids=str)
def test_gives_logits_or_says_what_images_it_takes(name: str, shape: tuple[int, ...]) -> None:
    model, refusal = attempt(lambda: architecture(narrow(name), shape, 5))
    if model is None and len(shape) == 1:
        assert "takes images" in refusal
        return
    if model is None:
        assert shape != SHAPE, "every architecture takes images of this size"
        (least,) = map(int, re.findall(r"of (\d+) pixels or more", refusal))
        assert least > shape[1]
        shape = (shape[0], least, least)
        model = architecture(narrow(name), shape, 5)
    assert model.eval()(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("name", NAMES)
def test_initialises_anew_as_it_was_built(name: str) -> None:
    """Every weight is drawn from the distribution of construction, whatever it was: same size, other values."""
    built, model, other = (architecture(narrow(name), SHAPE, seed=seed) for seed in (2, 2, 1))
    for each in (model, other):
        torch.manual_seed(3)
        weights.reinitialise(each)
    assert problems.same(model, other)
    for (key, a), b in zip(built.named_parameters(), model.parameters(), strict=True):
        if a.numel() >= 256:
            assert not torch.equal(a, b), key
            assert float((b.std() / a.std()).detach()) == pytest.approx(1.0, abs=0.25), key


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_takes_a_gradient(name: str) -> None:
    model = architecture(narrow(name), SHAPE, seed=0)
    model(torch.rand(4, *SHAPE)).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if narrow(name) != name])
def test_a_width_below_one_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"width must be .* at least 1"):
        config.parse("models", f"{name}:width=0")
