"""The numbers of the table against hand-worked ones, and its text forms."""

import csv
import dataclasses
import io
import statistics
from pathlib import Path

import pytest

from expunge.core import registry
from expunge.core.registry import Measure
from expunge.report import tables, words
from expunge.report.results import Results, Row
from tests.unit._report_fixture import RECORDED


def row(label, seed, status="finished", reason=None, **metrics):
    return Row(label, seed, status, reason, {name.replace("__", "."): value for name, value in metrics.items()})


def folder(*rows) -> Results:
    return Results(Path("here"), "demo", rows)


COMPARED = folder(
    row("zeta", 0, unlearning_accuracy=9.0, average_gap=4.0, run_time__total=1.0),
    row("zeta", 1, unlearning_accuracy=2.0, average_gap=2.0, run_time__total=3.0),
    row("alpha", 0, unlearning_accuracy=6.0, average_gap=5.0, run_time__total=1.0),
    row("original", 0, unlearning_accuracy=0.0, average_gap=1.0, run_time__total=0.0),
    row("retrain", 0, unlearning_accuracy=5.0, average_gap=0.0, run_time__total=100.0),
    row("retrain", 1, unlearning_accuracy=7.0, average_gap=0.0, run_time__total=120.0),
)


def cell(results, label, metric):
    return tables.summarise(results).line(label).cells[metric]


def test_mean_sample_deviation_and_gap_by_hand():
    found = cell(COMPARED, "zeta", "unlearning_accuracy")
    assert (found.n, found.mean) == (2, 5.5)
    assert found.std == pytest.approx(7 / 2**0.5)  # sqrt(2 * 3.5^2 / (2 - 1))
    assert found.gap == (abs(9 - 5) + abs(2 - 7)) / 2  # of the same seed, not of the means: that would be 0.5


def test_the_deviation_is_the_sample_standard_deviation():
    values = [3.0, 4.5, 9.25, 1.0]
    found = cell(folder(*(row("m", seed, tow=value) for seed, value in enumerate(values))), "m", "tow")
    assert found.std == pytest.approx(statistics.stdev(values))
    assert found.mean == pytest.approx(statistics.mean(values))


def test_one_seed_has_no_spread():
    assert cell(COMPARED, "alpha", "unlearning_accuracy").std is None


def test_a_gap_counts_only_seeds_that_were_retrained():
    results = folder(
        row("m", 0, test_accuracy=90.0), row("m", 1, test_accuracy=50.0), row("retrain", 0, test_accuracy=91.0)
    )
    assert cell(results, "m", "test_accuracy").gap == 1.0
    assert cell(folder(row("m", 0, test_accuracy=90.0)), "m", "test_accuracy").gap is None


def test_failed_rows_and_missing_values_do_not_count():
    results = folder(row("m", 0, tow=0.5), row("m", 1, tow=None), row("m", 2, "failed", "boom", tow=0.1))
    found = tables.summarise(results).line("m")
    assert (found.cells["tow"].n, found.cells["tow"].mean) == (1, 0.5)
    assert (found.finished, found.failed, found.total) == (2, 1, 3)
    assert found.note == "1 of 3 failed: boom"


def test_times_and_gaps_have_no_gap_of_their_own():
    assert cell(COMPARED, "zeta", "run_time.total").gap is None
    assert cell(COMPARED, "zeta", "average_gap").gap is None


def test_retraining_comes_first_then_the_original_then_by_average_gap():
    more = folder(*COMPARED.rows, row("beta", 0, "failed", "x"), row("aaa", 0, "pending"))
    assert [line.label for line in tables.summarise(more).lines] == [
        "retrain", "original", "zeta", "alpha", "aaa", "beta",
    ]  # fmt: skip


def test_metrics_are_in_the_order_of_the_field_and_third_party_ones_last():
    results = folder(
        row("m", 0, zebra=1.0, tow=1.0, run_time__total=1.0, unlearning_accuracy=1.0, membership_svc__prob=2.0)
    )
    names = [measure.name for measure in tables.summarise(results).measures]
    assert names == ["unlearning_accuracy", "tow", "run_time.total", "membership_svc.prob", "zebra"]
    assert [m.name for m in tables.summarise(results).headline] == names[:3]
    third_party = tables.summarise(folder(row("m", 0, zebra=1.0)))
    assert [m.name for m in third_party.headline] == ["zebra"]


@pytest.mark.parametrize(
    ("name", "mean", "std", "expected"),
    [
        ("test_accuracy", 94.24, 0.251, "94.2 ± 0.3"),
        ("test_accuracy", 100.0, None, "100.0"),
        ("average_gap", 1.234, 0.1, "1.23 ± 0.10"),
        ("tow", 0.98765, 0.0123, "0.988 ± 0.012"),
        ("run_time.total", 123.4, 5.6, "123 ± 6"),
        ("run_time.total", 0.0, 0.0, "0.00 ± 0.00"),
        ("run_time.total", 0.01234, 0.001, "0.012 ± 0.001"),
        ("run_time.total", 0.00005, None, "0.000"),
        ("weight_distance.to_original", 12345678.0, 100.0, "1.23e+07 ± 1.0e+02"),
        ("weight_distance.to_original", 0.00001234, None, "1.23e-05"),
        ("test_accuracy", 0.0001, None, "0.0"),
    ],
)
def test_numbers_are_rounded_to_the_digits_that_count(name, mean, std, expected):
    assert tables.spread(tables.Cell(2, mean, std, None), tables.measure(name)) == expected


@pytest.mark.parametrize(
    "name",
    [
        *(f"lira.{key}" for key in ("auc", "tpr_at_1_percent", "tpr_at_0_1_percent")),
        *(f"lira.offline_{key}" for key in ("auc", "tpr_at_1_percent")),
        *(f"unlearning_attack.{key}" for key in ("auc", "tpr_at_1_percent")),
        *(f"change_correlation.{s}_{k}" for s in ("forget", "retain", "test") for k in ("pearson", "spearman")),
        *(f"weight_distance.{key}" for key in ("to_original", "to_reference", "relative_to_reference")),
        *(f"weight_distance.{key}" for key in ("nothing_to_reference", "nothing_relative_to_reference")),
        "weight_distance.relative_to_nothing",
    ],
)
def test_attacks_and_distances_have_a_name_of_their_own(name):
    found = tables.measure(name)
    assert found.title != name.replace("_", " ").replace(".", ": ")
    assert found.short
    assert found.meaning
    assert found.compared == name.startswith(("lira.", "unlearning_attack.")), "judged by the retrained model's value"


def test_csv_has_unrounded_numbers_and_empty_fields_for_missing_ones():
    text = tables.csv(tables.summarise(folder(*COMPARED.rows, row('a "b", c', 0, "failed", "first\nsecond, third"))))
    found = {record["method"]: record for record in csv.DictReader(io.StringIO(text))}
    assert float(found["zeta"]["unlearning_accuracy.std"]) == pytest.approx(7 / 2**0.5, rel=1e-14)
    assert float(found["zeta"]["unlearning_accuracy.gap"]) == 4.5
    assert found["alpha"]["unlearning_accuracy.std"] == ""
    assert found['a "b", c']["note"] == "1 of 1 failed: first second, third"
    assert (found["zeta"]["finished"], found["zeta"]["total"]) == ("2", "2")


def test_markdown_has_one_line_per_method_and_escapes():
    text = tables.markdown(tables.summarise(folder(*COMPARED.rows, row("a|b_c<d>", 0, "failed", "x | y\nz"))))
    lines = text.splitlines()
    assert lines[0] == "| Method | UA (%) | Avg. gap (points) | Time (s) | Note |"
    assert lines[2].startswith("| retrain | 6.0 ± 1.4 | 0.00 ± 0.00 | 110 ± 14 |")
    assert "| zeta | 5.5 ± 4.9 (4.5) | 3.00 ± 1.41 | 2.00 ± 1.41 |  |" in lines
    assert r"| a\|b\_c\<d\> |" in text
    assert r"1 of 1 failed: x \| y z |" in text


def test_latex_is_booktabs_and_escapes():
    text = tables.latex(tables.summarise(folder(*COMPARED.rows, row("a_b&c%$#{}~^\\", 0, tow=0.5))))
    assert r"\begin{tabular}{lrrrr}" in text
    assert [sign in text for sign in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    assert r"a\_b\&c\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} & -- &" in text
    assert r"zeta & 5.5 $\pm$ 4.9 (4.5) & 3.00 $\pm$ 1.41 & -- & 2.00 $\pm$ 1.41 \\" in text


def test_every_latex_row_has_as_many_cells_as_the_head():
    summary = tables.summarise(folder(*COMPARED.rows, row("broken", 0, "failed", "why & how")))
    rows = [line for line in tables.latex(summary).splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {4}


def test_terminal_rows_are_plain_and_narrow():
    title, heads, rows = tables.terminal(tables.summarise(COMPARED))
    assert title == "demo: mean ± standard deviation over 2 seeds"
    assert heads == ["method", "UA %", "Avg. gap", "Time s"]
    assert rows[0] == ["retrain", "6.0±1.4", "0.0±0.0", "110"]
    noted = tables.terminal(tables.summarise(folder(row("m", 0, "failed", "boom"))))
    assert noted == ("demo: one seed", ["method", "note"], [["m", "1 of 1 failed: boom"]])


def test_a_metric_of_a_plug_in_is_compared_when_it_says_so(monkeypatch):
    from expunge.core import registry
    from expunge.core.registry import Mark, Plugin

    marks = {"leak.rate": "reference", "speed": "lower"}
    measures = {name: (Measure(name, better, name=name),) for name, better in marks.items()}
    found = {name: Plugin(name, print, int, Mark("metrics", measures=measures[name])) for name in marks}
    monkeypatch.setattr(registry, "plugins", lambda kind: found)
    assert tables.measure("leak.rate").compared
    assert not tables.measure("speed").compared
    assert not tables.measure("unknown").compared


def test_a_value_that_no_metric_describes_has_its_name_for_a_title():
    summary = tables.summarise(folder(row("m", 0, someones_own__value=0.25, tow=1.0), row("retrain", 0, tow=1.0)))
    found = summary.measures[-1]
    assert (found.name, found.head, found.headline) == ("someones_own.value", "someones own: value", False)
    assert not found.compared
    assert "someones_own.value.mean" in tables.csv(summary)


def test_the_direction_and_the_limits_in_words():
    measures = registry.measures()
    assert measures["test_accuracy"].aim == "best where it equals that of the retrained model"
    assert measures["test_accuracy"].limits == "from 0 to 100"
    assert measures["tow"].aim == "higher is better; the retrained model has 1"
    assert measures["run_time.total"].aim == "lower is better"
    assert measures["run_time.total"].limits == "at least 0"
    assert measures["weight_distance.to_original"].aim == ""
    assert Measure("x", range=(None, 3)).limits == "at most 3"
    assert Measure("x", retrained=2).aim == "the retrained model has 2"
    assert Measure("x").limits == ""


def test_a_metric_must_describe_itself():
    with pytest.raises(ValueError, match="needs a Measure"):
        registry.metric()
    with pytest.raises(ValueError, match="better must be higher, lower, reference or empty, got 'up'"):
        Measure("x", "up")


def four(label, seed, *values):
    names = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc__confidence")
    return row(label, seed, **dict(zip(names, values, strict=True)), average_gap=5.0)


GAPS = folder(
    four("retrain", 0, 6.0, 100.0, 90.0, 20.0),
    four("retrain", 1, 4.0, 100.0, 92.0, 24.0),
    four("m", 0, 9.0, 98.0, 91.0, 22.0),
    four("m", 1, 1.0, 96.0, 91.0, 30.0),
    four("m", 2, 2.0, 97.0, 91.0, 23.0),
    row("m", 3, "failed", "boom"),
)


def test_the_gap_of_means_by_hand_beside_ours():
    """Means of m: 4, 97, 91, 25; of retraining: 5, 100, 91, 22. Deviations of m by n: of 9, 1, 2, of 98, 96, 97, ..."""
    found = cell(GAPS, "m", "gap_of_means")
    assert (found.n, found.gap) == (3, None)
    assert found.mean == pytest.approx((1 + 3 + 0 + 3) / 4)
    columns = ((9, 1, 2), (98, 96, 97), (91, 91, 91), (22, 30, 23))
    assert found.std == pytest.approx(sum(map(statistics.pstdev, columns)) / 4)
    retrained = cell(GAPS, "retrain", "gap_of_means")
    assert (retrained.mean, retrained.std) == (0.0, (1 + 0 + 1 + 2) / 4)
    assert cell(GAPS, "m", "average_gap").mean == 5.0, "ours is another"


def test_the_gap_of_means_is_named_apart_in_every_table_but_the_narrow_one():
    summary = tables.summarise(GAPS)
    heads = tables.markdown(summary).splitlines()[0]
    assert "| Avg. gap (points) | Gap of means (points) |" in heads
    assert "1.75 ± 1.98" in tables.markdown(summary)
    assert "population" in tables.legend(summary)
    assert "Gap of means" in tables.latex(summary)
    assert "gap_of_means.mean" in tables.csv(summary)
    assert not any("means" in head for head in tables.terminal(summary)[1])
    (meaning,) = (text for term, text in words.glossary(summary).items() if term.startswith("Gap of means"))
    assert "cancel" in meaning


def test_there_is_no_gap_of_means_of_one_seed_or_of_missing_parts():
    one = folder(four("retrain", 0, 6.0, 100.0, 90.0, 20.0), four("m", 0, 9.0, 98.0, 91.0, 22.0))
    alone = folder(*(found for found in GAPS.rows if found.label == "m"))
    parts = folder(*(dataclasses.replace(f, metrics={"test_accuracy": 1.0, "average_gap": 1.0}) for f in GAPS.rows))
    for results in (one, alone, parts):
        summary = tables.summarise(results)
        assert not any("gap_of_means" in line.cells for line in summary.lines)
        assert "population" not in tables.legend(summary)


def among(scenario, *rows):
    return [dataclasses.replace(row, scenario=scenario) for row in rows]


SEVERAL = folder(
    *among("", row("retrain", 0, test_accuracy=90.0, average_gap=0.0), row("retrain", 1, test_accuracy=80.0)),
    *among("", row("b", 0, test_accuracy=84.0, average_gap=6.0), row("b", 1, test_accuracy=78.0, average_gap=2.0)),
    *among("", row("a", 0, test_accuracy=89.0, average_gap=1.0)),
    *among("p:rate=0.8,rounds=2", row("original", 0, sparsity=79.0), row("original", 1, sparsity=81.0)),
    *among("p:rate=0.8,rounds=2", row("a", 0, test_accuracy=60.0, average_gap=9.0, sparsity=90.0)),
    *among("p:rate=0.8,rounds=2", row("b", 0, test_accuracy=55.0, average_gap=3.0, sparsity=80.0)),
    *among("p:rate=0.8,rounds=2", row("retrain", 0, test_accuracy=50.0, average_gap=0.0, sparsity=80.0)),
    *among("dropped_everything", row("b", 0, "failed", "boom")),
)


def test_gaps_are_to_the_retrained_model_of_the_same_scenario_and_seed():
    dense, pruned, _ = (part.table for part in tables.summarise(SEVERAL).parts)
    assert dense.line("b").cells["test_accuracy"].gap == (6 + 2) / 2
    assert dense.line("b").cells["test_accuracy"].mean == 81.0
    assert pruned.line("b").cells["test_accuracy"].gap == 5.0
    assert pruned.line("a").cells["test_accuracy"].gap == 10.0
    alone = folder(*among("x", row("m", 0, test_accuracy=1.0)), *among("y", row("retrain", 0, test_accuracy=2.0)))
    assert cell(alone, "m", "test_accuracy").gap is None


def test_scenarios_are_in_order_of_appearance_and_ranked_within():
    found = [(line.scenario, line.label) for line in tables.summarise(SEVERAL).lines]
    assert found == [
        *(("", label) for label in ("retrain", "a", "b")),
        *(("p:rate=0.8,rounds=2", label) for label in ("retrain", "original", "b", "a")),
        ("dropped_everything", "b"),
    ]


def test_the_sparsity_of_a_scenario_is_that_of_its_originals():
    dense, pruned, broken = tables.summarise(SEVERAL).parts
    assert (dense.sparsity, pruned.sparsity, broken.sparsity) == (0.0, 80.0, None)
    assert [part.title for part in (dense, pruned, broken)] == [
        "dense", "p:rate=0.8, rounds=2 (80.0% sparse)", "dropped_everything",
    ]  # fmt: skip
    without = folder(*[row for row in SEVERAL.rows if row.label != "original"])
    assert tables.summarise(without).parts[1].sparsity == pytest.approx((90 + 80 + 80) / 3)


def test_a_dense_model_has_sparsity_0_beside_sparse_ones_only():
    assert tables.summarise(SEVERAL).line("a").cells["sparsity"] == tables.Cell(1, 0.0, None, 0.0)
    assert "sparsity" not in tables.summarise(COMPARED).line("alpha").cells


def test_one_scenario_looks_the_same_whatever_it_is_called():
    called = tables.summarise(folder(*among("p:rate=0.8", *COMPARED.rows)))
    plain = tables.summarise(COMPARED)
    for form in (tables.csv, tables.markdown, tables.latex, tables.terminal):
        assert form(called) == form(plain)


def test_csv_has_a_column_of_scenarios_where_there_are_several():
    records = list(csv.DictReader(io.StringIO(tables.csv(tables.summarise(SEVERAL)))))
    assert [record["scenario"] for record in records] == (
        ["dense"] * 3 + ["p:rate=0.8,rounds=2"] * 4 + ["dropped_everything"]
    )
    assert [float(record["test_accuracy.gap"] or -1) for record in records] == [0, 1, 4, 0, -1, 5, 10, -1]
    assert "scenario" not in tables.csv(tables.summarise(COMPARED))


def test_markdown_names_the_scenario_in_every_line():
    lines = tables.markdown(tables.summarise(SEVERAL)).splitlines()
    assert lines[0] == "| Scenario | Method | TA (%) | Avg. gap (points) | Note |"
    assert lines[1] == "| --- | --- | ---: | ---: | --- |"
    assert "| dense | a | 89.0 (1.0) | 1.00 |  |" in lines
    assert rf"| dropped\_everything | b | {tables.MISSING} | {tables.MISSING} | 1 of 1 failed: boom |" in lines
    assert lines[-1].endswith("the mean absolute gap to the retrained model of the same scenario.")


def test_latex_has_a_row_across_for_each_scenario():
    text = tables.latex(tables.summarise(SEVERAL))
    heads = [line for line in text.splitlines() if "multicolumn" in line]
    assert heads == [
        r"\multicolumn{4}{l}{\emph{dense}} \\",
        r"\multicolumn{4}{l}{\emph{p:rate=0.8, rounds=2 (80.0\% sparse)}} \\",
        r"\multicolumn{4}{l}{\emph{dropped\_everything}} \\",
    ]
    assert text.count(r"\midrule") == 3
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and line not in heads]
    assert {line.count("&") for line in rows} == {3}


def test_the_terminal_has_rows_with_the_name_of_each_scenario():
    _, heads, rows = tables.terminal(tables.summarise(SEVERAL))
    assert {len(cells) for cells in rows} == {len(heads)} == {4}
    assert [cells[0] for cells in rows] == [
        "dense", "  retrain", "  a", "  b", "",
        "p:rate=0.8, rounds=2", "(80.0% sparse)", "  retrain", "  original", "  b", "  a", "",
        "dropped_everything", "  b",
    ]  # fmt: skip


def test_the_attack_is_in_the_main_table_without_a_gap_and_the_audit_of_noise_in_the_other():
    results = folder(
        row("m", 0, attack_success_rate=40.0, gaussian_poison__mean=0.5, gaussian_poison__true_positive_rate=3.0),
        row("retrain", 0, attack_success_rate=10.0, gaussian_poison__mean=0.1, gaussian_poison__true_positive_rate=1.0),
    )
    summary = tables.summarise(results)
    assert [measure.head for measure in summary.headline] == ["ASR (%)"]
    assert [measure.head for measure in summary.measures] == ["ASR (%)", "Poison score", "Poison TPR (%)"]
    cells = summary.line("m").cells
    assert cells["attack_success_rate"].gap is None
    assert cells["gaussian_poison.mean"].gap == pytest.approx(0.4)
    assert cells["gaussian_poison.true_positive_rate"].gap == 2.0


def by(method, *, original=None, label=None, **metrics):
    unlearning = {"method": method, "update_mask": None, "adapters": None}
    subject = {"unlearning": unlearning, "seed": 0, "original": original or {"training": {}}}
    name = label or (method if isinstance(method, str) else method["name"])
    return dataclasses.replace(row(name, 0, **metrics), config={"subject": subject})


SEEING = folder(
    by("retrain", test_accuracy=90.0),
    by({"name": "adversarial"}, test_accuracy=80.0),
    by({"name": "scrub", "rewind": True}, label="scrub+r", test_accuracy=70.0),
    by({"name": "scrub", "rewind": False}, test_accuracy=60.0),
    by("finetune", original={"unlearning": {"method": "adversarial"}}, label="then", test_accuracy=50.0),
    by({"name": "not_installed"}, test_accuracy=40.0),
)


def test_methods_that_see_validation_images_are_marked_in_every_table():
    summary = tables.summarise(SEEING)
    assert {line.label for line in summary.lines if line.validation} == {"adversarial", "scrub+r", "then"}
    sentence = "\N{DAGGER} sees validation images: what is measured or searched on these flatters it"
    assert tables.legend(summary).endswith(f"; {sentence}")
    text = tables.markdown(summary)
    assert "| adversarial \N{DAGGER} | 80.0 (10.0) |" in text
    assert "| scrub | 60.0 (30.0) |" in text
    assert sentence in text
    latex = tables.latex(summary)
    assert r"adversarial \dag{} & 80.0 (10.0) \\" in latex
    assert latex.isascii()
    title, _, rows = tables.terminal(summary)
    assert title.endswith(sentence)
    assert {cells[0] for cells in rows if "\N{DAGGER}" in cells[0]} == {
        "adversarial \N{DAGGER}", "scrub+r \N{DAGGER}", "then \N{DAGGER}",
    }  # fmt: skip
    records = csv.DictReader(io.StringIO(tables.csv(summary)))
    assert {record["method"] for record in records if record["sees_validation"] == "true"} == {
        "adversarial", "scrub+r", "then",
    }  # fmt: skip


def test_where_no_method_sees_validation_images_no_table_speaks_of_them():
    summary = tables.summarise(folder(*(found for found in SEEING.rows if found.label in ("retrain", "scrub"))))
    for form in (tables.markdown, tables.latex, tables.legend):
        assert "validation" not in form(summary)


AFTER_RECORDED_TRAININGS = [
    dataclasses.replace(found, config=RECORDED)
    for found in (
        row("retrain", 0, average_gap=0.0, weight_distance__relative_to_nothing=0.0, tow=1.0),
        row("original", 0, average_gap=1.0, weight_distance__relative_to_nothing=1.0, tow=0.9),
        row("a", 0, average_gap=2.0, weight_distance__relative_to_nothing=0.5, tow=0.9),
        row("b", 0, average_gap=3.0, weight_distance__relative_to_nothing=0.0131, tow=0.8),
    )
]


def test_after_recorded_trainings_methods_are_ranked_by_the_distance_of_weights():
    found = tables.summarise(folder(*AFTER_RECORDED_TRAININGS))
    assert found.ranking.name == tables.RELATIVE
    assert [line.label for line in found.lines] == ["retrain", "original", "b", "a"]
    assert [measure.short for measure in found.headline] == ["Avg. gap", "Relative distance"]
    assert "0.013" in tables.markdown(found)


@pytest.mark.parametrize(("recorded", "ranking"), [(True, tables.RELATIVE), (False, tables.GAP)])
def test_a_reference_of_another_initialisation_leaves_distances_out_of_the_main_table(recorded, ranking):
    """The original was recorded, but one reference was trained anew, from weights of its own."""
    again = {"reference": {"unlearning": {"method": {"name": "retrain", "recorded": recorded}}}}
    rows = [dataclasses.replace(found, config=RECORDED | again) for found in AFTER_RECORDED_TRAININGS[-1:]]
    summary = tables.summarise(folder(*AFTER_RECORDED_TRAININGS[:-1], *rows))
    assert summary.ranking.name == ranking
    assert any(measure.name.startswith("weight_distance") for measure in summary.headline) == recorded
    assert any(measure.name.startswith("weight_distance") for measure in summary.measures)


def test_after_recorded_trainings_the_terminal_has_room_for_distances():
    values = {"test_accuracy": 90.0, "weight_distance.to_reference": 0.05}
    rows = [dataclasses.replace(found, metrics={**found.metrics, **values}) for found in AFTER_RECORDED_TRAININGS]
    again = [dataclasses.replace(found, seed=1) for found in rows]
    _, heads, cells = tables.terminal(tables.summarise(folder(*rows, *again)))
    assert heads == ["method", "Avg. gap", "Distance", "Relative distance"]
    assert cells[2] == ["b", "3.0±0.0", "0.0500", "0.013±0.000"]


def test_one_training_that_was_not_recorded_ranks_by_the_average_gap():
    mixed = tables.summarise(folder(*AFTER_RECORDED_TRAININGS, row("c", 0, average_gap=0.5)))
    assert mixed.ranking.name == tables.RELATIVE  # nothing is known of its training
    other = {"subject": {"original": {"training": {"record": False}}}}
    mixed = tables.summarise(
        folder(*AFTER_RECORDED_TRAININGS, dataclasses.replace(row("c", 0, average_gap=0.5), config=other))
    )
    assert mixed.ranking.name == tables.GAP
    assert [line.label for line in mixed.lines] == ["retrain", "original", "c", "a", "b"]
    assert [measure.short for measure in mixed.headline] == ["Avg. gap", "ToW"]
