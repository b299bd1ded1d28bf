"""The command line as a user meets it: results, help, errors and exit status."""

import csv
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from expunge.cli import COMMANDS, _console, main
from expunge.store.directory import Store
from tests import problems
from tests.command_line import EXPUNGE, METHOD, ROOT, Terminal, expunge
from tests.runs import gap

QUICK = ["--model", "mlp:hidden=(16,)", "--limit", 300, "--test-limit", 100, "--epochs", 3]
DIGITS = {"source": "digits", "limit": 300, "test_limit": 100}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main([*map(str, ["train", "--quiet", *QUICK, "--runs", folder])]) == 0
    return next(folder.glob("train-*"))


@pytest.fixture
def unlearn(trained: Path, terminal: Terminal) -> Callable[..., Path]:
    """Forgets a tenth of its images; the folder."""
    return lambda *arguments: terminal.folder("unlearn", "--run", trained, "--forget", "random:10%", *arguments)


def recipe(folder: Path, **more: object) -> Path:
    """A comparison in a file."""
    own = {"name": "own", "data": DIGITS, "model": "mlp:hidden=(16,)", "training": {"epochs": 2}}
    (folder / "own.json").write_text(json.dumps(own | {"forget": "random:10%"} | more))
    return folder / "own.json"


def test_train_unlearn_evaluate_report(trained: Path, unlearn: Callable[..., Path], terminal: Terminal) -> None:
    retrained = unlearn("retrain")
    plan = json.loads((retrained / "config.json").read_text())["unlearning"]["method"]
    assert plan["epochs"] == 3, "retraining repeats the training of the original"
    scrubbed = unlearn("SCRUB", "--epochs", 1, "--lr", 0.05)
    assert scrubbed.name.startswith("unlearn-scrub-s0-")
    found = terminal.json("evaluate", "--run", scrubbed, "--reference", retrained)["metrics"]
    itself = terminal.json("evaluate", "--run", retrained)["metrics"]
    assert found["average_gap"] == pytest.approx(gap(found, itself))
    page = Path(terminal("report", trained.parent))
    assert "scrub" in page.read_text()
    for end in ("csv", "md", "tex"):
        assert list(page.parent.glob(f"*.{end}"))


def test_the_run_in_one_word_is_the_same_run(trained: Path, unlearn: Callable[..., Path], terminal: Terminal) -> None:
    assert terminal.folder("unlearn", f"--run={trained}", "--forget=random:10%", "retrain") == unlearn("retrain")


def test_evaluate_prints_a_table_and_takes_metrics(unlearn: Callable[..., Path], terminal: Terminal) -> None:
    printed = terminal("evaluate", "--run", unlearn("original"), "--metrics", "test_accuracy", "--quiet")
    assert "test_accuracy" in printed
    assert "membership" not in printed


def test_evaluate_makes_shadow_models_where_asked(
    trained: Path, unlearn: Callable[..., Path], terminal: Terminal
) -> None:
    run = unlearn("original")
    found = terminal.json("evaluate", "--run", run, "--metrics", "lira", "--shadows", 4)
    shadows = [Store(trained.parent).directory(path.name) for path in trained.parent.glob("unlearn-retrain-s1000*")]
    assert len(shadows) == 4
    record = Store(trained.parent).directory(Path(found["run"]).name).record()
    assert {record["parents"][f"shadows.{number}"] for number in range(4)} == {shadow.id for shadow in shadows}
    assert "shadows must be 0 or at least 4" in terminal.refused("evaluate", "--run", run, "--shadows", 2)


def test_rules_per_role_and_update_masks_from_the_command_line(unlearn: Callable[..., Path]) -> None:
    options = ["--epochs", 1, "--update-mask.fraction", 0.25, "--forget.optimizer", "adamw", "--retain.lr", 0.2]
    run = unlearn("salun", *options)
    plan = json.loads((run / "config.json").read_text())["unlearning"]
    assert plan["update_mask"]["fraction"] == 0.25
    assert plan["method"]["rule"]["kind"] == "per_role"
    assert plan["method"]["rule"]["forget"]["optimizer"] == "adamw"
    assert plan["method"]["rule"]["retain"]["lr"] == 0.2
    assert "precompute" in json.loads((run / "run.json").read_text())["seconds"]


def test_the_regulariser_is_that_of_the_training(tmp_path: Path, terminal: Terminal) -> None:
    options = ["--runs", tmp_path, "--model", "logistic", "--epochs", 1, "--weight-decay", 0.125]
    step = ["--forget", "random:10%", "newton-step"]
    run = terminal.folder("train", *options)
    found = [terminal.folder("unlearn", "--run", run, *step, *said) for said in ([], ["--l2", 0.125], ["--l2", 0.25])]
    same, said, other = ((path / "model.safetensors").read_bytes() for path in found)
    assert same == said != other
    run = terminal.folder("train", *options, "--optimizer", "adamw")
    assert "say the coefficient of the L2 term" in terminal.refused("unlearn", "--run", run, *step)


def test_the_weight_decay_is_that_of_the_training(tmp_path: Path, terminal: Terminal) -> None:
    options = ["--runs", tmp_path, "--model", "logistic", "--limit", 60, "--test-limit", 20, "--epochs", 1]

    def found(run: Path, *method: object, note: float | None) -> bytes:
        folder = Path(terminal("unlearn", "--run", run, "--forget", "random:10%", *method))
        assert json.loads((folder / "run.json").read_text())["notes"].get("weight_decay") == note
        assert (f"weight decay {note}, as in the training of the original" in terminal.error) == (note is not None)
        return (folder / "model.safetensors").read_bytes()

    run = terminal.folder("train", *options, "--weight-decay", 0.5)
    finetune = ["finetune", "--epochs", 1]
    by_default = found(run, *finetune, note=0.5)
    assert by_default == found(run, *finetune, "--weight-decay", 0.5, note=None)
    assert by_default != found(run, *finetune, "--weight-decay", 0, note=None)
    chained = terminal.folder("unlearn", "--run", run, "--forget", "class:1", "gradient-ascent", "--epochs", 1)
    assert found(chained, *finetune, note=0.5) == found(chained, *finetune, "--weight-decay", 0.5, note=None)
    roles = ["neggrad-plus", "--epochs", 1, "--forget.optimizer", "adamw", "--retain.lr", 0.02]
    explicit = ["--forget.weight-decay", 0.0005, "--retain.weight-decay", 0.5]
    assert found(run, *roles, note=0.5) == found(run, *roles, *explicit, note=None)
    adam = ["finetune", "--epochs", 1, "--optimizer", "adamw", "--lr", 0.01]
    assert found(run, *adam, note=None) == found(run, *adam, "--weight-decay", 0.0005, note=None)

    run = terminal.folder("train", *options)
    assert found(run, *finetune, note=None) == found(run, *finetune, "--weight-decay", 0.0005, note=None)
    run = terminal.folder("train", *options, "--optimizer", "adamw", "--lr", 0.01, "--weight-decay", 0.3)
    assert found(run, *adam, note=0.3) == found(run, *adam, "--weight-decay", 0.3, note=None)
    lion = ["finetune", "--epochs", 1, "--optimizer", "lion", "--lr", 0.001]
    assert found(run, *lion, note=0.3) == found(run, *lion, "--weight-decay", 0.3, note=None)


def test_the_weight_decay_of_an_import_is_known_where_it_is_said(tmp_path: Path, terminal: Terminal) -> None:
    options = ["--data", "digits", "--model", "logistic", "--limit", 60, "--test-limit", 20, "--runs", tmp_path]
    network = problems.architecture("logistic", (1, 8, 8), seed=0)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "own.pt")
    for said, note in (([], None), (["--weight-decay", 0.5], 0.5)):
        run = terminal.folder("import", tmp_path / "own.pt", *options, *said)
        tuned = terminal.folder("unlearn", "--run", run, "--forget", "class:1", "finetune", "--epochs", 1)
        assert json.loads((tuned / "run.json").read_text())["notes"].get("weight_decay") == note
        status, _ = terminal.status("unlearn", "--run", run, "--forget", "class:1", "newton-step")
        assert status == (2 if note is None else 0)


def test_steps_in_place_of_epochs(trained: Path, unlearn: Callable[..., Path]) -> None:
    record = json.loads((unlearn("sfron", "--steps", 3) / "run.json").read_text())
    assert record["steps"] == {"forget": 1, "retain": 3}
    method = json.loads((unlearn("sfron", "--epochs", 1) / "config.json").read_text())["unlearning"]["method"]
    assert (method["epochs"], method["steps"]) == (1, None), "epochs replace the steps of the preset"


def test_a_training_by_steps_is_what_retraining_and_pruning_repeat(tmp_path: Path, terminal: Terminal) -> None:
    options = [*QUICK[:-2], "--batch-size", 64, "--runs", tmp_path]

    def retain_steps(*command: object) -> int:
        return json.loads((terminal.folder(*command) / "run.json").read_text())["steps"]["retain"]

    run = terminal.folder("train", *options, "--steps", 7)
    assert json.loads((run / "run.json").read_text())["steps"] == {"retain": 7}
    forget, magnitude = ["--run", run, "--forget", "class:3"], ["--run", run, "magnitude", "--rate", 0.5, "--linear"]
    assert retain_steps("unlearn", *forget, "retrain") == 7
    assert retain_steps("prune", *magnitude) == 7
    per_epoch = retain_steps("prune", "--epochs", 1, *magnitude)
    assert 3 < per_epoch < 7
    assert retain_steps("prune", "--rewind", 1, *magnitude) == 7 - per_epoch
    assert terminal.status("prune", "--rewind", 3, *magnitude)[0] != 0
    assert "stop_after must be in [0, 2], got 3" in terminal.error
    for command in (["train", *options], ["unlearn", *forget, "finetune"]):
        assert "leave out one of them" in terminal.refused(*command, "--steps", 3, "--epochs", 30)


def test_a_recorded_training_by_steps(tmp_path: Path, terminal: Terminal) -> None:
    run = terminal.folder("train", *QUICK[:-2], "--runs", tmp_path, "--record", "--momentum", 0, "--steps", 3)
    found = terminal.folder("unlearn", "--run", run, "--forget", "random:5", "hessian-free")
    assert json.loads((found / "run.json").read_text())["notes"]["trajectory"]["steps"] == 3


def test_an_alias_is_answered_with_the_canonical_name(trained: Path, terminal: Terminal) -> None:
    printed = terminal("unlearn", "--run", trained, "--forget", "class:3", "FT", "--epochs", 1)
    assert "FT is called finetune here" in terminal.error
    assert "unlearn-finetune" in printed


def test_help_is_quick_and_complete() -> None:
    begin = time.perf_counter()
    done = expunge("--help")
    seconds = time.perf_counter() - begin
    assert done.returncode == 0
    assert all(re.search(rf"^  {command} +\w", done.stdout, re.M) for command in COMMANDS)
    code = "import sys; from expunge.cli import main; main(['--help']); print({'torch', 'tyro'} & set(sys.modules))"
    bare = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bare.stdout.endswith("set()\n")
    assert seconds < 5  # that it imports nothing heavy is what keeps it quick; this only catches a hang


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_explained(command: str, terminal: Terminal) -> None:
    text = terminal(command, "--help")
    assert "(Help" not in text
    lines = [line.strip("│ \n") for line in text.splitlines()]
    for index, line in enumerate(lines):
        if re.match(r"--[a-z]", line):
            explained = re.split(r"\s{2,}|\} ", line, maxsplit=1)[1:] or [lines[index + 1]]
            assert re.match(r"\w", explained[0].strip("[] ")), f"{command}: {line}"


def test_the_core_imports_no_heavy_third_party_package() -> None:
    code = (
        "import sys, expunge.cli.bench, expunge.cli.unlearn, expunge.report, expunge.core.registry as r\n"
        "[r.plugins(kind) for kind in r.KINDS]\n"
        "print(sorted({'torchvision', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train"),
        (["train", "--data", "digit"], "did you mean digits"),
        (["train", "--data", "idx:/nowhere"], "there is no folder /nowhere"),
        (["train", "--model", "resnet19"], "did you mean resnet18"),
        (["train", "--model", "resnet18:widht=3"], "did you mean width"),
        (["train", "--model", "small_cnn:blocks=9"], "pixels or more"),
        (["train", "--limit", "0"], "1 to 1442"),
        (["train", "--validation", "1"], r"validation share must be in \[0, 1\)"),
        (["train", "--epochs", "-1"], "epochs must be .*at least 0"),
        (["train", "--device", "tpu9"], "there is no device 'tpu9'"),
        (["bench", "cifar"], "cifar10-small"),
        (["bench", "missing.json"], "missing.json cannot be read"),
        (["bench", "demo", "--jobs", "0"], "jobs must be at least 1"),
        (["report", "/nowhere"], "nowhere"),
        (["evaluate", "--run", "/nowhere"], "is no run"),
    ],
)
def test_wrong_requests_exit_with_two_and_one_message(
    arguments: list[str], message: str, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(message, terminal.refused(*arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forget", "random:10%", "scrubb"], "did you mean scrub"),
        (["--forget", "all", "scrub"], "no forget set 'all'"),
        (["--forget", "random:9999", "finetune"], "cannot take 9999 of"),
        (["--forget", "class:12", "finetune"], "no class 12"),
        (["--forget", "random:10%", "neggrad-plus", "--alpha", "2"], r"alpha must be in \[0, 1\]"),
        (["--forget", "random:10%", "finetune", "--lr", "-1"], "lr must be"),
    ],
)
def test_wrong_unlearning_requests(trained: Path, arguments: list[str], message: str, terminal: Terminal) -> None:
    assert re.search(message, terminal.refused("unlearn", "--run", trained, *arguments))


def test_runs_of_the_wrong_kind_are_refused(trained: Path, terminal: Terminal) -> None:
    assert "needs one of `expunge unlearn`" in terminal.refused("evaluate", "--run", trained)


def test_a_failed_run_exits_with_one_and_json_says_why(trained: Path, terminal: Terminal) -> None:
    arguments = ["unlearn", "--run", trained, "--forget", "random:10%", "--json"]
    status, printed = terminal.status(*arguments, "gradient-ascent", "--lr", "1e30", "--epochs", 80)
    found = json.loads(printed)
    assert status == found["status"] == 1
    assert "loss became" in found["error"]


def test_a_read_only_folder(tmp_path: Path, terminal: Terminal) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    assert terminal.status("train", *QUICK, "--runs", place, "--quiet")[0] == 1
    assert "run the same command again" in terminal.error


def test_a_full_disk_loses_no_finished_run(trained: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from expunge.store.directory import Draft

    before = sorted(path.name for path in trained.parent.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(Draft, "tensors", full)
    status, _ = terminal.status("unlearn", "--run", trained, "--forget", "random:7", "finetune", "--epochs", 1)
    assert status == 1
    assert "No space left on device (model.safetensors): finished runs are kept" in terminal.error
    assert sorted(path.name for path in trained.parent.iterdir()) == before


@pytest.mark.slow
def test_an_interruption_keeps_what_had_finished(tmp_path: Path) -> None:
    command = [*EXPUNGE, "demo", "--out", "demo"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("demo/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; finished runs are kept" in error
    assert "Traceback" not in error
    assert list(tmp_path.glob("demo/*/run.json"))


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    done = expunge("demo", "--out", tmp_path / "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "<svg" in page or "image/svg" in page
    assert "http://" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    again = expunge("demo", "--out", tmp_path / "demo", "--json", cwd=tmp_path)
    rows = json.loads(again.stdout)["rows"]
    methods = ["finetune", "gradient_ascent", "influence", "original", "random_label", "retrain", "salun", "scrub"]
    assert sorted(row["label"] for row in rows) == [label for label in methods for _ in range(2)]
    assert all(label in done.stdout for label in methods)
    gaps = {label: [row["metrics"]["average_gap"] for row in rows if row["label"] == label] for label in methods}
    assert all((gap == 0) == (label == "retrain") for label in methods for gap in gaps[label])
    for label in methods:  # none is worse than doing nothing by more than the spread over seeds
        assert statistics.mean(gaps[label]) <= statistics.mean(gaps["original"]) + statistics.stdev(gaps["original"])
    for label in ("influence", "random_label", "salun", "scrub"):
        assert statistics.mean(gaps[label]) < statistics.mean(gaps["original"]) - 2.0


def test_a_method_of_somebody_else_is_found_everywhere(
    tmp_path: Path, package: Callable[..., Path], terminal: Terminal
) -> None:
    folder = package(("methods", "mine", METHOD.format(body="pass")))
    assert len((folder / "mine.py").read_text().splitlines()) <= 40
    assert "mine" in [row["name"] for row in terminal.json("list", "methods")]
    assert "Descend on the negated loss" in terminal("unlearn", "mine", "--help")
    own = recipe(tmp_path, methods=["MINE:lr=0.01", "finetune:epochs=1"])
    found = terminal.json("bench", own, "--out", tmp_path / "bench", "--jobs", 1)
    rows = {row["label"]: row for row in found["rows"]}
    assert rows["mine"]["status"] == "finished"
    contract = [
        sys.executable,
        "-m",
        "pytest",
        "tests/contracts/test_methods.py",
        "-k",
        "mine",
        "-p",
        "no:cacheprovider",
    ]
    tested = subprocess.run(contract, capture_output=True, text=True, check=False, cwd=ROOT)
    assert tested.returncode == 0, tested.stdout[-2000:]
    assert int(re.search(r"(\d+) passed", tested.stdout).group(1)) >= 15


METRIC = '''"""A metric that somebody else wrote."""

from expunge.training.context import Context
from expunge.evaluation.predictions import Subject
from expunge.core.registry import Measure, metric


@metric(
    Measure(
        "sureness of forgotten examples", "reference", name="mean", short="Sureness", unit="bits", range=(0, None),
        meaning="Mean surprise of the model at the labels that it was to forget.", column=45, decimals=2,
    ),
    Measure("largest surprise", "lower", name="most", meaning="Surprise at the hardest forgotten example."),
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """How surprised the model is at the labels of forgotten examples."""
    bits = subject.predictions("forget").losses() / 0.6931471805599453
    return {"mean": float(bits.mean()), "most": float(bits.max()), "of_nobody": 1.0}
'''


@pytest.mark.slow
def test_a_metric_of_somebody_else_shows_with_its_own_words(
    tmp_path: Path, package: Callable[..., Path], terminal: Terminal
) -> None:
    package(("metrics", "surprise", METRIC))
    assert "surprise.mean: sureness of forgotten examples (bits), best as retrained" in terminal("list", "metrics")
    own = recipe(tmp_path, methods=["finetune:epochs=1"])
    found = terminal.json("bench", own, "--out", tmp_path / "bench", "--jobs", 1)
    rows = {row["label"]: row["metrics"] for row in found["rows"]}
    assert rows["finetune"]["surprise.mean"] != rows["retrain"]["surprise.mean"]
    head = (tmp_path / "bench" / "results.md").read_text().splitlines()[0]
    assert "| MIA (%) | Sureness (bits) | Avg. gap (points) |" in head
    page = (tmp_path / "bench" / "report.html").read_text()
    assert 'title="sureness of forgotten examples">Sureness (bits)</th>' in page
    assert "<dt>Sureness, sureness of forgotten examples</dt><dd>Mean surprise of the model at the labels" in page
    assert "At least 0; best where it equals that of the retrained model." in page
    assert "<dt>largest surprise</dt><dd>Surprise at the hardest forgotten example. Lower is better.</dd>" in page
    assert 'title="surprise: of nobody">surprise: of nobody</th>' in page, "a value that nothing describes"
    table = next(csv.reader([(tmp_path / "bench" / "results.csv").read_text().splitlines()[0]]))
    assert "surprise.mean.gap" in table
    assert "surprise.most.gap" not in table


@pytest.mark.parametrize("what", ["methods", "metrics", "data", "models", "recipes"])
def test_lists(what: str, terminal: Terminal) -> None:
    rows, printed = terminal.json("list", what), terminal("list", what)
    assert rows
    assert all(row["name"] in printed and row["summary"] for row in rows)


@pytest.mark.usefixtures("in_this_process")
def test_tune_writes_the_best_options(tmp_path: Path, terminal: Terminal) -> None:
    pytest.importorskip("optuna")
    methods = ["finetune:epochs=1", "scrub:epochs=1 as mine"]
    small = recipe(tmp_path, data={"source": {"name": "digits"}, "limit": 200, "test_limit": 50}, methods=methods)
    folder = tmp_path / "tune"
    assert "mine" in terminal("tune", small, "--trials", 2, "--out", folder, "--quiet")
    found = json.loads((folder / "tuned.json").read_text())
    assert [method["label"] for method in found["methods"]] == ["finetune", "mine"]
    assert all(len(method["trials"]) == 2 for method in found["methods"])


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "expunge", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("expunge ")


def test_progress_is_written_in_lines_where_there_is_no_terminal(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "LINE_EVERY", 0.02)
    options = ["train", "--limit", 100, "--test-limit", 20, "--epochs", 30, "--runs", tmp_path]
    terminal(*options)
    found = re.findall(r"train-digits-small_cnn-s0: (\d+) of (\d+), about \d+ s left", terminal.error)
    assert found
    assert [int(step) for step, _ in found] == sorted(int(step) for step, _ in found)
    terminal(*options, "--seed", 1, "--quiet")
    assert " of " not in terminal.error
