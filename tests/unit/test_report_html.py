"""The page: whole, self-contained, escaped, and right in words."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from expunge import report
from expunge.report import html, tables, words
from expunge.report.results import Results, Row, load
from tests.unit._report_fixture import RECORDED, rewrite, write_folder

SMALL = (6, 30, 20)


class Page(HTMLParser):
    """The text and the tags of a page; fails on tags that do not close in order."""

    VOID = ("meta", "img", "source", "wbr", "path", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def written(folder: Path) -> Page:
    return Page(report.write(folder, folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_self_contained_and_has_every_part(tmp_path):
    write_folder(tmp_path, methods=("retrain", "original", "scrub"), seeds=2, sizes=SMALL)
    page = written(tmp_path)
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    sources = [a.get("src") or a.get("srcset") for tag, a in page.tags if tag in ("img", "source")]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert len(sources) == 2 + 3 + 2  # the trade-off twice, a histogram each, losses of those that took steps
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    text = " ".join(page.text)
    assert not re.search(r"https?://", text)
    for part in ("Results", "against run time", "Membership scores", "Losses", "Configuration", "Glossary"):
        assert part in text
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "bench.json", "report.html", "results.csv", "results.md", "results.tex",
    }  # fmt: skip


def test_the_page_marks_methods_that_see_validation_images(tmp_path):
    write_folder(tmp_path, methods=("retrain", "scrub"), seeds=1, sizes=SMALL)
    for rewind in (False, True):
        (path,) = tmp_path.glob("evaluate-scrub-*/config.json")
        config = json.loads(path.read_text())
        config["subject"]["unlearning"]["method"] = {"name": "scrub", "rewind": rewind}
        rewrite(path, **config)
        text = "".join(written(tmp_path).text)
        assert ("scrub \N{DAGGER}" in text) == ("\N{DAGGER} sees validation images" in text) == rewind


def test_several_scenarios_are_named_everywhere(tmp_path):
    scenarios = {"": 0.0, "magnitude:rate=0.8": 80.0}
    failed = {("salun", 0): "boom"}
    methods = ("retrain", "original", "scrub", "salun")
    write_folder(tmp_path, methods=methods, seeds=1, sizes=SMALL, scenarios=scenarios, failed=failed)
    page = written(tmp_path)
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) == 1 + 2 * (3 + 2)
    assert sum("magnitude:rate=0.8" in a["alt"] for a in images) == sum("dense" in a["alt"] for a in images) == 3 + 2
    spans = [a for tag, a in page.tags if tag == "tr" and a.get("class") == "scenario"]
    assert len(spans) == 2 * 2  # in the main table and in that of all metrics
    text = "".join(page.text)
    assert text.count("magnitude:rate=0.8 (80.0% sparse)") == 1 + 2
    assert text.count("dense, seed 0") == text.count("magnitude:rate=0.8, seed 0") == 3 + 2
    for part in (
        "Average gap to retraining over sparsity",
        "Share of the prunable weights",
        "The original model that the methods start from",
    ):
        assert part in text
    assert "against run time" not in text
    assert any(a.get("scope") == "rowgroup" for tag, a in page.tags if tag == "th")


def test_one_scenario_is_not_named(tmp_path):
    write_folder(tmp_path, methods=("retrain", "scrub"), seeds=1, sizes=SMALL, scenarios={"magnitude:rate=0.8": 80.0})
    page = written(tmp_path)
    text = "".join(page.text)
    assert "magnitude:rate" not in text
    assert "scenario" not in text.lower().partition("unlearning report")[2].partition("</style>")[2]
    assert "against run time" in text


def test_scenarios_that_do_not_differ_in_sparsity_have_no_chart_over_it(tmp_path):
    write_folder(tmp_path, methods=("retrain", "scrub"), seeds=1, sizes=SMALL, scenarios={"one": 50.0, "two": 50.0})
    text = "".join(written(tmp_path).text)
    assert "Average gap to retraining over" not in text
    assert "against run time" not in text


def test_the_glossary_explains_the_attack_and_the_noise_where_they_are_measured(tmp_path):
    write_folder(tmp_path, methods=("retrain",), seeds=1, sizes=SMALL)
    assert "ASR, attack success rate" not in "".join(written(tmp_path).text)
    path = next(tmp_path.glob("evaluate-*")) / "run.json"
    metrics = json.loads(path.read_text())["metrics"]
    rewrite(path, metrics={**metrics, "attack_success_rate": 3.0, "gaussian_poison.mean": 0.1})
    text = "".join(written(tmp_path).text)
    assert "ASR, attack success rate" in text
    assert "Poison score, mean Gaussian-poison score" in text
    assert "Poison TPR" not in text, "it was not measured"


def test_names_and_reasons_are_escaped_everywhere(tmp_path):
    label, reason = 'a<b>&"c"', "<script>alert(1)</script> & 'more'"
    write_folder(tmp_path, methods=("retrain", label, "scrub"), seeds=1, failed={("scrub", 0): reason}, sizes=SMALL)
    rewrite(tmp_path / "bench.json", name="<img src=x onerror=y>")
    page = written(tmp_path)
    assert page.count("script") == page.count("b") == 0
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert {label, reason, "<img src=x onerror=y>"} <= set(page.text)


@pytest.mark.parametrize(
    "options",
    [
        {"methods": ("scrub",), "seeds": 1},
        {"methods": ("retrain",), "seeds": 1},
        {"methods": ("original", "scrub"), "seeds": 2, "manifest": False},
        {"methods": ("retrain", "scrub"), "seeds": 1, "failed": {("retrain", 0): "x", ("scrub", 0): "y"}},
        {"methods": ("retrain", "scrub"), "seeds": 2, "failed": {("retrain", 1): "x"}},
    ],
)
def test_any_folder_makes_a_page(tmp_path, options):
    write_folder(tmp_path, sizes=SMALL, **options)
    page = written(tmp_path)
    assert "Provenance" in page.text
    assert (tmp_path / "results.md").read_text().startswith("| Method |")


def test_values_that_are_missing_make_a_page(tmp_path):
    write_folder(tmp_path, methods=("retrain", "scrub"), seeds=1, sizes=SMALL)
    for path in tmp_path.glob("evaluate-*/run.json"):
        rewrite(path, metrics=dict.fromkeys(json.loads(path.read_text())["metrics"]))
    text = " ".join(written(tmp_path).text)
    assert "No method has an average gap" in text
    assert "nan" not in text.lower().split()


@pytest.mark.slow
def test_twenty_methods_make_a_page(tmp_path):
    methods = ("retrain", "original", *(f"method_{number}" for number in range(18)))
    write_folder(tmp_path, methods=methods, seeds=1, sizes=SMALL)
    page = written(tmp_path)
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + 20 + 19


def test_cells_are_coloured_by_their_gap():
    assert [html.distance(gap) for gap in (0.0, 0.99, 1.0, 2.0, 4.9, 5.0, 9.9, 10.0, 80.0)] == [
        0,
        0,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
    ]


def test_what_cannot_be_written_is_an_error_and_leaves_nothing_behind(tmp_path, monkeypatch):
    write_folder(tmp_path / "runs", methods=("scrub",), seeds=1, sizes=SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        report.write(tmp_path / "runs", tmp_path / "file" / "report.html")
    out = tmp_path / "out"

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        report.write(tmp_path / "runs", out / "report.html")
    assert list(out.iterdir()) == []


def test_nothing_is_written_when_a_file_is_damaged(tmp_path):
    write_folder(tmp_path, methods=("scrub",), seeds=1, sizes=SMALL)
    next(tmp_path.glob("unlearn-*/history.jsonl")).write_text("{")
    with pytest.raises(ValueError, match=r"history\.jsonl"):
        report.write(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "results.csv").exists()


def results(*rows: Row) -> Results:
    return Results(Path("x"), "x", rows)


def row(label: str, seed: int, gap: float | None, seconds: float | None = None, status="finished") -> Row:
    return Row(
        label, seed, status, None if status == "finished" else "boom", {"average_gap": gap, "run_time.total": seconds}
    )


def said(*rows: Row) -> list[str]:
    found = results(*rows)
    return words.headline(found, tables.summarise(found), [(30, 300)])


def test_the_headline_names_the_nearest_method_its_cost_and_the_original():
    found = said(
        row("retrain", 0, 0.0, 50.0), row("original", 0, 6.0, 0.0), row("b", 0, 2.0, 5.0), row("a", 0, 3.0, 1.0)
    )
    assert found == [
        "30 of 300 training examples (10%) were to be forgotten, by 2 methods with 1 seed, compared with retraining.",
        "b is nearest to retraining: its average gap is 2.00 points, in 10% of the time of retraining; "
        "the original has an average gap of 6.00 points.",
        "All 4 runs finished.",
    ]


def test_the_headline_names_the_nearest_method_of_each_scenario():
    dense = (row("retrain", 0, 0.0, 50.0), row("b", 0, 2.0, 5.0), row("a", 0, 3.0, 1.0), row("original", 0, 1.0))
    pruned = (row("retrain", 0, 0.0, 10.0), row("b", 0, 9.0, 5.0), row("a", 0, 4.0, 1.0))
    sparse = [replace(found, metrics={**found.metrics, "sparsity": 87.54}, scenario="p:rate=0.5") for found in pruned]
    found = said(*dense, *sparse, replace(row("a", 0, None, status="failed"), scenario="q"))
    assert found == [
        "30 of 300 training examples (10%) were to be forgotten, by 2 methods with 1 seed in 3 scenarios.",
        "dense: No method is nearer to retraining than the original (an average gap of 1.00 points); "
        "b is nearest to retraining: its average gap is 2.00 points, in 10% of the time of retraining.",
        "p:rate=0.5 (87.5% sparse): a is nearest to retraining: its average gap is 4.00 points, "
        "in 10% of the time of retraining.",
        "q: No method has an average gap, so none can be ranked: that takes a finished run and a retrained model.",
        "1 of 8 runs failed (a).",
    ]


def recorded(label: str, seed: int, far: float, seconds: float) -> Row:
    """A row whose retraining repeats the training, 0.05 being the distance of the original."""
    values = {"weight_distance.relative_to_nothing": far, "weight_distance.to_reference": 0.05 * far}
    found = row(label, seed, 10.0 - far, seconds)
    return replace(found, metrics={**found.metrics, **values}, config=RECORDED)


def test_after_recorded_trainings_the_headline_speaks_of_distances():
    rows = [recorded("retrain", 0, 0.0, 10.0), recorded("original", 0, 1.0, 0.0), recorded("b", 0, 0.25, 23.4)]
    assert said(*rows, recorded("a", 0, 0.75, 1.0))[1] == (
        "b is nearest to retraining: its relative distance is 0.250 (that of the original is 1), in 2.3 times "
        "the time of retraining; the original has a distance of 0.0500."
    )
    assert said(*rows[:2], recorded("c", 0, 1.5, 1.0))[1] == (
        "No method is nearer to retraining than the original (a distance of 0.0500); c is nearest to retraining: "
        "its relative distance is 1.500 (that of the original is 1), in 10% of the time of retraining."
    )
    near = [recorded(label, seed, far, 1.0) for label, seed, far in (("b", 0, 0.1), ("b", 1, 0.3), ("c", 0, 0.3))]
    assert "The distance of c differs from that by no more than the spread between seeds." in said(*rows[:2], *near)
    assert said(rows[0])[1].startswith("No method has a distance to retrained weights")


def test_the_headline_says_how_many_were_forgotten_where_scenarios_differ():
    found = results(row("retrain", 0, 0.0), row("b", 0, 2.0))
    sentence = words.headline(found, tables.summarise(found), [(60, 300), (1, 300)])[0]
    assert sentence.startswith("1 to 60 of 300 training examples (0.333% to 20%) were to be forgotten, by 1 method")
    assert words.headline(found, tables.summarise(found), [])[0].startswith("A forget set was to be forgotten")


def test_the_page_of_recorded_trainings_explains_distances_and_the_edge_of_its_chart(tmp_path):
    write_folder(tmp_path, methods=("retrain", "original", "scrub"), seeds=1, sizes=SMALL)
    for far in (1.5, 2.5):
        for path in tmp_path.glob("evaluate-*/config.json"):
            config = json.loads(path.read_text())
            config["subject"]["original"]["training"]["record"] = True
            rewrite(path, **config)
            record = json.loads((path.parent / "run.json").read_text())
            value = {"retrain": 0.0, "original": 1.0}.get(record["label"], far)
            record["metrics"]["weight_distance.relative_to_nothing"] = value
            rewrite(path.parent / "run.json", **record)
        text = report.write(tmp_path, tmp_path / "report.html").read_text()
        assert "methods are ranked by the distance to retraining divided by that of the original." in text
        assert ("Values drawn at the upper edge are 2 or more" in text) == (far > 2)


def test_the_headline_says_when_the_original_is_nearer():
    found = said(row("retrain", 0, 0.0), row("original", 0, 1.0), row("b", 0, 2.0))
    assert found[1].startswith(
        "No method is nearer to retraining than the original (an average gap of 1.00 points); b is nearest"
    )


def test_the_headline_names_methods_within_the_spread():
    near = [row("b", 0, 1.0), row("b", 1, 3.0), row("c", 0, 2.0), row("c", 1, 3.0), row("d", 0, 9.0), row("d", 1, 9.1)]
    found = said(row("original", 0, 20.0), *near)
    assert "The gap of c differs from that by no more than the spread between seeds." in found


def test_the_headline_counts_failures_and_what_is_pending():
    found = said(row("a", 0, 1.0), row("b", 0, None, status="failed"), row("b", 1, None, status="pending"))
    assert found[-1] == "1 of 3 runs failed (b). 1 of 3 runs is pending."


@pytest.mark.parametrize(
    ("forget", "expected"),
    [
        ({"name": "random", "count": 4}, "chosen at random"),
        ({"name": "class", "classes": [3, 5]}, "class 3, 5"),
        ({"name": "ids", "ids": [1, 2]}, "a list of ids"),
        ({"name": "of_another_package", "run": "x"}, "of_another_package"),
    ],
)
def test_the_forget_set_in_words(forget, expected):
    assert words.forget_words(results(Row("a", 0, "finished", config={"subject": {"forget": forget}}))) == expected


def test_the_configuration_shows_what_is_shared_and_what_differs(tmp_path):
    write_folder(tmp_path, methods=("retrain", "scrub"), seeds=2, sizes=SMALL)
    found = load(tmp_path)
    common = words.common_configuration(found)
    assert common["original.model.name"] == "small_cnn"
    assert common["seed"] == "0; 1"
    assert not any("unlearning" in name for name in common)
    assert words.method_configurations(found, ["scrub", "nobody"]).keys() == {"scrub"}
    provenance = words.provenance(found)
    assert provenance["largest memory"] == "400 MiB"
    assert provenance["evaluated"] == "2026-01-02 03:00:00 UTC to 2026-01-02 03:01:30 UTC"
