"""What the charts draw: scores, bins, means, places of labels."""

import itertools
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from expunge.report import histograms, losses, scenarios, tables, tradeoff
from expunge.report.drawing import GapScale, distinct
from expunge.report.results import Losses, Results, Row


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_shares_are_percent_and_the_outermost_bins_take_what_lies_beyond():
    edges = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    scores = torch.tensor([-5.0, 0.5, 1.0, 1.5, 2.5, 3.0, 99.0, math.inf, -math.inf, math.nan], dtype=torch.float64)
    assert histograms.share(scores, edges).tolist() == pytest.approx([300 / 9, 200 / 9, 400 / 9])
    assert histograms.share(torch.empty(0, dtype=torch.float64), edges).tolist() == [0.0, 0.0, 0.0]


def test_histograms_share_their_axes_and_name_them():
    generator = torch.Generator().manual_seed(1)
    scores = {
        "sharp": {name: torch.full((9,), 4.0, dtype=torch.float64) for name in ("forget", "retain", "test")},
        "broad": {name: torch.randn(90, generator=generator).double() for name in ("forget", "retain", "test")},
    }
    found = {label: texts(svg) for label, svg in histograms.membership(scores).items()}
    assert found["sharp"] == found["broad"]
    assert {"0.1", "0.5", "0.9", "examples (%)", "confidence of the true label"} <= set(found["sharp"])


@pytest.mark.parametrize(
    "scores", [torch.empty(0).double(), torch.tensor([math.nan]).double(), torch.tensor([math.inf]).double()]
)
def test_histograms_of_nothing_are_drawn_empty(scores):
    svg = histograms.membership({"m": dict.fromkeys(("forget", "retain", "test"), scores)})["m"]
    assert "NaN" not in svg


@pytest.mark.parametrize("high", [3.0, 9.0, 40.0, 900.0])
def test_ticks_are_the_log_odds_of_their_labels(high):
    ticks = histograms._odds_ticks(-3.0, high)
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


def test_methods_without_steps_have_no_loss_chart():
    steps = {
        "original": Losses({}),
        "scrub": Losses({"forget": torch.ones(3).double(), "odd": torch.zeros(3).double()}),
    }
    found = losses.losses(steps)
    assert list(found) == ["scrub"]
    assert {"step", "loss"} <= set(texts(found["scrub"]))


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


def test_the_trade_off_names_every_method_its_axes_and_doing_nothing():
    found = texts(
        tradeoff.tradeoff(summary([("retrain", 60.0, 0.0), ("a<b", 3.0, 2.0), ("c", 5.0, 9.0)], original=7.5), 600, 300)
    )
    assert {"retrain", "a<b", "c", "original: 7.50"} <= set(found)
    assert {"run time (seconds, log scale)", "average gap to retraining (points)"} <= set(found)


def test_there_is_no_trade_off_without_a_method_that_has_both_numbers():
    assert tradeoff.tradeoff(summary([]), 600, 300) is None
    assert tradeoff.tradeoff(summary([("retrain", 60.0, 0.0)], original=3.0), 600, 300) is None
    assert tradeoff.tradeoff(summary([("free", 0.0, 1.0)]), 600, 300) is None


@pytest.mark.parametrize("points", [[("only", 3.0, 0.0)], [("a", 1e-4, 0.01), ("b", 1e5, 99.0)]])
def test_the_trade_off_bears_extreme_points(points):
    svg = tradeoff.tradeoff(summary(points), 300, 300)
    assert "NaN" not in svg
    assert {label for label, _, _ in points} <= set(texts(svg))


def test_scales_and_their_inverse_agree():
    frame = tradeoff.Frame(600, (0.5, 200.0), GapScale(300, 25.0))
    assert (frame.x(0.5), frame.x(200.0), frame.y(0.0), frame.y(25.0)) == pytest.approx((0, 600, 300, 0))
    assert frame.x(10.0) == pytest.approx(300)  # the geometric middle
    assert frame.y(6.25) == pytest.approx(150)  # a quarter of the range at half the height
    back = frame.at(frame.x(7.0), frame.y(3.0))
    assert (back["s"], back["g"]) == pytest.approx((7.0, 3.0))


def test_labels_of_crowded_points_overlap_neither_each_other_nor_the_points():
    points = [(f"method_{i}", 5.0 * 1.06**i, 3.0 + 0.15 * (i % 4)) for i in range(12)]
    shown = tradeoff.points(summary(points))
    seconds, high = tradeoff._ranges(shown, None)
    frame = tradeoff.Frame(1000, seconds, GapScale(400, high))
    placed = []
    taken = [box for point in shown for box in tradeoff._around(frame, point)]
    for point in shown:
        placed.append(tradeoff._place(frame, point, [*taken, *placed]))
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(placed, 2))
    assert all(label.overlap(mark) == 0 for label in placed for mark in taken)
    assert all(frame.holds(label) for label in placed)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (600, 0), (0, 300), (600, 300), (300, 150)])
def test_labels_stay_within_the_frame_even_where_it_is_crowded(x, y):
    frame = tradeoff.Frame(600, (1.0, 100.0), GapScale(300, 9.0))
    place = frame.at(x, y)
    point = tradeoff.Point("gradient_ascent", place["s"], tables.Cell(1, place["g"], None, None))
    everywhere = [tradeoff.Box(150, 75, 450, 225)]
    assert frame.holds(tradeoff._place(frame, point, everywhere))


def test_overlap_is_the_common_area():
    box = tradeoff.Box(0, 0, 4, 4)
    assert box.overlap(tradeoff.Box(2, 3, 9, 9)) == 2.0
    assert box.overlap(tradeoff.Box(4, 0, 9, 9)) == 0.0


def pruned(*cells):
    """A comparison from (scenario, sparsity, label, seed, average gap)."""
    rows = [
        Row(label, seed, "finished", metrics={"average_gap": gap, "sparsity": part}, scenario=name)
        for name, part, label, seed, gap in cells
    ]
    return tables.summarise(Results(Path("x"), "x", tuple(rows)))


OVER = pruned(
    ("95", 95.0, "a", 0, 3.0), ("95", 95.0, "a", 1, 5.0), ("95", 95.0, "original", 0, 8.0), ("95", 95.0, "b", 0, 7.0),
    ("0", 0.0, "retrain", 0, 0.0), ("0", 0.0, "a", 0, 2.0), ("0", 0.0, "b", 0, 6.0), ("0", 0.0, "original", 0, 9.0),
    ("50", 50.0, "a", 0, 1.0), ("50", 50.0, "original", 0, 8.5),
)  # fmt: skip


def test_tracks_are_the_gaps_of_each_method_from_dense_to_sparse_without_retraining():
    found = {track.series.name: [gap and gap.mean for gap in track.gaps] for track in scenarios.tracks(OVER)}
    assert found == {"a": [2.0, 1.0, 4.0], "b": [6.0, None, 7.0], "original": [9.0, 8.5, 8.0]}
    assert [track.series.name for track in scenarios.tracks(OVER)] == ["a", "b", "original"]
    assert scenarios.tracks(OVER)[0].gaps[2].std == pytest.approx(2**0.5)


def test_the_chart_over_sparsity_names_its_lines_axes_and_sparsities():
    found = texts(scenarios.over_scenarios(OVER, 600, 300))
    assert {"a", "b", "original", "0", "50", "95", "sparsity of the models (%)"} <= set(found)
    assert "average gap to retraining (points)" in found
    assert "retrain" not in found
    assert not {"a", "b", "original"} & set(texts(scenarios.over_scenarios(OVER, 300, 300, labelled=False)))


def lines(svg):
    """The lines of a chart by colour, each as parts of points in pixels."""
    found = {}
    for path in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        width = path.get("stroke-width")
        if width == "1.8":
            parts = [part.split("L") for part in path.get("d").replace("Z", "").split("M")[1:]]
            found[path.get("stroke")] = [[tuple(map(float, p.split(","))) for p in part] for part in parts]
    return found


def test_lines_are_drawn_where_the_numbers_say_and_broken_where_one_is_missing():
    found = lines(scenarios.over_scenarios(OVER, 600, 300, labelled=False))
    frame = scenarios.Frame(600, scenarios.axis(OVER), GapScale(300, 9.0 * 1.1), 3)
    (a,) = found["#0072B2"]
    low, high = -0.04 * 95, 1.04 * 95
    for (x, y), part, gap in zip(a, (0.0, 50.0, 95.0), (2.0, 1.0, 4.0), strict=True):
        assert x == pytest.approx(600 * (part - low) / (high - low) + frame.beside(0), abs=0.01)
        assert y == pytest.approx(300 * (1 - math.sqrt(gap / 9.9)), abs=0.01)
    assert [len(part) for part in found["#D55E00"]] == [1, 1]
    assert [len(part) for part in found["#5F6B76"]] == [3]


def test_bars_are_one_standard_deviation_up_and_down():
    svg = scenarios.over_scenarios(OVER, 600, 300, labelled=False)
    drawn = list(ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}line"))
    (bar,) = (line for line in drawn if line.get("stroke-width") == "1.6")  # the only method with two seeds
    top = float(bar.get("transform").partition(",")[2].rstrip(")"))
    ends = sorted((top, top + float(bar.get("y2"))))
    expected = [300 * (1 - math.sqrt(gap / 9.9)) for gap in (4 + 2**0.5, 4 - 2**0.5)]
    assert ends == pytest.approx(expected, abs=0.01)


def test_ticks_stand_at_the_sparsities_from_the_highest_where_there_is_room():
    crowded = pruned(*((str(part), part, "a", 0, 1.0) for part in (0.0, 50.0, 98.0, 99.0)))
    found = texts(scenarios.over_scenarios(crowded, 600, 300))
    assert {"0", "50", "99"} <= set(found)
    assert "98" not in found


def test_there_is_no_chart_over_sparsity_without_two_sparsities_and_a_method():
    assert scenarios.over_scenarios(pruned(("x", 50.0, "a", 0, 1.0), ("y", 50.0, "a", 0, 2.0)), 600, 300) is None
    assert scenarios.over_scenarios(pruned(("x", 50.0, "a", 0, 1.0)), 600, 300) is None
    nothing = pruned(("x", 50.0, "original", 0, 1.0), ("y", 0.0, "original", 0, 2.0), ("y", 0.0, "retrain", 0, 0.0))
    assert scenarios.over_scenarios(nothing, 600, 300) is None
    assert scenarios.over_scenarios(pruned(("x", 50.0, "a", 0, None), ("y", 0.0, "a", 0, None)), 600, 300) is None


@pytest.mark.parametrize("gaps", [(0.0, 0.0), (1e-9, 100.0)])
def test_the_chart_over_sparsity_bears_extreme_gaps_and_near_sparsities(gaps):
    cells = [("x", 99.0, "a", 0, gaps[0]), ("y", 99.0001, "a", 0, gaps[1]), ("z", 99.0001, "a", 0, gaps[1])]
    svg = scenarios.over_scenarios(pruned(*cells), 300, 300)
    assert "NaN" not in svg


def test_lines_beside_each_other_stay_nearer_to_their_own_sparsity_than_to_the_next():
    crowded = scenarios.axis(pruned(*((str(part), part, "a", 0, 1.0) for part in (0.0, 98.0, 99.0))))
    frame = scenarios.Frame(600, crowded, GapScale(300, 9.0), 40)
    shifts = [frame.beside(track) for track in range(40)]
    assert sum(shifts) == pytest.approx(0)
    assert max(shifts) - min(shifts) < 0.5 * (frame.x(2) - frame.x(1))
    assert frame.at(1, 0) == pytest.approx(98.0 + shifts[0] * 1.08 * 99.0 / 600)


def varied(*cells):
    """A comparison from (scenario, label, seed, relative distance), of recorded trainings."""
    config = {"subject": {"original": {"training": {"record": True}}}}
    rows = [
        Row(label, seed, "finished", metrics={tables.RELATIVE: far}, scenario=name, config=config)
        for name, label, seed, far in cells
    ]
    return tables.summarise(Results(Path("x"), "x", tuple(rows)))


@pytest.mark.parametrize(
    ("names", "title", "values", "logarithmic"),
    [
        (("lr=0.5", "lr=1e-3", "lr=.1"), "lr", (0.001, 0.1, 0.5), True),
        (("batch_size=32", "batch_size=8"), "batch size", (8.0, 32.0), False),
        (("forget=random:300", "forget=random:10"), "examples to forget", (10.0, 300.0), True),
        (("forget=random:3%", "forget=random:10%"), "examples to forget (%)", (3.0, 10.0), False),
        (("forget=random:3%", "forget=random:10"), None, None, None),
        (("lr=0.1", "epochs=3"), None, None, None),
        (("lr=0.1", "lr=0.10"), None, None, None),
        (("lr=0.1,epochs=3", "lr=0.2,epochs=3"), None, None, None),
        (("rule.lr=0", "rule.lr=100"), "rule.lr", (0.0, 100.0), False),
    ],
)
def test_the_axis_is_the_one_number_in_which_names_of_scenarios_differ(names, title, values, logarithmic):
    found = scenarios.axis(varied(*((name, "a", 0, 0.5) for name in names)))
    assert (found is None) == (title is None)
    if found:
        assert (found.title, found.values, found.logarithmic) == (title, values, logarithmic)


def test_sparsity_is_the_axis_where_it_differs():
    assert scenarios.axis(OVER).title == "sparsity of the models (%)"
    assert [part.scenario for _, part in scenarios.axis(OVER).places] == ["0", "50", "95"]


def test_relative_distances_over_a_logarithmic_axis_are_drawn_where_the_numbers_say():
    found = varied(
        ("lr=0.1", "a", 0, 0.25), ("lr=0.001", "a", 0, 0.01), ("lr=0.01", "a", 0, 1e9),
        ("lr=0.1", "original", 0, 1.0), ("lr=0.001", "original", 0, 1.0), ("lr=0.01", "original", 0, 1.0),
    )  # fmt: skip
    svg = scenarios.over_scenarios(found, 600, 300)
    assert {"lr, log scale", "distance to retraining divided by that of the original", "0.001"} <= set(texts(svg))
    (a,) = lines(svg)["#0072B2"]
    frame = scenarios.Frame(600, scenarios.axis(found), GapScale(300, 2.0), 2)
    for (x, y), part, far in zip(a, (0.0, 0.5, 1.0), (0.01, 2.0, 0.25), strict=True):  # beyond 2: at the edge
        assert x == pytest.approx(600 * (part + 0.04) / 1.08 + frame.beside(0), abs=0.01)
        assert y == pytest.approx(300 * (1 - math.sqrt(far / 2)), abs=0.01)
    assert [frame.value(frame.x(number)) for number in range(3)] == pytest.approx([0.001, 0.01, 0.1])


@pytest.mark.parametrize("places", [[10.0, 11.0, 12.0], [300.0, 299.0, 10.0], [0.0, 0.0], [5.0], []])
def test_names_are_spread_out_in_their_order_and_within_the_area(places):
    found = scenarios.spread_out(places, 300.0)
    ordered = sorted(zip(places, found, strict=True), key=lambda pair: (pair[0], pair[1]))
    assert all(b - a >= 15.0 - 1e-9 for (_, a), (_, b) in itertools.pairwise(ordered))
    assert all(-1e-9 <= place <= 300.0 for place in found)
    assert scenarios.spread_out([10.0, 100.0], 300.0) == [10.0, 100.0]


def test_forty_two_lines_have_looks_of_their_own():
    looks = [distinct(str(number), number) for number in range(42)]
    assert len({(look.colour, look.marker) for look in looks}) == 42
    assert all(a.colour != b.colour and a.marker != b.marker and a.dash != b.dash for a, b in itertools.pairwise(looks))
    assert all(look.marker_path for look in looks)
