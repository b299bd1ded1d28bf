"""Packages beside expunge that add a plug-in through an entry point."""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from expunge.core import registry


def write(folder: Path, name: str, plugins: Mapping[str, str]) -> None:
    """A package with a module for each of these plug-ins: its text by its kind."""
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    points = ""
    for kind, text in plugins.items():
        (folder / f"{name}_{kind}.py").write_text(text)
        points += f"[expunge.{kind}]\n{name} = {name}_{kind}\n"
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(points)


@contextmanager
def installed(folder: Path, name: str, plugins: Mapping[str, str]) -> Iterator[None]:
    """The package is found within the block, in this process and in those that it starts."""
    write(folder, name, plugins)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
            _look_again()
            yield
    finally:
        for kind in plugins:
            sys.modules.pop(f"{name}_{kind}", None)
        _look_again()


def _look_again() -> None:
    importlib.invalidate_caches()
    for cached in (registry.plugins, registry.kinds_of_runs):
        cached.cache_clear()
