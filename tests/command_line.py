"""The command line in this process or in one of its own, and packages that somebody else put beside expunge."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expunge.cli import main

ROOT = Path(__file__).parents[1]
EXPUNGE = [sys.executable, "-m", "expunge"]


def expunge(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """A process of its own, as from a shell."""
    return subprocess.run([*EXPUNGE, *map(str, arguments)], capture_output=True, text=True, check=False, **more)


class Terminal:
    """Runs commands in this process, and reads what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.error = capsys, ""

    def status(self, *arguments: object) -> tuple[int | str | None, str]:
        """The exit status, and what is printed."""
        try:
            status: int | str | None = main([str(each) for each in arguments])
        except SystemExit as ended:  # of the parser
            status = ended.code
        printed, self.error = self.capsys.readouterr()
        return status, printed

    def __call__(self, *arguments: object) -> str:
        """What a command that succeeds prints."""
        status, printed = self.status(*arguments)
        assert status == 0, self.error
        return printed.strip()

    def folder(self, command: str, *arguments: object) -> Path:
        """The folder of the run that a command makes."""
        return Path(self(command, "--quiet", *arguments))

    def json(self, command: str, *arguments: object) -> Any:
        """What a command prints for programs."""
        return json.loads(self(command, "--json", *arguments))

    def refused(self, *arguments: object) -> str:
        """What a request that cannot be met is answered with, on one line."""
        status, printed = self.status(*arguments)
        assert status == 2, self.error
        assert "Traceback" not in self.error
        return " ".join((self.error + printed).replace("│", " ").split())


def write_package(folder: Path, *plugins: tuple[str, str, str]) -> dict[str, str]:
    """A package that adds plug-ins (kind, name, text) by entry points; the environment in which it is found."""
    information = folder / "somebody_elses-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody_elses\nVersion: 1.0\n")
    points = [f"[expunge.{kind}]\n{name} = {name}\n" for kind, name, _ in plugins]
    (information / "entry_points.txt").write_text("".join(points))
    for _, name, text in plugins:
        (folder / f"{name}.py").write_text(text)
    return beside(folder)


def beside(*folders: Path) -> dict[str, str]:
    """This environment with folders in which modules are found, and the tests."""
    paths = [*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


METHOD = '''"""A method that somebody else wrote."""

from dataclasses import dataclass

from torch import nn

from expunge.training import duration
from expunge.training.context import Context
from expunge.data.unlearning_data import UnlearningData
from expunge.training.losses import cross_entropy
from expunge.core.registry import method
from expunge.training.rules import PerRole, Rule


@dataclass(frozen=True)
class MineConfig:
    """Its options."""

    epochs: int = 1
    """Passes over the forget set."""
    steps: duration.Steps = None
    """Steps in place of epochs."""
    batch_size: int = 64
    """Examples per step."""
    rule: Rule | PerRole = Rule(lr=1e-3)
    """The update rule."""

    def __post_init__(self) -> None:
        duration.check(self)


@method(reference="unpublished", aliases=("MINE",), roles=("forget",))
def unlearn(model: nn.Module, data: UnlearningData, config: MineConfig, context: Context) -> nn.Module:
    """Descend on the negated loss of the forget set."""
    {body}
    total = duration.total_steps(config, data.forget.steps(config.batch_size))
    step = context.stepper(model.train(), config.rule, total)
    for batch in duration.batches(data.forget, config, context.generator):
        step(forget=lambda b=batch: -cross_entropy(model(b.inputs), b.labels))
    return model
'''


def write_method(folder: Path, name: str, body: str) -> dict[str, str]:
    """A package that adds one method, which does something first."""
    return write_package(folder, ("methods", name, METHOD.format(body=body)))
