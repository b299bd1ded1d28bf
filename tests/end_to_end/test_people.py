"""Photos of people in a folder: forgotten by path, by a column of a table, by person; deleted before and after."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expunge.store.directory import RunDirectory
from expunge.store.examples import stored_manifest
from tests.command_line import Terminal

PEOPLE = ("anna", "ben", "carl", "dora")
PHOTOS = 8
TRAIN = ("--model", "logistic", "--epochs", 1, "--batch-size", 16)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of four people in two classes, and a table of them beside the folder."""
    folder, rows = tmp_path / "photos", []
    rng = np.random.default_rng(0)
    for label in ("plain", "smiling"):
        (folder / label).mkdir(parents=True)
        for person in PEOPLE:
            for number in range(PHOTOS):
                name = f"{label}/{person}-{number}.png"
                Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(folder / name)
                rows.append((name, person))
    with (tmp_path / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "person"), *rows])
    return folder


@pytest.fixture
def model(photos: Path, terminal: Terminal) -> Path:
    return terminal.folder("train", "--data", f"folder:{photos}", *TRAIN, "--runs", photos.parent / "runs")


def unlearned(terminal: Terminal, run: Path, forget: str, method: str = "finetune") -> tuple[Path, list[str]]:
    """The run that forgets, and the names of what it forgot."""
    found = terminal.folder("unlearn", "--run", run, "--forget", forget, method, "--epochs", 1)
    directory = RunDirectory(found)
    known, ids = stored_manifest(directory), directory.tensor("predictions", "step.ids")
    assert known is not None
    assert ids is not None
    return found, [known.names.train[each] for each in ids.tolist()]


def trained_on(terminal: Terminal, run: Path, person: str = "") -> list[str]:
    """The names of training images, of one person."""
    rows = terminal.json("list", "ids", run)
    return sorted(row["name"] for row in rows if row["split"] == "train" and f"/{person}" in row["name"])


def test_people_are_forgotten_by_paths_by_a_column_and_by_person(
    photos: Path, model: Path, terminal: Terminal, tmp_path: Path
) -> None:
    anna, ben = (trained_on(terminal, model, person) for person in ("anna", "ben"))
    assert 4 < len(anna) < 2 * PHOTOS
    everything = sorted(f"{label}/anna-{number}.png" for label in ("plain", "smiling") for number in range(PHOTOS))
    (tmp_path / "paths.txt").write_text("# a request\n" + "\n".join(f"./photos/{name}" for name in everything))
    by_path, names = unlearned(terminal, model, f"ids:{tmp_path / 'paths.txt'}")
    assert names == anna  # without what is in the validation and the test set
    assert f"forgotten: {len(anna)} examples ({anna[0]}, {anna[1]}, " in terminal.error
    (tmp_path / "some.csv").write_text("photo,why\n" + "".join(f"{name},asked\n" for name in anna))
    assert unlearned(terminal, model, f"ids:{tmp_path / 'some.csv'},column=photo")[1] == anna
    (tmp_path / "people.txt").write_text("anna\nben\n")
    table = f"group:{tmp_path / 'photos.csv'},column=person"
    run, by_person = unlearned(terminal, model, f"{table},people=anna,example=photo")
    assert by_person == anna
    assert terminal.json("evaluate", "--run", run)["metrics"]
    _, both = unlearned(terminal, model, f"{table},people={tmp_path / 'people.txt'}")
    assert sorted(both) == sorted(anna + ben)

    (tmp_path / "paths.txt").write_text("nobody/0.png\nplain/anna-99.png\n")
    refused = terminal.refused("unlearn", "--run", model, "--forget", f"ids:{tmp_path / 'paths.txt'}", "finetune")
    assert "no image called nobody/0.png, plain/anna-99.png; did you mean plain/anna-" in refused
    refused = terminal.refused("unlearn", "--run", model, "--forget", f"{table},people=ana", "finetune")
    assert "there is no person 'ana'; did you mean anna?" in refused
    again = json.loads((by_path / "config.json").read_text())
    assert again["forget"] == {"name": "ids", "ids": [f"./photos/{n}" for n in everything], "column": "", "by": "any"}


def test_ids_and_names_are_found_both_ways(photos: Path, model: Path, terminal: Terminal) -> None:
    anna = trained_on(terminal, model, "anna")
    run, _ = unlearned(terminal, model, f"ids:{anna[0]}")
    row = terminal.json("list", "ids", run, anna[0])[0]
    assert row["name"] == anna[0]
    assert row["label"] == 0
    assert row["forgotten"] is True
    assert terminal.json("list", "ids", run, row["id"]) == [row]
    label, _, base = anna[0].partition("/")
    assert f"'{base}' may be plain/{base}, smiling/{base}" in terminal.refused("list", "ids", run, base)
    assert terminal.json("list", "ids", run, f"/home/{label}/{base}") == [row]
    assert terminal.json("list", "ids", f"folder:{photos}", anna[0])[0] == row | {"forgotten": False}
    lines = terminal("list", "ids", run, "--csv").splitlines()
    assert lines[0] == "id,name,label,split,forgotten"
    assert len(lines) == 1 + 2 * PHOTOS * len(PEOPLE)
    printed = terminal("list", "ids", run)
    assert max(map(len, printed.splitlines())) <= 80
    assert f"{2 * PHOTOS * len(PEOPLE)} examples: " in printed
    assert ", 1 forgotten" in printed
    assert len(terminal("list", "ids", run, "--all").splitlines()) > len(printed.splitlines()) + 20
    assert "no image called anna" in terminal.refused("list", "ids", run, "anna")
    assert "belong to `expunge list ids`" in terminal.refused("list", "metrics", "--csv")
    assert terminal.json("list", "ids", "digits", 3)[0]["name"] == "3"


def test_a_photo_may_be_deleted_before_if_the_method_retains_only(
    photos: Path, model: Path, terminal: Terminal
) -> None:
    anna, ben = trained_on(terminal, model, "anna"), trained_on(terminal, model, "ben")
    before, _ = unlearned(terminal, model, f"ids:{'+'.join(anna)}", "retrain")
    for name in anna:
        (photos / name).unlink()
    forget = ("--run", model, "--forget", f"ids:{'+'.join(anna)}")
    refused = terminal.refused("unlearn", *forget, "scrub")
    assert f"{len(anna)} of {len(anna)} images to forget are missing: {anna[0]}, " in refused
    assert "restore them, or use a method that needs the retain set only: " in refused
    assert "retrain" in refused
    refused = terminal.refused("unlearn", "--run", model, "--forget", f"ids:{ben[0]}", "retrain")
    assert f"images to retain are missing: {anna[0]}, " in refused
    assert "forget them too" in refused

    (photos / "plain" / "new-0.png").write_bytes((photos / ben[0]).read_bytes())
    now, names = unlearned(terminal, model, f"ids:{'+'.join(anna)}", "retrain")
    assert now == before  # it was made before
    (before / "run.json").rename(before / "run.old")
    now, names = unlearned(terminal, model, f"ids:{'+'.join(anna)}", "retrain")
    assert names == anna
    assert "1 images on disk that the model does not know are ignored" in terminal.error
    for part in ("weight", "bias"):
        old, new = (RunDirectory(run).tensors("model")[f"network.1.{part}"] for run in (before, now))
        assert old.equal(new)
    assert len(terminal.json("list", "ids", now)) == 2 * PHOTOS * len(PEOPLE)

    evaluated = terminal.json("evaluate", "--run", now)
    assert evaluated["metrics"]["unlearning_accuracy"] is None
    assert "membership_svc.confidence" not in evaluated["metrics"]
    assert evaluated["metrics"]["remaining_accuracy"] > 0


def test_a_photo_may_be_deleted_after(photos: Path, model: Path, terminal: Terminal) -> None:
    anna, ben = trained_on(terminal, model, "anna"), trained_on(terminal, model, "ben")
    run, _ = unlearned(terminal, model, f"ids:{'+'.join(anna)}", "scrub")
    kept = (photos / ben[0]).read_bytes()
    for path in photos.glob("*/anna*"):  # those of the validation and the test set too
        path.unlink()
    again, names = unlearned(terminal, run, f"ids:{'+'.join(ben[:2])}", "scrub")
    assert names == ben[:2]
    assert f"not on disk, and without predictions: {len(anna)} train, " in terminal.error
    reference = terminal.folder("unlearn", "--run", model, "--forget", f"ids:{'+'.join(anna)}", "retrain")
    terminal("evaluate", "--run", run, "--reference", reference)
    assert f"forgotten: {len(anna)} examples" in terminal.error
    (photos / ben[0]).write_bytes((photos / ben[1]).read_bytes())
    refused = terminal.refused("unlearn", "--run", again, "--forget", f"ids:{ben[2]}", "scrub")
    assert f"1 images have other pixels than when the model was trained: {ben[0]}; restore them" in refused
    (photos / ben[0]).write_bytes(kept)
    terminal.folder("unlearn", "--run", again, "--forget", f"ids:{ben[2]}", "scrub", "--epochs", 1)


def test_a_duplicate_that_is_retained_is_warned_of(photos: Path, terminal: Terminal, tmp_path: Path) -> None:
    (photos / "smiling" / "anna-again.png").write_bytes((photos / "plain" / "anna-0.png").read_bytes())
    run = terminal.folder("train", "--data", f"folder:{photos},test=1%", "--validation", 0, *TRAIN, "--runs", tmp_path)
    pair = ["plain/anna-0.png", "smiling/anna-again.png"]
    ids = [row["id"] for row in terminal.json("list", "ids", run, *pair)]
    found, _ = unlearned(terminal, run, f"ids:{pair[0]}")
    cure = f"union:(ids:{pair[0]})+(ids:{pair[1]})"
    said = " ".join(terminal.error.split())
    assert f"warning: 1 forgotten examples ({pair[0]}) have exact duplicates in the retain set ({pair[1]})" in said
    assert f"forget these too: --forget '{cure}'" in said
    assert RunDirectory(found).record()["notes"]["duplicates"] == {"forget": ids[:1], "retain": ids[1:]}
    found, names = unlearned(terminal, run, cure)
    assert names == pair
    assert "duplicates" not in terminal.error
    assert "duplicates" not in RunDirectory(found).record()["notes"]
    _, names = unlearned(terminal, found, "ids:plain/ben-0.png")  # what was forgotten before is not retained
    assert "duplicates" not in terminal.error
    unlearned(terminal, run, f"ids:{pair[0]}", "retrain")
    assert "exact duplicates in the retain set" in terminal.error


def test_scores_carry_names(photos: Path, model: Path, terminal: Terminal, tmp_path: Path) -> None:
    record = ("--momentum", 0, "--weight-decay", 0.5, "--record")
    run = terminal.folder("train", "--data", f"folder:{photos}", *TRAIN, *record, "--runs", tmp_path / "runs")
    printed = terminal("score", "--run", run, "trajectory-influence", "--csv", tmp_path / "scores.csv", "--quiet")
    rows = [*csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())]
    assert [*rows[0]][:3] == ["id", "name", "label"]
    assert sorted(row["name"] for row in rows) == trained_on(terminal, run)
    assert any(row["name"] in printed for row in rows)
