"""What the charts draw: scores, bins, means, scales and legends."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from expunge.report import drawing, histograms, losses, scenarios, tables, tradeoff
from expunge.report.results import Results, Row
from tests.unit._report_fixture import RECORDED

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def group(svg: str, role: str) -> list[ET.Element]:
    """The marks of a layer of this kind: ``line``, ``symbol``, ``rule`` or ``area``, in the order drawn."""
    layers = [g for g in ET.fromstring(svg).iter(f"{SVG}g") if f"mark-{role} role-mark" in g.get("class", "")]
    return [mark for layer in layers for mark in layer.iter() if mark.tag in (f"{SVG}path", f"{SVG}line")]


def place(mark: ET.Element) -> tuple[float, float]:
    x, y = re.findall(r"-?[\d.]+", mark.get("transform", ""))[:2]
    return float(x), float(y)


def lines(svg: str) -> dict[str, list[list[tuple[float, float]]]]:
    """The lines of a chart by colour, each as unbroken parts of points in pixels."""
    found = {}
    for path in group(svg, "line"):
        parts = [part.split("L") for part in path.get("d", "").replace("Z", "").split("M")[1:]]
        found[path.get("stroke")] = [[tuple(map(float, p.split(","))) for p in part] for part in parts]
    return found


def test_shares_are_percent_and_the_outermost_bins_take_what_lies_beyond():
    edges = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    scores = torch.tensor([-5.0, 0.5, 1.0, 1.5, 2.5, 3.0, 99.0, math.inf, -math.inf, math.nan], dtype=torch.float64)
    assert histograms.share(scores, edges).tolist() == pytest.approx([300 / 9, 200 / 9, 400 / 9])
    assert histograms.share(torch.empty(0, dtype=torch.float64), edges).tolist() == [0.0, 0.0, 0.0]


def test_histograms_share_their_axes_and_name_them():
    generator = torch.Generator().manual_seed(1)
    sharp = {name: torch.full((9,), 4.0, dtype=torch.float64) for name in ("forget", "retain", "test")}
    broad = {name: torch.randn(90, generator=generator).double() for name in ("forget", "retain", "test")}
    found = [texts(svg) for svg in histograms.membership([sharp, broad])]
    assert found[0] == found[1]
    assert {"0.1", "0.5", "0.9", "examples (%)", "confidence of the true label"} <= set(found[0])
    assert {"forget", "retain", "test"} <= set(found[0])


def test_a_histogram_has_an_outline_for_each_split_and_an_area_for_the_forget_set():
    scores = {name: torch.arange(9.0).double() for name in ("forget", "retain", "test")}
    (svg,) = histograms.membership([scores])
    assert list(lines(svg)) == [series.colour for series in histograms.SPLITS]
    assert [area.get("fill") for area in group(svg, "area")] == [histograms.SPLITS[-1].colour]
    (outline,) = lines(svg)[drawing.BLUE]
    assert sorted({x for x, _ in outline}) == pytest.approx([270 * edge / 28 for edge in range(29)], abs=0.01)


@pytest.mark.parametrize("scores", [torch.empty(0), torch.tensor([math.nan]), torch.tensor([math.inf])])
def test_histograms_without_finite_scores_are_drawn(scores):
    (svg,) = histograms.membership([dict.fromkeys(("forget", "retain", "test"), scores.double())])
    assert "NaN" not in svg
    assert histograms.membership([]) == []


@pytest.mark.parametrize("high", [3.0, 9.0, 40.0, 900.0])
def test_ticks_are_the_log_odds_of_their_labels(high):
    ticks = histograms.probability_ticks(-3.0, high)
    assert ticks[0.0] == "0.5"
    assert 2 <= len(ticks) <= 7
    assert all(-3.0 <= tick <= high for tick in ticks)
    for tick, label in ticks.items():
        if label.replace(".", "").isdigit():
            p = float(label)
            assert tick == pytest.approx(math.log(p / (1 - p)), abs=1e-9)


def test_downsampling_takes_means_over_consecutive_steps():
    assert losses.downsample(torch.arange(1.0, 5.0).double(), most=2) == [(1.5, 1.5), (3.5, 3.5)]
    found = losses.downsample(torch.arange(1001).double(), most=200)
    assert len(found) == 167
    assert found[0] == (3.5, 2.5)  # steps 1 to 6, losses 0 to 5
    assert losses.downsample(torch.tensor([math.nan, 2.0, math.inf, 4.0]).double(), most=2) == [(2.0, 2.0), (4.0, 4.0)]
    assert losses.downsample(torch.full((3,), math.nan).double()) == []


def test_loss_charts_name_the_roles_that_they_show_and_draw_a_role_alike_everywhere():
    ones = torch.ones(3).double()
    both, alone = losses.losses([{"forget": ones, "retain": 2 * ones, "odd": 0 * ones}, {"odd": ones}])
    assert {"step", "loss", "forget", "retain", "odd"} <= set(texts(both))
    assert "odd" in texts(alone)
    assert "forget" not in texts(alone)
    assert list(lines(both)) == [drawing.ORANGE, drawing.BLUE, drawing.GREEN]
    assert list(lines(alone)) == [drawing.GREEN]


def test_every_role_has_a_look_of_its_own():
    looks = losses.role_series(["retain", "forget", "a", "b", "c", "a"])
    assert [look.name for look in looks] == ["retain", "forget", "a", "b", "c"]
    assert len({(look.colour, look.dash) for look in looks}) == 5


def summary(points, *, original=None, spread=0.0):
    rows = []
    for label, seconds, gap in points:
        for seed, sign in ((0, -1), (1, 1)):
            values = {"average_gap": gap + sign * spread, "run_time.total": seconds}
            rows.append(Row(label, seed, "finished", metrics=values))
    if original is not None:
        rows.append(Row("original", 0, "finished", metrics={"average_gap": original, "run_time.total": 0.0}))
    return tables.summarise(Results(Path("x"), "x", tuple(rows)))


def test_the_trade_off_names_every_method_and_its_axes():
    found = summary([("retrain", 60.0, 0.0), ("a<b", 3.0, 2.0), ("c", 5.0, 9.0)], original=7.5)
    for narrow in (False, True):
        named = texts(tradeoff.tradeoff(found, narrow=narrow))
        assert {"retrain", "a<b", "c", "original"} <= set(named)
        assert {"run time (seconds, log scale)", "average gap to retraining (points)"} <= set(named)


def height(gap: float, most: float = 9.0 * 1.15) -> float:
    return 400 * (1 - math.sqrt(gap / most))


def test_points_and_lines_of_the_trade_off_are_where_the_numbers_say():
    found = summary([("a", 1.0, 4.0), ("b", 10.0, 1.0), ("retrain", 100.0, 0.0)], original=9.0, spread=0.5)
    svg = tradeoff.tradeoff(found)
    marks = dict(zip(("retrain", "b", "a"), map(place, group(svg, "symbol")), strict=True))
    assert [marks[label][0] for label in ("a", "b", "retrain")] == pytest.approx([30, 420, 810], abs=0.01)
    assert [marks[label][1] for label in ("a", "b")] == pytest.approx([height(4.0), height(1.0)], abs=0.01)
    level, time, *bars = group(svg, "rule")
    assert place(level)[1] == pytest.approx(height(9.0), abs=0.01)
    assert place(time)[0] == pytest.approx(810, abs=0.01)
    ends = sorted((place(bars[2])[1], place(bars[2])[1] + float(bars[2].get("y2"))))
    assert ends == pytest.approx([height(4.0 + 0.5**0.5), height(4.0 - 0.5**0.5)], abs=0.01)


def test_there_is_no_trade_off_without_a_method_that_has_both_numbers():
    assert tradeoff.tradeoff(summary([])) is None
    assert tradeoff.tradeoff(summary([("retrain", 60.0, 0.0)], original=3.0)) is None
    assert tradeoff.tradeoff(summary([("free", 0.0, 1.0)])) is None


@pytest.mark.parametrize("points", [[("only", 3.0, 0.0)], [("a", 1e-4, 0.01), ("b", 1e5, 99.0)]])
def test_the_trade_off_is_drawn_for_extreme_points(points):
    svg = tradeoff.tradeoff(summary(points), narrow=True)
    assert "NaN" not in svg
    assert {label for label, _, _ in points} <= set(texts(svg))


def comparison(*cells, config=None):
    """A comparison from (scenario, label, seed, metrics)."""
    rows = [
        Row(label, seed, "finished", metrics=metrics, scenario=name, config=config or {})
        for name, label, seed, metrics in cells
    ]
    return tables.summarise(Results(Path("x"), "x", tuple(rows)))


def pruned(*cells):
    """A comparison from (scenario, sparsity, label, seed, average gap)."""
    return comparison(*((name, label, seed, {"average_gap": g, "sparsity": s}) for name, s, label, seed, g in cells))


OVER = pruned(
    ("95", 95.0, "a", 0, 3.0), ("95", 95.0, "a", 1, 5.0), ("95", 95.0, "original", 0, 8.0), ("95", 95.0, "b", 0, 7.0),
    ("0", 0.0, "retrain", 0, 0.0), ("0", 0.0, "a", 0, 2.0), ("0", 0.0, "b", 0, 6.0), ("0", 0.0, "original", 0, 9.0),
    ("50", 50.0, "a", 0, 1.0), ("50", 50.0, "original", 0, 8.5),
)  # fmt: skip


def test_the_chart_over_sparsity_names_its_lines_axes_and_sparsities():
    for narrow in (False, True):
        found = texts(scenarios.over_scenarios(OVER, narrow=narrow))
        assert {"a", "b", "original", "0", "50", "95", "sparsity of the models (%)"} <= set(found)
        assert "average gap to retraining (points)" in found
        assert "retrain" not in found


def test_lines_are_drawn_where_the_numbers_say_and_broken_where_one_is_missing():
    found = lines(scenarios.over_scenarios(OVER))
    (a,) = found[drawing.BLUE]
    assert [y for _, y in a] == pytest.approx([height(gap, 9.9) for gap in (2.0, 1.0, 4.0)], abs=0.01)
    assert a[1][0] - a[0][0] == pytest.approx(a[2][0] - a[1][0], abs=0.01)
    assert [len(part) for part in found[drawing.ORANGE]] == [1, 1]
    assert [len(part) for part in found[drawing.GREY]] == [3]


def test_bars_are_one_standard_deviation_up_and_down():
    rules = group(scenarios.over_scenarios(OVER), "rule")
    (bar,) = (rule for rule in rules if float(rule.get("y2")) != 0)  # the only method with two seeds
    ends = sorted((place(bar)[1], place(bar)[1] + float(bar.get("y2"))))
    assert ends == pytest.approx([height(4 + 2**0.5, 9.9), height(4 - 2**0.5, 9.9)], abs=0.01)


def test_there_is_no_chart_over_sparsity_without_two_sparsities_and_a_method():
    assert scenarios.over_scenarios(pruned(("x", 50.0, "a", 0, 1.0), ("y", 50.0, "a", 0, 2.0))) is None
    assert scenarios.over_scenarios(pruned(("x", 50.0, "a", 0, 1.0))) is None
    nothing = pruned(("x", 50.0, "original", 0, 1.0), ("y", 0.0, "original", 0, 2.0), ("y", 0.0, "retrain", 0, 0.0))
    assert scenarios.over_scenarios(nothing) is None
    assert scenarios.over_scenarios(pruned(("x", 50.0, "a", 0, None), ("y", 0.0, "a", 0, None))) is None


@pytest.mark.parametrize("gaps", [(0.0, 0.0), (1e-9, 100.0)])
def test_the_chart_over_sparsity_is_drawn_for_extreme_gaps_and_near_sparsities(gaps):
    cells = [("x", 99.0, "a", 0, gaps[0]), ("y", 99.0001, "a", 0, gaps[1]), ("z", 99.0001, "a", 0, gaps[1])]
    svg = scenarios.over_scenarios(pruned(*cells), narrow=True)
    assert "NaN" not in svg
    assert [len(part) for part in lines(svg)[drawing.BLUE]] == [3]


def test_methods_are_drawn_side_by_side_nearer_to_their_own_scenario_than_to_the_next():
    methods = [f"m{number}" for number in range(30)]
    crowded = pruned(*((str(part), part, label, 0, 1.0) for part in (0.0, 98.0, 99.0) for label in methods))
    places = sorted(place(mark)[0] for mark in group(scenarios.over_scenarios(crowded), "symbol"))
    first, second = places[:30], places[30:60]
    assert len(set(first)) == 30
    assert first[-1] - first[0] < 0.5 * (second[0] - first[0])


def varied(*cells):
    """A comparison from (scenario, label, seed, relative distance), of recorded trainings."""
    metrics = ((name, label, seed, {tables.RELATIVE: far}) for name, label, seed, far in cells)
    return comparison(*metrics, config=RECORDED)


@pytest.mark.parametrize(
    ("names", "title", "values"),
    [
        (("lr=0.5", "lr=1e-3", "lr=.1"), "lr", [0.001, 0.1, 0.5]),
        (("batch_size=32", "batch_size=8"), "batch size", [8.0, 32.0]),
        (("forget=random:300", "forget=random:10"), "examples to forget", [10.0, 300.0]),
        (("forget=random:3%", "forget=random:10%"), "examples to forget (%)", [3.0, 10.0]),
        (("forget=random:3%", "forget=random:10"), None, None),
        (("lr=0.1", "epochs=3"), None, None),
        (("lr=0.1", "lr=0.10"), None, None),
        (("lr=0.1,epochs=3", "lr=0.2,epochs=3"), None, None),
        (("rule.lr=0", "rule.lr=100"), "rule.lr", [0.0, 100.0]),
    ],
)
def test_the_axis_is_the_one_number_in_which_names_of_scenarios_differ(names, title, values):
    found = scenarios.axis(varied(*((name, "a", 0, 0.5) for name in names)))
    assert (found is None) == (title is None)
    if found:
        assert (found.title, [value for value, _ in found.places]) == (title, values)


def test_sparsity_is_the_axis_where_it_differs():
    assert scenarios.axis(OVER).title == "sparsity of the models (%)"
    assert [part.scenario for _, part in scenarios.axis(OVER).places] == ["0", "50", "95"]


def test_relative_distances_beyond_two_are_drawn_at_the_edge():
    found = varied(
        ("lr=0.1", "a", 0, 0.25), ("lr=0.001", "a", 0, 0.01), ("lr=0.01", "a", 0, 1e9),
        ("lr=0.1", "original", 0, 1.0), ("lr=0.001", "original", 0, 1.0), ("lr=0.01", "original", 0, 1.0),
    )  # fmt: skip
    svg = scenarios.over_scenarios(found)
    assert {"lr", "distance to retraining divided by that of the original", "0.001"} <= set(texts(svg))
    (a,) = lines(svg)[drawing.BLUE]
    assert [y for _, y in a] == pytest.approx([height(far, 2.0) for far in (0.01, 2.0, 0.25)], abs=0.01)


def test_forty_two_methods_have_looks_of_their_own_and_none_that_of_the_references():
    looks = drawing.method_series(["retrain", *map(str, range(42)), "original"])
    assert len({(look.colour, look.shape) for look in looks}) == 44
    methods = looks[1:-1]
    pairs = list(itertools.pairwise(methods))
    assert all(a.colour != b.colour and a.shape != b.shape and a.dash != b.dash for a, b in pairs)
    assert not {looks[0].shape, looks[-1].shape} & {look.shape for look in methods}
