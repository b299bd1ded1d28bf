"""Functions of the user's own, ``FILE.py:NAME`` or ``package.module:NAME``, known by the SHA-256 of their source.

Executing one is executing a program: it must be trusted first. What is trusted is a digest, and a file in the user's
configuration folder remembers it. The digest covers the one source file, not the modules that it imports.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from expunge.core import files
from expunge.core.errors import RequestError

CONFIG = "EXPUNGE_CONFIG"
"""The environment variable that names the configuration folder; by default ``~/.config/expunge``."""


def digest(named: str) -> str:
    """The SHA-256 of the source of a function; nothing is executed.

    Raises:
        RequestError: There is no such file or module, or the text names no function.
    """
    return files.digest(_source(named))


def trusted(found: str) -> bool:
    """Whether a source with this digest may be executed."""
    remembered = _remembered()
    return remembered.is_file() and found in files.text(remembered, "delete it").split()


def trust(found: str, named: str) -> None:
    """Remember that a source with this digest may be executed.

    Raises:
        RequestError: The configuration folder cannot be written.
    """
    remembered = _remembered()
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        with remembered.open("a", encoding="utf-8") as file:
            file.write(f"{found} {Path(named.rpartition(':')[0]).name}\n")
    except OSError as error:
        raise RequestError(f"{remembered} cannot be written ({error.strerror}): set {CONFIG} to a folder") from error


def _remembered() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(os.environ.get(CONFIG) or Path(home) / "expunge") / "trusted.txt"


@contextmanager
def loaded(named: str, wanted: str) -> Iterator[Callable[..., object]]:
    """The function, whose source is executed once per process; within the block it can import what lies beside it.

    Raises:
        RequestError: The source is not trusted, has another digest than ``wanted``, raises, or lacks the function.
    """
    path, (place, _, name) = _source(named), named.rpartition(":")
    content = files.content(path, "restore it")
    if sha256(content).hexdigest() != wanted:
        raise RequestError(
            f"{path} has changed since the model was made: its digest begins with {sha256(content).hexdigest()[:12]}, "
            f"not {wanted[:12]}; restore it, or train again"
        )
    if not trusted(wanted):
        raise RequestError(f"{named} is code that has not been trusted yet: read it, then add --trust to execute it")
    with _importable(path.parent if place.endswith(".py") else Path.cwd()):
        module = _executed(path, content, wanted) if place.endswith(".py") else _imported(place)
        function = getattr(module, name, None)
        if not callable(function):
            known = ", ".join(each for each, value in vars(module).items() if callable(value) and each[0] != "_")
            raise RequestError(f"{path} has no function {name}; there are: {known or 'none'}")
        yield function


def _executed(path: Path, content: bytes, wanted: str) -> ModuleType:
    """The module of these bytes, which are those of the digest."""
    name = f"expunge_own_{sha256(f'{path} {wanted}'.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # dataclasses and pickle look the module up
        try:
            exec(compile(content, path, "exec"), vars(module))
        except Exception as error:
            del sys.modules[name]
            raise RequestError(f"{path} raises {type(error).__name__}: {error}") from error
    return sys.modules[name]


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise RequestError(f"importing {module} raises {type(error).__name__}: {error}") from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _source(named: str) -> Path:
    """The source file of ``FILE.py:NAME`` or ``package.module:NAME``, found without importing a package."""
    place, _, name = named.rpartition(":")
    if not (place and name.isidentifier()):
        raise RequestError(f"{named!r} names no function: write FILE.py:NAME or package.module:NAME")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise RequestError(f"there is no {place} in {Path.cwd()}: run this where the file is, or restore it")
        return Path(place).resolve()
    folders, origin, parts = None, "", place.split(".")
    for depth in range(1, len(parts) + 1):
        module = ".".join(parts[:depth])
        with _importable(Path.cwd()):
            specs = (finder.find_spec(module, folders) for finder in sys.meta_path)
            spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or (depth < len(parts) and spec.submodule_search_locations is None):
            raise RequestError(f"there is no module {place}: install its package, or run this where it is")
        folders, origin = list(spec.submodule_search_locations or []), spec.origin or ""
    if not origin.endswith(".py"):
        raise RequestError(f"{place} has no Python source")
    return Path(origin)
