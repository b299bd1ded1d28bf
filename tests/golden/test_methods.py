"""The methods against the original implementations, on every case's own data and hyperparameters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from expunge.core.weights import frozen_copy
from expunge.methods import boundary_shrink, finetune, gradient_ascent, l1_sparse, neggrad_plus, random_label, scrub
from expunge.methods.boundary_shrink import BoundaryShrinkConfig
from tests.golden import cases
from tests.golden.cases import Case, Method, assert_method_agrees, context, passes, rule
from tests.problems import weights

OPTIONS = {
    "finetune": (finetune.unlearn, finetune.FinetuneConfig, {}),
    "gradient_ascent": (gradient_ascent.unlearn, gradient_ascent.GradientAscentConfig, {}),
    "neggrad_plus": (neggrad_plus.unlearn, neggrad_plus.NegGradPlusConfig, {"alpha": "alpha"}),
    "l1_sparse": (
        l1_sparse.unlearn,
        l1_sparse.L1SparseConfig,
        {"alpha": "alpha", "final_epochs": "final_epochs_without_l1"},
    ),
    "scrub": (
        scrub.unlearn,
        scrub.ScrubConfig,
        {key: key for key in ("maximise_epochs", "temperature", "alpha", "gamma")}
        | {"forget_batch_size": "batch_size"},
    ),
}
"""The method, its configuration, and the option that each hyperparameter of the case gives."""


@pytest.mark.parametrize("name", OPTIONS)
def test_a_method_leaves_the_weights_of_the_original(name: str) -> None:
    case = cases.load(name)
    method, kind, names = OPTIONS[name]
    given = {option: case.hyperparameters[key] for option, key in names.items()}
    assert_method_agrees(case, method, kind(rule=rule(case), **passes(case), **given))


@pytest.fixture
def random_labels(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], Method]:
    """The method with the random labels of a case, batch after batch, in place of drawn ones."""

    def of(case: Case) -> Method:
        def method(*given: Any) -> nn.Module:
            labels = iter(case.tensors["random_labels"].flatten().split(1))
            draw = lambda true, *_: torch.cat([next(labels) for _ in range(len(true))])  # noqa: E731
            monkeypatch.setattr(random_label, "draw_labels", draw)
            return random_label.unlearn(*given)

        return method

    return of


def test_random_label(random_labels: Callable[[Case], Method]) -> None:
    case = cases.load("random_label")
    config = random_label.RandomLabelConfig(rule=rule(case), **passes(case))
    assert_method_agrees(case, random_labels(case), config)


def test_salun(random_labels: Callable[[Case], Method]) -> None:
    case = cases.load("salun")
    mask, method = case.mask(), random_labels(case)
    config = random_label.RandomLabelConfig(rule=rule(case), **passes(case))
    assert_method_agrees(case, method, config, update_masks=mask)
    state = method(cases.tiny_model(), cases.tiny_data(), config, context(update_masks=mask)).state_dict()
    before, leaking = weights(cases.tiny_model()), case.prefixed("gradient_mask_only.")
    assert all(torch.equal(state[name][~moving], before[name][~moving]) for name, moving in mask.items())
    assert any(not torch.equal(leaking[name][~moving], before[name][~moving]) for name, moving in mask.items())


def test_boundary_shrink_finds_the_nearest_labels() -> None:
    """The case is in the released form; ours differs from it only where that kept the true label."""
    expected = cases.load("boundary_shrink").tensors["nearest_labels"]
    original, forget = frozen_copy(cases.tiny_model()), cases.tiny_split("forget")
    released = boundary_shrink.nearest_labels(original, forget, shrink(as_released=True))
    assert torch.equal(released, expected)
    ours = boundary_shrink.nearest_labels(original, forget, shrink(as_released=False))
    kept = expected == forget.labels
    assert torch.equal(ours[~kept], expected[~kept])
    assert not bool((ours == forget.labels).any())


@pytest.mark.parametrize("as_released", [True, False])
def test_boundary_shrink(as_released: bool) -> None:
    case = cases.load("boundary_shrink")
    if not as_released and bool((case.tensors["nearest_labels"] == cases.tiny_split("forget").labels).any()):
        pytest.skip("in this family of cases the released code keeps some true label, and ours does not")
    assert_method_agrees(case, boundary_shrink.unlearn, shrink(as_released=as_released))


def shrink(*, as_released: bool) -> BoundaryShrinkConfig:
    case = cases.load("boundary_shrink")
    bound = case.hyperparameters["bound"]
    return BoundaryShrinkConfig(bound=bound, as_released=as_released, rule=rule(case), **passes(case))
