"""Damaged, exchanged and edited files of runs: what the commands that read them say, and what `expunge doctor` says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli import main
from expunge.core.config import parse
from expunge.core.errors import RequestError
from expunge.runs import evaluate
from expunge.runs.evaluate import EvaluateConfig
from expunge.runs.precompute import PrecomputeConfig
from expunge.store import digests, execute
from expunge.store.directory import RunDirectory, Store
from expunge.store.execute import Session
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.unlearning.update_masks import UpdateMask
from tests import runs
from tests.command_line import Terminal
from tests.runs import reseal

QUICK = ("unlearning_accuracy", "remaining_accuracy", "test_accuracy", "membership_svc", "average_gap", "run_time")
METRICS = tuple(parse("metrics", name) for name in QUICK)
MODEL, PREDICTIONS = "model.safetensors", "predictions.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original, scores of its weights, an unlearned model, its reference and an evaluation, all well."""
    folder = tmp_path_factory.mktemp("made")
    first = runs.trained("mlp:hidden=(8,)")
    subject, reference = (runs.forgetting(text, original=first) for text in ("salun:epochs=1", "retrain:epochs=1"))
    execute.run(EvaluateConfig(subject, reference, METRICS), Store(folder), Session())
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def one(store: Path, kind: str) -> Path:
    """The folder of the one run whose name begins so."""
    (found,) = store.glob(f"{kind}-*")
    return found


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def edit(path: Path, *keys: str, value: object) -> None:
    """Change a nested value of a JSON file."""
    data = json.loads(path.read_text())
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(data))


def problems(terminal: Terminal, store: Path) -> list[str]:
    """What the doctor finds wrong; it must find something."""
    status, printed = terminal.status("doctor", store, "--json")
    assert status == 1, terminal.error
    return [each["problem"] for each in json.loads(printed)["problems"]]


def test_a_healthy_store_has_no_problems(made: Path, terminal: Terminal) -> None:
    assert terminal("doctor", made) == "no problems in 5 runs; metrics of 1 evaluation computed again"
    found = terminal.json("doctor", made)
    assert (found["runs"], found["evaluations"], found["problems"], found["unfinished"]) == (5, 1, [], [])


@pytest.mark.slow
def test_every_metric_is_computed_again_to_the_last_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, reference = (runs.forgetting(text) for text in ("finetune:epochs=1", "retrain:epochs=5"))
    monkeypatch.setattr(evaluate, "TOLERANCE", 0.0)
    made = execute.run(EvaluateConfig(subject, reference), Store(tmp_path), Session())
    assert evaluate.differences(made, Session()) == []


def test_every_file_has_its_digest_and_the_evaluation_those_it_judged(made: Path) -> None:
    import hashlib

    for run in made.glob("*/run.json"):
        record, beside = json.loads(run.read_text()), {path for path in run.parent.iterdir() if path != run}
        assert record["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in beside}
    record = json.loads((one(made, "evaluate") / "run.json").read_text())
    for role, kind in (("subject", "unlearn-salun"), ("reference", "unlearn-retrain"), ("original", "train")):
        there = json.loads((one(made, kind) / "run.json").read_text())["files"]
        named = record["inputs"][role]
        assert named == {name: there[name] for name in there if name.endswith(".safetensors")}
        assert {MODEL, PREDICTIONS} <= set(named)


@pytest.mark.parametrize("name", [MODEL, PREDICTIONS, "config.json", "history.jsonl"])
def test_a_flipped_bit_in_an_original(name: str, store: Path, terminal: Terminal) -> None:
    path = one(store, "train") / name
    flip(path)
    said = terminal.refused("unlearn", "--run", path.parent, "--forget", "random:5%", "finetune")
    assert f"{path} is not as its run wrote it" in said
    assert f"delete {path.parent} and run it again, or restore the folder from a backup" in said
    found = problems(terminal, store)
    assert found[0].startswith(f"{path} is not as its run wrote it")
    assert len(found) == 1 + (name == "config.json")  # whose digest is the name of the run, too


@pytest.mark.parametrize("kind", ["unlearn-salun", "unlearn-retrain"])
@pytest.mark.parametrize("name", [MODEL, PREDICTIONS])
def test_a_flipped_bit_in_what_is_evaluated(name: str, kind: str, store: Path, terminal: Terminal) -> None:
    path = one(store, kind) / name
    flip(path)
    pair = ("--run", one(store, "unlearn-salun"), "--reference", one(store, "unlearn-retrain"))
    judged = (*pair, "--metrics", *QUICK)
    for arguments in (("evaluate", *judged), ("evaluate", *judged, "--seed", 1)):  # one is there, one is not
        assert f"{path} is not as its run wrote it" in terminal.refused(*arguments)
    assert any(str(path) in problem for problem in problems(terminal, store))


def test_a_flipped_bit_in_an_original_that_is_read_beside_the_subject(store: Path, terminal: Terminal) -> None:
    path = one(store, "train") / MODEL
    flip(path)
    assert str(path) in terminal.refused("evaluate", "--run", one(store, "unlearn-salun"))


def test_the_model_of_another_run_in_its_place(store: Path, terminal: Terminal) -> None:
    subject, other, evaluation = (one(store, kind) for kind in ("unlearn-salun", "unlearn-retrain", "evaluate"))
    shutil.copy(other / MODEL, subject / MODEL)
    assert f"{subject / MODEL} is not as its run wrote it" in terminal.refused("evaluate", "--run", subject)
    assert any(str(subject / MODEL) in problem for problem in problems(terminal, store))
    reseal(subject)  # the forger thinks of the digests of that run
    terminal("evaluate", "--run", subject, "--metrics", "sparsity", "--quiet")
    (problem,) = problems(terminal, store)
    assert problem.startswith(f"{evaluation} was made from another {MODEL} of {subject.name} (subject)")


def test_an_edited_metric(store: Path, terminal: Terminal) -> None:
    run = one(store, "evaluate")
    before = json.loads((run / "run.json").read_text())["metrics"]["test_accuracy"]
    edit(run / "run.json", "metrics", "test_accuracy", value=before + 1)
    pair = ("--run", one(store, "unlearn-salun"), "--reference", one(store, "unlearn-retrain"))
    judged = (*pair, "--metrics", *QUICK)
    for arguments in (("report", store), ("evaluate", *judged)):
        assert f"{run / 'run.json'} is not as the run wrote it" in terminal.refused(*arguments)
    assert f"{run / 'run.json'} is not as the run wrote it" in problems(terminal, store)[0]
    reseal(run)
    (problem,) = problems(terminal, store)
    assert f"{run}: test_accuracy is {before + 1}, but {before} when it is computed again" in problem


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("metrics", "average_gap"), None, "average_gap is None, but "),
        (("metrics", "made_up"), 3.0, "made_up is 3.0, but missing when"),
        (("metrics",), {}, "test_accuracy is missing, but "),
        (("seconds", "unlearn"), 0.001, "seconds.unlearn is 0.001, but "),
        (("id",), "evaluate-x", "is of the run evaluate-x"),
        (("parents", "subject"), "unlearn-x", "depends on unlearn-x (subject), which is missing"),
        (("inputs", "subject", PREDICTIONS), "0" * 64, f"was made from another {PREDICTIONS} of unlearn-salun-s0"),
    ],
)
def test_a_forged_record(keys: tuple[str, ...], value: object, said: str, store: Path, terminal: Terminal) -> None:
    edit(one(store, "evaluate") / "run.json", *keys, value=value)
    reseal(one(store, "evaluate"))
    found = problems(terminal, store)
    assert any(said in problem for problem in found), found


def test_the_seconds_of_the_subject_count_for_its_evaluation(store: Path, terminal: Terminal) -> None:
    edit(one(store, "unlearn-salun") / "run.json", "seconds", "unlearn", value=1e6)
    reseal(one(store, "unlearn-salun"))
    assert any("run_time.total is " in problem for problem in problems(terminal, store))


def test_a_forged_configuration(store: Path, terminal: Terminal) -> None:
    run = one(store, "train")
    edit(run / "config.json", "seed", value=7)
    reseal(run)
    (problem,) = problems(terminal, store)
    assert problem.startswith(f"{run} has the configuration of another run")


def test_a_missing_file_an_extra_file_and_a_truncated_record(store: Path, terminal: Terminal) -> None:
    missing, extra = one(store, "unlearn-retrain") / "history.jsonl", one(store, "train") / "extra.bin"
    record = one(store, "unlearn-salun") / "run.json"
    missing.unlink()
    extra.write_bytes(b"extra")
    record.write_bytes(record.read_bytes()[:100])
    status, printed = terminal.status("doctor", store)
    assert status == 1
    lines = printed.splitlines()
    assert [line for line in lines if line.startswith(f"{missing} cannot be read: No such file")]
    assert f"{extra} is no file of the run: move it to another place" in lines
    assert [line for line in lines if line.startswith(f"{record} cannot be read as JSON")]
    assert lines[-1] == (
        "3 problems in 5 runs; metrics of no evaluations computed again, of 1 not, as they read damaged runs"
    )
    assert len(lines) == 4
    assert str(record) in terminal.refused("evaluate", "--run", record.parent)


def test_a_missing_record_and_a_missing_parent(store: Path, terminal: Terminal) -> None:
    record, original = one(store, "unlearn-retrain") / "run.json", one(store, "train")
    record.unlink()
    shutil.rmtree(original)
    found = problems(terminal, store)
    assert any(problem.startswith(f"{record} cannot be read: No such file") for problem in found)
    assert any(f"depends on {original.name} (original), which is missing" in problem for problem in found)


def test_a_record_without_digests_is_refused(store: Path) -> None:
    run = RunDirectory(one(store, "train"))
    record = {key: value for key, value in run.record().items() if key != digests.FILES}
    (run.path / "run.json").write_text(json.dumps(record | {digests.OWN: digests.of_record(record)}))
    with pytest.raises(RequestError, match=rf"{MODEL} is not a file that its run wrote"):
        run.model()


def test_what_is_unfinished_is_no_error(store: Path, terminal: Terminal) -> None:
    for name in (".draft-train-x-1", ".partial-precompute-x"):
        (store / name).mkdir()
    lines = terminal("doctor", store).splitlines()
    assert [line.partition(" ")[0] for line in lines[:2]] == [
        f"{store}/.draft-train-x-1",
        f"{store}/.partial-precompute-x",
    ]
    assert lines[2].startswith("no problems in 5 runs")


def test_a_folder_without_runs_is_a_wrong_request(tmp_path: Path, terminal: Terminal) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert f"{folder} holds no runs" in terminal.refused("doctor", folder)


def test_a_mask_of_a_run_is_compared_too(store: Path) -> None:
    path = one(store, "unlearn-salun") / "mask.safetensors"
    assert UpdateMask(file=str(path))
    flip(path)
    with pytest.raises(RequestError, match=r"mask\.safetensors is not as its run wrote it"):
        UpdateMask(file=str(path))


def test_vectors_are_compared_before_they_are_mapped(tmp_path: Path) -> None:
    plan = Training(1, 10, Rule(lr=0.05, momentum=0.0), record=True)
    first, store = runs.trained("logistic", plan), Store(tmp_path)
    vectors = execute.run(PrecomputeConfig(first), store, Session())
    assert set(vectors.digests()) == {"config.json", "vectors.bin", "vectors.json"}
    flip(vectors.path / "vectors.bin")
    wanted = runs.forgetting("hessian_free:variant=additive,vectors=(precompute)", original=first)
    with pytest.raises(RequestError, match=r"vectors\.bin is not as its run wrote it"):
        execute.run(wanted, store, Session())


def test_a_file_is_read_once_until_it_changes(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, read = RunDirectory(one(store, "train")), list[Path]()
    digest: Callable[[Path], str] = digests.files.digest
    monkeypatch.setattr(digests.files, "digest", lambda path: (read.append(path), digest(path))[1])
    run.file(MODEL), run.file(MODEL)
    assert len(read) == 2  # it was just written: a change would not be seen in its times
    monkeypatch.setattr(digests, "RECENT", -1.0)
    for _ in range(3):
        run.file(MODEL)
    assert len(read) == 3
    flip(run.path / MODEL)
    with pytest.raises(RequestError, match="not as its run wrote it"):
        run.file(MODEL)


def test_a_run_that_failed_is_checked_too(tmp_path: Path, terminal: Terminal) -> None:
    options = ["--model", "logistic", "--limit", 60, "--test-limit", 20, "--epochs", 20, "--lr", 1e30]
    assert main([*map(str, ["train", "--quiet", "--runs", tmp_path, *options])]) == 1
    assert "no problems in 1 run; " in terminal("doctor", tmp_path)
    edit(one(tmp_path, "train") / "run.json", "reason", value="another")
    assert "is not as the run wrote it" in problems(terminal, tmp_path)[0]


@pytest.mark.parametrize("kind", ["evaluate", "unlearn-salun"])
def test_an_edited_configuration_is_not_reported(kind: str, store: Path, terminal: Terminal) -> None:
    path = one(store, kind) / "config.json"
    edit(path, "seed", value=3)
    assert f"{path} is not as its run wrote it" in terminal.refused("report", store)
