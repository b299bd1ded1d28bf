"""The contract of a kind of run, by one that another package adds: made, resumed, listed, and made by a bench."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.bench import local
from expunge.core import config, registry
from expunge.core.errors import RequestError, RunError
from expunge.store import execute
from expunge.store.directory import Store
from expunge.store.execute import Session
from expunge.store.run import open_config, parents, run_id
from tests.command_line import Terminal
from tests.runs import comparison, digits, trained

KIND = '''"""How many weights a model has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from expunge.core import registry
from expunge.core.config import OWN, Choice


@dataclass(frozen=True)
class SizeConfig:
    """The size of a model."""

    original: Annotated[object, Choice("runs", model=True)] = OWN
    """The model."""
    others: tuple[Annotated[object, Choice("runs")], ...] = ()
    """Other runs."""
    factor: int = 1
    """What the number is multiplied by."""


def label(config):
    return "size"


@registry.run(label=label)
def work(config, parents, draft, session):
    """Count the weights of a model."""
    if config.factor < 0:
        raise ArithmeticError("a negative size")
    count = sum(value.numel() for value in parents["original"].weights().values())
    return {"seconds": {}, "notes": {"size": config.factor * count, "parents": sorted(parents)}}


work.__annotations__["config"] = SizeConfig
'''

METHOD = '''"""Leave the model as it is, and know its size."""

from dataclasses import dataclass
from typing import Annotated

from torch import nn

from expunge.core.config import Choice
from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context


@dataclass(frozen=True)
class SizedConfig:
    """Its options."""

    size: Annotated[object, Choice("runs", only="size")] | None = None
    """The size of the model."""


@method(reference="a test")
def unlearn(model: nn.Module, data: UnlearningData, config: SizedConfig, context: Context) -> nn.Module:
    """Leave the model as it is."""
    return model
'''


@pytest.fixture(autouse=True)
def _beside(package: Callable[..., Path]) -> None:
    """A kind of run, and a method that depends on such a run."""
    package(("runs", "size", KIND), ("methods", "sized", METHOD))


def size(**options: object) -> object:
    return registry.find("runs", "size").config(trained(), **options)


def test_it_is_made_after_its_parents_and_found_again(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "runs"), size(others=(trained(seed=1), trained(seed=2)), factor=2)
    directory = execute.run(wanted, store, Session())
    record = directory.record()
    assert record["notes"] == {"size": 1300, "parents": ["original", "others.0", "others.1"]}
    assert record["kind"] == record["label"] == "size"
    assert directory.id.startswith("size-size-s0-")
    assert len(store.all()) == 4
    written = (directory.path / "run.json").stat().st_mtime_ns
    assert execute.run(wanted, store, Session()) == directory
    assert (directory.path / "run.json").stat().st_mtime_ns == written, "nothing is computed twice"
    assert open_config(directory) == wanted


def test_what_fails_is_kept_with_its_reason_and_tried_again_when_asked(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "runs"), size(factor=-1)
    for session in (Session(), Session(), Session(retry=True)):
        with pytest.raises(RunError, match="a negative size"):
            execute.run(wanted, store, session)
    assert store.directory(run_id(wanted)).record()["status"] == "failed"


def test_it_is_listed(terminal: Terminal) -> None:
    listed = {row["name"]: row for row in terminal.json("list", "runs")}
    assert listed["size"]["summary"] == "Count the weights of a model."
    assert "factor" in listed["size"]["options"]


@pytest.mark.slow
def test_a_bench_makes_it_as_a_parent(tmp_path: Path) -> None:
    wanted = dataclasses.replace(comparison("sized:size=(size:factor=3)"), data=digits(), model=trained().model)
    local.bench(wanted, Store(tmp_path), jobs=1)
    store = Store(tmp_path)
    (made,) = [run for run in store.all() if run.record()["kind"] == "size"]
    (subject,) = [run for run in store.all() if run.id.startswith("unlearn-sized")]
    assert made.record()["notes"]["size"] == 1950
    assert subject.record()["parents"]["size"] == made.id


def test_a_run_of_another_kind_is_refused() -> None:
    with pytest.raises(RequestError, match=f"expected a run of `expunge size`, got {run_id(trained())}"):
        config.override(registry.find("methods", "sized").config, {}, {"size": trained()}, "sized")


def test_many_parents_and_long_chains_cost_little() -> None:
    """Nesting is followed without recursion: 1,000 runs deep, and 128 wide."""
    kind = registry.find("runs", "size").config
    chain: object = trained()
    for number in range(1000):
        chain = kind(trained(), (chain,), number)
    wide = kind(trained(), tuple(kind(trained(), (), number) for number in range(128)))
    assert len(config.ordered([chain])) >= 1001
    assert len({run_id(each) for each in config.ordered([chain, wide])}) == 1001 + 129
    assert len(parents(wide)) == 129
