"""Reading a folder of runs: every row, and one clear message for every file that is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from expunge.core.errors import RequestError
from expunge.report import results
from tests.runs import reseal
from tests.unit._report_fixture import add_entry, rewrite, write_folder

SMALL = (6, 10, 8)


def small(folder: Path, **options) -> Path:
    return write_folder(folder, methods=("retrain", "original", "scrub"), sizes=SMALL, **options)


def test_every_entry_is_a_row_with_its_numbers(tmp_path):
    found = results.load(small(tmp_path, seeds=2))
    assert found.name == "demo"
    assert [(row.label, row.seed) for row in found.rows] == [
        (label, seed) for seed in (0, 1) for label in ("retrain", "original", "scrub")
    ]
    row = found.rows[5]
    stored = json.loads((tmp_path / row.run / "run.json").read_text())
    assert row.metrics == stored["metrics"]
    assert row.subject == stored["parents"]["subject"]
    assert row.config == json.loads((tmp_path / row.run / "config.json").read_text())


def test_without_a_manifest_every_evaluation_counts_and_its_seed_is_the_subjects(tmp_path):
    found = results.load(small(tmp_path, seeds=2, manifest=False))
    assert sorted((row.label, row.seed) for row in found.rows) == sorted(
        (label, seed) for seed in (0, 1) for label in ("retrain", "original", "scrub")
    )
    assert found.name == tmp_path.name


def test_different_configurations_of_one_method_are_told_apart_without_a_manifest(tmp_path):
    small(tmp_path, seeds=2, manifest=False)
    changed = next(tmp_path.glob("evaluate-scrub-s1-*")) / "config.json"
    config = json.loads(changed.read_text())
    config["subject"]["unlearning"]["method"]["epochs"] = 7
    rewrite(changed, **config)
    labels = {row.label for row in results.load(tmp_path).rows}
    assert labels == {"retrain", "original", "scrub:epochs=5", "scrub:epochs=7"}


def test_the_same_label_and_seed_twice_are_told_apart_by_the_run(tmp_path):
    small(tmp_path, seeds=1, manifest=False)
    twin = tmp_path / "evaluate-scrub-s0-ffffffffffff"
    source = next(tmp_path.glob("evaluate-scrub-*"))
    twin.mkdir()
    for name in ("run.json", "config.json"):
        (twin / name).write_bytes((source / name).read_bytes())
    labels = [row.label for row in results.load(tmp_path).rows if row.label.startswith("scrub")]
    assert sorted(labels) == ["scrub 000000000000", "scrub ffffffffffff"]


def test_rows_know_their_scenario_from_the_manifest_and_without_one_from_the_run(tmp_path):
    scenarios = {"": 0.0, "magnitude:rate=0.8": 80.0}
    small(tmp_path, seeds=2, scenarios=scenarios)
    found = results.load(tmp_path)
    assert found.scenarios == list(scenarios)
    assert [row.scenario for row in found.rows] == [""] * 6 + ["magnitude:rate=0.8"] * 6
    assert found.first("scrub", "magnitude:rate=0.8").metrics["sparsity"] == 80.0
    assert found.first("scrub").scenario == ""
    assert found.first("scrub", "none such") is None
    (tmp_path / "bench.json").unlink()
    alone = results.load(tmp_path)
    assert sorted(map(_place, alone.rows)) == sorted(map(_place, found.rows))


def _place(row):
    return row.scenario, row.seed, row.label


def test_files_without_a_scenario_have_the_plain_one(tmp_path):
    small(tmp_path, seeds=1)
    assert "scenario" not in (tmp_path / "bench.json").read_text()
    assert results.load(tmp_path).scenarios == [""]
    rewrite(next(tmp_path.glob("evaluate-scrub-*")) / "run.json", scenario="magnitude")
    assert results.load(tmp_path).scenarios == [""]  # the list takes precedence


def test_a_run_that_was_never_made_has_the_scenario_of_its_entry(tmp_path):
    small(tmp_path, seeds=1)
    add_entry(tmp_path, label="salun", seed=0, run=None, status="pending", scenario="random")
    assert results.load(tmp_path).rows[-1].scenario == "random"


@pytest.mark.parametrize("manifest", [True, False])
def test_a_scenario_that_is_no_text_is_named(tmp_path, manifest):
    small(tmp_path, seeds=1, manifest=manifest)
    if manifest:
        entry = {"label": "salun", "seed": 0, "run": None, "status": "pending", "scenario": 3}
        rewrite(tmp_path / "bench.json", entries=[entry])
    else:
        rewrite(next(tmp_path.glob("evaluate-scrub-*")) / "run.json", scenario=3)
    with pytest.raises(RequestError, match=r"\.json is damaged \(expected str, got 3 @ .*scenario"):
        results.load(tmp_path)


def test_failed_rows_keep_their_reason(tmp_path):
    found = results.load(small(tmp_path, seeds=1, failed={("scrub", 0): "loss is NaN at step 3"}))
    row = found.rows[-1]
    assert (row.status, row.reason, dict(row.metrics)) == ("failed", "loss is NaN at step 3", {})
    assert found.first("scrub") is None
    assert found.first("retrain").seed == 0


def test_a_run_that_failed_before_its_evaluation_is_known_from_the_manifest(tmp_path):
    small(tmp_path, seeds=1)
    add_entry(tmp_path, label="salun", seed=0, run="evaluate-salun-x", status="failed", reason="no memory")
    row = results.load(tmp_path).rows[-1]
    assert (row.label, row.status, row.reason) == ("salun", "failed", "no memory")


def test_the_status_in_a_run_directory_takes_precedence(tmp_path):
    small(tmp_path, seeds=1)
    entries = json.loads((tmp_path / "bench.json").read_text())["entries"]
    rewrite(tmp_path / "bench.json", entries=[entry | {"status": "pending"} for entry in entries])
    add_entry(tmp_path, label="salun", seed=0, run=None, status="pending", reason=None)
    assert [row.status for row in results.load(tmp_path).rows] == ["finished"] * 3 + ["pending"]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_none(tmp_path, value):
    small(tmp_path, seeds=1)
    run = next(tmp_path.glob("evaluate-scrub-*")) / "run.json"
    rewrite(run, metrics={"tow": value, "average_gap": 1})
    assert dict(results.load(tmp_path).rows[-1].metrics) == {"tow": None, "average_gap": 1.0}


@pytest.mark.parametrize("text", ["{", "[]", '{"status": "perhaps"}', '{"status": "finished", "label": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
    small(tmp_path, seeds=1)
    run = next(tmp_path.glob("evaluate-scrub-*")) / "run.json"
    run.write_text(text)
    with pytest.raises(RequestError, match=str(run)):
        results.load(tmp_path)


@pytest.mark.parametrize("key", ["metrics", "parents", "versions"])
def test_a_record_with_a_part_of_the_wrong_type_is_named(tmp_path, key):
    small(tmp_path, seeds=1)
    run = next(tmp_path.glob("evaluate-scrub-*")) / "run.json"
    rewrite(run, **{key: "none"})
    with pytest.raises(RequestError, match=rf"{run} is damaged \(.*{key}"):
        results.load(tmp_path)


@pytest.mark.parametrize("subject", [None, "x", {"seed": "0"}, {}])
def test_a_configuration_without_a_seed_is_named(tmp_path, subject):
    small(tmp_path, seeds=1)
    path = next(tmp_path.glob("evaluate-scrub-*")) / "config.json"
    rewrite(path, subject=subject)
    with pytest.raises(RequestError, match=str(path)):
        results.load(tmp_path)


def test_a_metric_that_is_text_is_named(tmp_path):
    small(tmp_path, seeds=1)
    rewrite(next(tmp_path.glob("evaluate-scrub-*")) / "run.json", metrics={"tow": "high"})
    with pytest.raises(RequestError, match=r"run\.json is damaged \(expected float, got 'high' @ .*metrics\['tow'\]\)"):
        results.load(tmp_path)


def test_a_finished_run_whose_folder_is_gone_is_named(tmp_path):
    small(tmp_path, seeds=1)
    run = next(tmp_path.glob("evaluate-scrub-*"))
    for file in run.iterdir():
        file.unlink()
    with pytest.raises(RequestError, match=str(run)):
        results.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "", "[1]", "{}", "[" * 100_000, '{"name": "x", "entries": [3]}', '{"name": 3, "entries": []}',
        '{"name": "x", "entries": "abc"}', '{"name": "x", "entries": [{"label": "a", "seed": 1.5}]}',
        '{"name": "x", "entries": [{"label": "a", "seed": 0, "run": 3}]}',
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_named(tmp_path, text):
    small(tmp_path, seeds=1)
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(RequestError, match=str(tmp_path / "bench.json")):
        results.load(tmp_path)


def test_an_empty_or_missing_folder_says_what_to_do(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RequestError, match="holds no evaluations: run `expunge bench`"):
            results.load(folder)


def test_history_has_nan_where_a_role_was_absent_or_null(tmp_path):
    found = results.load(small(tmp_path, seeds=1))
    row = found.first("scrub")
    records = [{"loss": {"forget": 1.5}}, {"loss": {"forget": None, "retain": 0.25}}, {"loss": {"retain": 0.5}}]
    (tmp_path / row.subject / "history.jsonl").write_text("\n".join(map(json.dumps, records)))
    reseal(tmp_path / row.subject)
    losses = results.history(found, row)
    expected = {"forget": [1.5, torch.nan, torch.nan], "retain": [torch.nan, 0.25, 0.5]}
    for role, values in expected.items():
        torch.testing.assert_close(losses[role], torch.tensor(values, dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize("line", ["{", "3", '{"step": 1}', '{"loss": [1]}', '{"loss": {"forget": "x"}}'])
def test_a_damaged_history_is_named_with_the_line(tmp_path, line):
    found = results.load(small(tmp_path, seeds=1))
    row = found.first("scrub")
    path = tmp_path / row.subject / "history.jsonl"
    path.write_text('{"loss": {}}\n' + line + "\n")
    with pytest.raises(RequestError, match=f"{path} is not as its run wrote it"):
        results.history(found, row)
    reseal(path.parent)
    with pytest.raises(RequestError, match=f"{path}, line 2"):
        results.history(found, row)
    path.unlink()
    with pytest.raises(RequestError, match=str(path)):
        results.history(found, row)


def test_predictions_are_split_by_the_forget_ids(tmp_path):
    found = results.load(small(tmp_path, seeds=1))
    row = found.first("scrub")
    stored = load_file(tmp_path / row.subject / "predictions.safetensors")
    splits = results.predictions(found, row)
    assert {name: len(part) for name, part in splits.items()} == {"forget": 6, "retain": 10, "validation": 8, "test": 8}
    assert sorted(splits["forget"].ids.tolist()) == stored["forgotten.ids"].tolist()
    for name in ("forget", "retain"):
        torch.testing.assert_close(splits[name].logits, stored["train.logits"][splits[name].ids])


@pytest.mark.parametrize("damage", ["missing", "garbled", "incomplete", "uneven", "label"])
def test_damaged_predictions_are_named(tmp_path, damage):
    from safetensors.torch import save_file

    found = results.load(small(tmp_path, seeds=1))
    row = found.first("scrub")
    path = tmp_path / row.subject / "predictions.safetensors"
    stored = load_file(path)
    if damage == "missing":
        path.unlink()
    elif damage == "garbled":
        path.write_bytes(b"\0" * 9)
    else:
        if damage == "incomplete":
            del stored["forgotten.ids"]
        elif damage == "uneven":
            stored["test.labels"] = stored["test.labels"][1:].clone()
        else:
            stored["test.labels"][0] = 10
        save_file(stored, path)
    if damage != "missing":
        reseal(path.parent)
    with pytest.raises(RequestError, match=str(path)):
        results.predictions(found, row)


def test_flatten_gives_dotted_names_and_cuts_long_lists():
    nested = {"a": {"b": None, "c": [1, 2]}, "d": "x", "e": [{"f": True}], "g": list(range(20)), "h": []}
    assert results.flatten(nested) == {
        "a.b": "none",
        "a.c": "1, 2",
        "d": "x",
        "e.1.f": "true",
        "g": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (20 in all)",
        "h": "none",
    }
