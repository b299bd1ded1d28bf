"""Tug-of-war and average gap against the golden case."""

import pytest
import torch

from expunge.metrics.average_gap import average_gap, gap_of_means
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


def test_tug_of_war_of_each_seed() -> None:
    case = cases.load("tug_of_war")
    names = ("forget", "retain", "test", "membership")
    for row, gaps in enumerate((case.tensors["unlearned"] - case.tensors["retrained"]).abs().tolist()):
        found = dict(zip(names, gaps, strict=True))
        for key, parts in (("tow", ("forget", *names[1:3])), ("tow_mia", ("membership", *names[1:3]))):
            expected = float(case.tensors[f"expected.{key}"][row])
            assert tug_of_war(found, parts) == pytest.approx(expected, rel=case.rtol, abs=case.atol)


def test_gap_of_means() -> None:
    """What the published code calls the average gap, and the spread beside it."""
    case = cases.load("summary_metrics")
    got = gap_of_means(case.tensors["seeds"].tolist(), case.tensors["reference"].tolist())
    wanted = [float(case.tensors[name]) for name in ("average_gap", "average_std")]
    assert got == pytest.approx(wanted, rel=case.rtol, abs=case.atol)


def test_ours_is_the_mean_of_the_gaps_of_each_seed() -> None:
    """It is never smaller than that of the means, in which gaps to either side cancel."""
    case = cases.load("summary_metrics")
    seeds, reference = case.tensors["seeds"].double(), case.tensors["reference"].double()
    ours = [average_gap(row, reference.tolist()) for row in seeds.tolist()]
    assert sum(ours) / len(ours) == pytest.approx(float((seeds - reference).abs().mean()))
    assert sum(ours) / len(ours) >= float(case.tensors["average_gap"]) - case.atol
