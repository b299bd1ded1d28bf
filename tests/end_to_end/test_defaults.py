"""One word for the values of the paper, and runs that hardly changed, through the real command line."""

from pathlib import Path

import pytest

import expunge
from expunge.bench import grid
from expunge.store.directory import RunDirectory
from expunge.store.run import open_config
from expunge.unlearning import presets
from tests import problems
from tests.command_line import Terminal

SMALL = ("--data", "digits", "--limit", "120", "--test-limit", "50", "--model", "logistic", "--epochs", "2")
WEAK = ("--forget", "random:10%", "gradient-ascent", "--lr", "1e-9", "--reach", "none")


@pytest.fixture
def original(terminal: Terminal, tmp_path: Path) -> Path:
    return terminal.folder("train", *SMALL, "--runs", tmp_path)


def test_the_command_line_takes_the_values_of_the_paper(terminal: Terminal, original: Path) -> None:
    given = ("--forget", "random:10%", "scrub", "--defaults", "paper", "--epochs", "1")
    made = open_config(RunDirectory(terminal.folder("unlearn", "--run", original, *given)))
    assert made.unlearning == presets.named("scrub:defaults=paper,epochs=1")  # type: ignore[attr-defined]
    assert made.unlearning.reach is None  # type: ignore[attr-defined]
    assert "--defaults paper" in terminal("unlearn", "scrub", "--help")


def test_python_and_files_take_the_same_word(terminal: Terminal, tmp_path: Path) -> None:
    data = problems.data()
    kept = {"forget": data.forget, "retain": data.retain, "validation": data.validation}
    one, other = (
        expunge.unlearn(problems.model(), **kept, method="finetune", steps=2, **given)  # type: ignore[arg-type]
        for given in ({"defaults": "paper"}, {"lr": 0.01, "schedule": "constant", "clip": None})
    )
    assert problems.same(one.model, other.model)
    own = {"name": "own", "data": "digits", "model": "logistic", "training": {}, "forget": "class:1", "seeds": 1}
    wanted = grid.from_json(own | {"methods": ["scrub:defaults=paper"], "data": {"source": "digits"}})
    assert wanted.methods == ("scrub:defaults=paper",)


def test_a_run_that_hardly_changed_says_so_and_how_to_make_it_stronger(terminal: Terminal, original: Path) -> None:
    run = terminal.folder("unlearn", "--run", original, *WEAK)
    said = "gradient_ascent hardly changed the forget set (accuracy"
    assert said in terminal.error.replace("\n", " ")
    assert "lr=5e-09 makes it stronger" in terminal.error.replace("\n", " ")
    terminal("evaluate", "--run", run, "--metrics", "test_accuracy")
    assert said in terminal.error.replace("\n", " ")
    terminal("report", original.parent)
    page = (original.parent / "report.html").read_text(encoding="utf-8")
    assert "ascent \N{ALMOST EQUAL TO}" in page
    assert "hardly changed the forget set" in page


def test_a_run_that_changed_says_nothing(terminal: Terminal, original: Path) -> None:
    terminal("unlearn", "--run", original, "--forget", "random:10%", "gradient-ascent", "--lr", "1", "--reach", "none")
    assert "hardly changed" not in terminal.error
