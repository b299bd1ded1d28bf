"""Named comparisons: the function ``recipe()`` of a file returns the :class:`Comparison` with the name of the file.

A file may define variants: ``more()`` returns their summaries and functions by name.
"""

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from expunge.bench import grid
from expunge.bench.grid import Comparison
from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.core.files import naming
from expunge.store.directory import read_json


@cache
def _found() -> dict[str, tuple[str, Callable[[], Comparison]]]:
    """The summary and function of every recipe, by name."""
    found: dict[str, tuple[str, Callable[[], Comparison]]] = {}
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{info.name}")
            found[info.name.replace("_", "-")] = ((module.__doc__ or "").partition("\n")[0], module.recipe)
            found |= getattr(module, "more", dict)()
    return found


def names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(_found())


def find(name: str) -> Comparison:
    """Return the recipe of that name, or the comparison in that JSON file.

    Raises:
        RequestError: There is neither.
    """
    if name.endswith(".json"):
        with naming(name):
            return grid.from_json(read_json(Path(name)))
    known = name.replace("_", "-")
    if known not in _found():
        raise RequestError(registry.unknown("recipe", name, names()) + "; or give a JSON file")
    return _found()[known][1]()


def summary(name: str) -> str:
    """Return the one-line description of a recipe."""
    return _found()[name.replace("_", "-")][0]
