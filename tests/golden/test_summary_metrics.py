"""Tug-of-war and average gap against the golden case."""

import pytest
import torch

from expunge.metrics.average_gap import average_gap
from expunge.metrics.tow import tug_of_war
from tests.golden import cases


def test_tug_of_war() -> None:
    case = cases.load("summary_metrics")
    pairs = zip(case.tensors["unlearned"].tolist(), case.tensors["retrained"].tolist(), strict=True)
    gaps = dict(zip(("forget", "retain", "test", "membership"), (abs(a - b) for a, b in pairs), strict=True))
    tow = tug_of_war(gaps, ("forget", "retain", "test"))
    tow_mia = tug_of_war(gaps, ("membership", "retain", "test"))
    # The case rounds its inputs to the type they are stored in; its outputs are from before that.
    stored = case.tensors["unlearned"].dtype
    rounding = max(case.rtol, 2 * torch.finfo(stored).eps)
    assert tow == pytest.approx(float(case.tensors["tow"]), rel=rounding, abs=case.atol)
    assert tow_mia == pytest.approx(float(case.tensors["tow_mia"]), rel=rounding, abs=case.atol)


def test_average_gap() -> None:
    case = cases.load("summary_metrics")
    means = case.tensors["seeds"].double().mean(dim=0).tolist()
    got = average_gap(means, case.tensors["reference"].tolist())
    assert got == pytest.approx(float(case.tensors["average_gap"]), rel=case.rtol, abs=case.atol)
