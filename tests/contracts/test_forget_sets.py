"""The contract of a forget set, and one that another package adds: on the command line, in a bench, in a report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.data.forgetting import forget_ids
from expunge.data.image_set import ImageSet, make
from expunge.store.directory import RunDirectory
from tests.command_line import Terminal
from tests.contracts.examples import example

EVERY_OTHER = '''"""Every so manieth example."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core import registry
from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class EveryForget:
    """Which ones."""

    step: int = 2
    """How far apart they are."""


@registry.forget_set(words=lambda config: f"one of {config.step}")
def forget(train: ImageSet, config: EveryForget, generator: torch.Generator) -> Tensor:
    """Every so manieth training example, by position."""
    return train.ids[:: config.step]
'''


@pytest.fixture(params=[*registry.plugins("forget_sets"), "every"])
def plugin(request: pytest.FixtureRequest, package: Callable[..., Path]) -> registry.Plugin:
    package(("forget_sets", "every", EVERY_OTHER))
    return registry.find("forget_sets", request.param)


def images() -> ImageSet:
    return make(torch.zeros(30, 1, 2, 2), torch.arange(30) % 3).select(torch.arange(29, -1, -1))


def chosen(forget: object, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return forget_ids(forget, images(), generator, 3, poisoned=torch.tensor([4, 2]))


def test_it_chooses_examples_by_seed_alone_and_is_written_as_text(plugin: registry.Plugin) -> None:
    wanted = example(plugin)
    ids = chosen(wanted)
    assert ids.dtype == torch.int64
    assert ids.tolist() == sorted(set(ids.tolist()))
    assert 0 < len(ids) < 30
    assert set(ids.tolist()) <= set(range(30))
    assert torch.equal(chosen(wanted), ids)
    assert config.parse("forget_sets", config.text("forget_sets", wanted)) == wanted


def test_one_of_another_package_is_listed_run_compared_and_reported(
    tmp_path: Path, package: Callable[..., Path], terminal: Terminal
) -> None:
    package(("forget_sets", "every", EVERY_OTHER))
    listed = {row["name"]: row for row in terminal.json("list", "forget-sets")}
    assert listed["every"]["options"] == {"step": 2}
    model = ("--model", "logistic", "--limit", 60, "--test-limit", 20, "--epochs", 1)
    run = terminal.folder("train", "--runs", tmp_path / "runs", *model)
    unlearned = terminal.folder("unlearn", "--run", run, "--forget", "every:step=3", "original")
    ids = RunDirectory(unlearned).tensor("predictions", "step.ids")
    assert ids is not None
    assert len(ids) == 20  # every third of 60: six of a class are too few to set some aside for validation

    comparison = {"name": "thirds", "data": {"source": "digits", "limit": 60, "test_limit": 20}, "seeds": 1}
    comparison |= {"model": "logistic", "training": {"epochs": 1}, "methods": ["finetune:epochs=1"]}
    comparison |= {"forget": "every:step=3", "variations": ["forget=(every:step=4)"]}
    (tmp_path / "thirds.json").write_text(json.dumps(comparison))
    terminal("bench", tmp_path / "thirds.json", "--out", tmp_path / "compared", "--quiet")
    assert "one of 4" in (tmp_path / "compared" / "report.html").read_text()


@pytest.mark.parametrize(
    ("ids", "cure"),
    [
        ("train.ids[:0]", "the forget set every is empty"),
        ("train.ids + 100", "not in the training set: 129, 128"),
        ("train.ids", "all 30 training examples"),
    ],
)
def test_one_that_chooses_what_is_not_there_is_refused(ids: str, cure: str, package: Callable[..., Path]) -> None:
    package(("forget_sets", "every", EVERY_OTHER.replace("train.ids[:: config.step]", ids)))
    with pytest.raises(RequestError, match=cure):
        chosen(config.parse("forget_sets", "every"))


def test_it_may_take_only_what_the_caller_provides(package: Callable[..., Path]) -> None:
    body = EVERY_OTHER.replace("generator: torch.Generator)", "generator: torch.Generator, *, people: dict)")
    package(("forget_sets", "every", body))
    with pytest.warns(UserWarning, match=r"keyword-only any of \(num_classes, poisoned, names\); got .*people"):
        registry.plugins("forget_sets")
