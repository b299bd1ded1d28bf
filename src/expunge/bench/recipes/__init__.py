"""Named comparisons, one per file: ``recipe()`` returns a :class:`~expunge.bench.grid.Comparison`."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

from expunge.bench import grid
from expunge.bench.grid import Comparison
from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.store.directory import read_json


def names() -> list[str]:
    """The names of all recipes."""
    modules = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def find(name: str) -> Comparison:
    """The recipe of that name, or the comparison in that JSON file.

    Raises:
        RequestError: There is neither.
    """
    if name.endswith(".json"):
        return grid.from_json(read_json(Path(name)))
    if name.replace("_", "-") not in names():
        raise RequestError(registry.unknown("recipe", name, names()) + "; or give a JSON file")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return cast("Callable[[], Comparison]", module.recipe)()


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return (module.__doc__ or "").strip().partition("\n")[0]
