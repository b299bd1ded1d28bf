"""The command line as a user meets it: results, help, errors and exit status."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from expunge.cli import COMMANDS, main
from tests.end_to_end.test_pipeline import write_package, write_plugin

QUICK = ["--model", "mlp:hidden=(16,)", "--limit", "300", "--test-limit", "100", "--epochs", "3"]


def expunge(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    """A process of its own, as from a shell."""
    command = [sys.executable, "-c", "import sys; from expunge.cli import main; sys.exit(main())", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *QUICK, "--runs", str(folder), "--quiet"]) == 0
    return next(folder.glob("train-*"))


def unlearn(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Path:
    assert main(["unlearn", "--run", str(run), "--forget", "random:10%", "--quiet", *arguments]) == 0
    return Path(capsys.readouterr().out.strip())


def test_train_unlearn_evaluate_report(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrained = unlearn(trained, capsys, "retrain")
    plan = json.loads((retrained / "config.json").read_text())["unlearning"]["method"]
    assert plan["epochs"] == 3, "retraining repeats the training of the original"
    scrubbed = unlearn(trained, capsys, "SCRUB", "--epochs", "1", "--lr", "0.05")
    assert scrubbed.name.startswith("unlearn-scrub-s0-")
    status = main(["evaluate", "--run", str(scrubbed), "--reference", str(retrained), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == 0
    assert found["metrics"]["average_gap"] >= 0
    assert main(["report", str(trained.parent)]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert "scrub" in page.read_text()
    for end in ("csv", "md", "tex"):
        assert list(page.parent.glob(f"*.{end}"))


def test_the_run_in_one_word_is_the_same_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrained = unlearn(trained, capsys, "retrain")
    assert main(["unlearn", f"--run={trained}", "--forget=random:10%", "--quiet", "retrain"]) == 0
    assert Path(capsys.readouterr().out.strip()) == retrained


def test_evaluate_prints_a_table_and_takes_metrics(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = unlearn(trained, capsys, "original")
    assert main(["evaluate", "--run", str(run), "--metrics", "test_accuracy", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "test_accuracy" in printed
    assert "membership" not in printed


def test_evaluate_makes_shadow_models_where_asked(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = unlearn(trained, capsys, "original")
    assert main(["evaluate", "--run", str(run), "--metrics", "lira", "--shadows", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["metrics"]["lira.auc"] <= 1
    assert len(list(trained.parent.glob("unlearn-retrain-s1000*"))) == 4
    assert main(["evaluate", "--run", str(run), "--shadows", "2"]) == 2
    assert "shadows must be 0 or at least 4" in capsys.readouterr().err


def test_rules_per_role_and_update_masks_from_the_command_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--update-mask.fraction", "0.25", "--forget.optimizer", "adamw", "--retain.lr", "0.2"]
    run = unlearn(trained, capsys, "salun", *options)
    plan = json.loads((run / "config.json").read_text())["unlearning"]
    assert plan["update_mask"]["fraction"] == 0.25
    assert plan["method"]["rule"]["kind"] == "per_role"
    assert plan["method"]["rule"]["forget"]["optimizer"] == "adamw"
    assert plan["method"]["rule"]["retain"]["lr"] == 0.2
    assert "precompute" in json.loads((run / "run.json").read_text())["seconds"]


def test_the_regulariser_is_that_of_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "logistic", "--epochs", "1", "--weight-decay", "0.125", "--quiet"]
    assert main(["train", "--runs", str(tmp_path), *options]) == 0
    run = Path(capsys.readouterr().out.strip())
    found = [unlearn(run, capsys, "newton-step", *said) for said in ([], ["--l2", "0.125"], ["--l2", "0.25"])]
    same, said, other = ((path / "model.safetensors").read_bytes() for path in found)
    assert same == said != other
    assert main(["train", "--runs", str(tmp_path), *options, "--optimizer", "adamw"]) == 0
    run = Path(capsys.readouterr().out.strip())
    assert main(["unlearn", "--run", str(run), "--forget", "class:3", "--quiet", "newton-step"]) == 2
    assert "say the coefficient of the L2 term" in capsys.readouterr().err


def test_an_alias_is_answered_with_the_canonical_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["unlearn", "--run", str(trained), "--forget", "class:3", "FT", "--epochs", "1"])
    captured = capsys.readouterr()
    assert "FT is called finetune here" in captured.err
    assert "unlearn-finetune" in captured.out


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
def test_every_option_of_every_command_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
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
        (["train", "--epochs", "-1"], "epochs must be at least 0"),
        (["train", "--device", "tpu9"], "there is no device 'tpu9'"),
        (["bench", "cifar"], "cifar10-small"),
        (["bench", "missing.json"], "missing.json cannot be read"),
        (["bench", "demo", "--jobs", "0"], "jobs must be at least 1"),
        (["report", "/nowhere"], "nowhere"),
        (["evaluate", "--run", "/nowhere"], "is no run"),
    ],
)
def test_wrong_requests_exit_with_two_and_one_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as ended:  # tyro's own message, for values that its parser sees
        status = ended.code
    captured = capsys.readouterr()
    assert status == 2
    assert re.search(message, captured.err + captured.out), captured
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forget", "random:10%", "scrubb"], "did you mean scrub"),
        (["--forget", "all", "scrub"], "kind of forget set"),
        (["--forget", "random:9999", "finetune"], "cannot forget 9999 of"),
        (["--forget", "class:12", "finetune"], "no class 12"),
        (["--forget", "random:10%", "neggrad-plus", "--alpha", "2"], r"alpha must be in \[0, 1\]"),
        (["--forget", "random:10%", "finetune", "--lr", "-1"], "lr must be"),
    ],
)
def test_wrong_unlearning_requests(
    trained: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["unlearn", "--run", str(trained), *arguments])
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    assert status == 2
    assert re.search(message, re.sub(r"[\s│]+", " ", captured.err + captured.out)), captured


def test_runs_of_the_wrong_kind_are_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run", str(trained)]) == 2
    assert "needs one of `expunge unlearn`" in capsys.readouterr().err


def test_a_failed_run_exits_with_one_and_json_says_why(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["unlearn", "--run", str(trained), "--forget", "random:10%", "--json"]
    status = main([*arguments, "gradient-ascent", "--lr", "1e30", "--epochs", "80"])
    found = json.loads(capsys.readouterr().out)
    assert status == found["status"] == 1
    assert "loss became" in found["error"]


def test_a_read_only_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    assert main(["train", *QUICK, "--runs", str(place), "--quiet"]) == 1
    assert "run the same command again" in capsys.readouterr().err


def test_a_full_disk_loses_no_finished_run(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from expunge.store.directory import Draft

    before = sorted(path.name for path in trained.parent.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(Draft, "tensors", full)
    status = main(["unlearn", "--run", str(trained), "--forget", "random:7", "--quiet", "finetune", "--epochs", "1"])
    assert status == 1
    assert "No space left on device (model.safetensors): what had finished is kept" in capsys.readouterr().err
    assert sorted(path.name for path in trained.parent.iterdir()) == before


@pytest.mark.slow
def test_an_interruption_keeps_what_had_finished(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from expunge.cli import main; sys.exit(main())",
        "demo",
        "--out",
        "demo",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("demo/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; what had finished is kept" in error
    assert "Traceback" not in error
    assert list(tmp_path.glob("demo/*/run.json"))


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    done = expunge("demo", "--out", tmp_path / "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in (
        "retrain",
        "original",
        "finetune",
        "gradient_ascent",
        "neggrad_plus",
        "random_label",
        "salun",
        "scrub",
    ):
        assert name in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "<svg" in page or "image/svg" in page
    assert "http://" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    again = expunge("demo", "--out", tmp_path / "demo", "--json", cwd=tmp_path)
    rows = json.loads(again.stdout)["rows"]
    assert len(rows) == 16
    gaps = {row["label"]: row["metrics"].get("average_gap") for row in rows}
    assert gaps["retrain"] == 0


def test_a_method_of_somebody_else_is_found_everywhere(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plug", "mine", "pass")
    assert len((tmp_path / "plug" / "mine.py").read_text().splitlines()) < 40
    here = Path(__file__).parents[2]
    paths = [tmp_path / "plug", here, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    listed = expunge("list", "methods", "--json", env=environment)
    assert "mine" in [row["name"] for row in json.loads(listed.stdout)]
    helped = expunge("unlearn", "--help", env=environment)
    assert "Descend on the negated loss" in re.sub(r"[\s│]+", " ", helped.stdout)
    recipe = tmp_path / "own.json"
    recipe.write_text(
        json.dumps(
            {
                "name": "own",
                "data": {"source": "digits", "limit": 300, "test_limit": 100},
                "model": "mlp:hidden=(16,)",
                "training": {"epochs": 2},
                "forget": "random:10%",
                "methods": ["MINE:lr=0.01", "finetune:epochs=1"],
            }
        )
    )
    done = expunge("bench", recipe, "--json", "--out", tmp_path / "bench", env=environment)
    rows = {row["label"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["mine"]["status"] == "finished"
    contract = [
        sys.executable,
        "-m",
        "pytest",
        here / "tests/contracts/test_methods.py",
        "-k",
        "mine",
        "-p",
        "no:cacheprovider",
    ]
    tested = subprocess.run(contract, capture_output=True, text=True, check=False, env=environment, cwd=here)
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
def test_a_metric_of_somebody_else_shows_with_its_own_words(tmp_path: Path) -> None:
    write_package(tmp_path / "plug", "surprise", "metrics", METRIC)
    paths = [tmp_path / "plug", Path(__file__).parents[2], os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    listed = expunge("list", "metrics", env=environment).stdout
    assert "surprise.mean: sureness of forgotten examples (bits), best as retrained" in listed
    recipe = tmp_path / "own.json"
    data = {"source": "digits", "limit": 300, "test_limit": 100}
    common = {"model": "mlp:hidden=(16,)", "training": {"epochs": 2}, "forget": "random:10%"}
    recipe.write_text(json.dumps({"name": "own", "data": data, **common, "methods": ["finetune:epochs=1"]}))
    done = expunge("bench", recipe, "--json", "--out", tmp_path / "bench", env=environment)
    rows = {row["label"]: row["metrics"] for row in json.loads(done.stdout)["rows"]}
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
def test_lists(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    assert capsys.readouterr().out
    assert main(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["name"] and row["summary"] for row in rows)


@pytest.mark.slow
def test_tune_writes_the_best_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    recipe = tmp_path / "small.json"
    data = {"source": {"name": "digits"}, "limit": 200, "test_limit": 50}
    plan = {"epochs": 2}
    wanted = {"name": "small", "data": data, "model": {"name": "logistic"}, "training": plan, "forget": "random:10%"}
    recipe.write_text(json.dumps(wanted | {"methods": ["finetune:epochs=1", "scrub:epochs=1 as mine"]}))
    folder = tmp_path / "tune"
    assert main(["tune", str(recipe), "--trials", "2", "--out", str(folder), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "mine" in printed.out
    found = json.loads((folder / "tuned.json").read_text())
    assert [method["label"] for method in found["methods"]] == ["finetune", "mine"]
    assert all(len(method["trials"]) == 2 for method in found["methods"])


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "expunge", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("expunge ")
