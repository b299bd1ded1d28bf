"""One thread for every test, as others only wait for each other on problems this small; and shared fixtures."""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from expunge.bench import local
from expunge.core import registry
from expunge.core.errors import RunError
from expunge.store import execute
from expunge.store.directory import Store
from expunge.store.execute import Session
from tests.command_line import Terminal, write_package

torch.set_num_threads(1)
os.environ["EXPUNGE_CACHE"] = "off"  # for this process and those that it starts


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Runs commands and reads what they print."""
    return Terminal(capsys)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Puts plug-ins (kind, name, text) of somebody else beside expunge, in this process and those that it starts."""
    names: list[str] = []

    def install(*plugins: tuple[str, str, str]) -> Path:
        folder = tmp_path / "package"
        monkeypatch.setenv("PYTHONPATH", write_package(folder, *plugins)["PYTHONPATH"])
        monkeypatch.syspath_prepend(folder)
        names.extend(name for _, name, _ in plugins)
        find_plugins_anew()
        return folder

    yield install
    monkeypatch.undo()
    for name in names:
        sys.modules.pop(name, None)
    find_plugins_anew()


def find_plugins_anew() -> None:
    """Forget which plug-ins have been found."""
    importlib.invalidate_caches()
    for cached in (registry.plugins, registry.kinds_of_runs):
        cached.cache_clear()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a search are made here: starting processes takes seconds."""

    def make(runs: list[object], store: Store, **_: object) -> None:
        for run in runs:
            with contextlib.suppress(RunError):
                execute.run(run, store, Session())

    monkeypatch.setattr(local, "make", make)
