"""The membership attack against the original implementation."""

import numpy as np
import pytest
import torch

from expunge.evaluation import membership
from expunge.evaluation.predictions import Predictions
from expunge.metrics.membership_svc import MembershipSvcConfig, efficacy
from tests.golden import cases


def predictions(case: cases.Case, name: str) -> Predictions:
    logits, labels = case.tensors[f"{name}.logits"], case.tensors[f"{name}.labels"]
    return Predictions(logits, labels, torch.arange(len(labels)))


@pytest.mark.parametrize("exact", [True, False])
def test_shares_are_those_of_the_original_attack(exact: bool) -> None:
    case = cases.load("membership_svc")
    config = MembershipSvcConfig(exact=exact, as_released=True)
    sets = {name: predictions(case, name) for name in ("shadow_train", "shadow_test", "target_train", "target_test")}
    others = efficacy(sets["shadow_train"], sets["shadow_test"], sets["target_test"], config)
    members = efficacy(sets["shadow_train"], sets["shadow_test"], sets["target_train"], config)
    for name, share in others.items():
        assert 1 - share == pytest.approx(float(case.tensors[f"efficacy.{name}"]), rel=case.rtol, abs=case.atol)
        privacy = (members[name] + 1 - share) / 2
        assert privacy == pytest.approx(float(case.tensors[f"privacy.{name}"]), rel=case.rtol, abs=case.atol)


@pytest.mark.parametrize("name", ["shadow_train", "shadow_test", "target_train", "target_test"])
def test_features(name: str) -> None:
    case = cases.load("membership_svc")
    found = predictions(case, name)
    right, released = membership.features(found), membership.features(found, as_released=True)
    tolerance = {"rtol": case.rtol, "atol": case.atol}
    np.testing.assert_allclose(right["entropy"][:, 0], case.tensors[f"{name}.entropy"], **tolerance)
    np.testing.assert_allclose(right["m_entropy"][:, 0], case.tensors[f"{name}.modified_entropy"], **tolerance)
    expected = case.tensors[f"{name}.modified_entropy_as_released"]
    np.testing.assert_allclose(released["m_entropy"][:, 0], expected, **tolerance)
