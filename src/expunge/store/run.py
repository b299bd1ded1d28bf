"""Runs as values: their names, the runs they depend on, and how they are read from a store."""

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.core.files import naming
from expunge.data.split_data import DataConfig
from expunge.store.directory import RunDirectory, Store
from expunge.training.fit import Training
from expunge.training.stepper import Precision


class GivesModel(Protocol):
    """What the configuration of every kind of run that gives a model says of it."""

    @property
    def data(self) -> DataConfig:
        """The images that it was trained on."""
        ...

    @property
    def model(self) -> object:
        """Its architecture."""
        ...

    @property
    def training(self) -> Training:
        """How it was trained, which retraining repeats."""
        ...

    @property
    def precision(self) -> Precision:
        """Precision of its forward passes."""
        ...

    @property
    def seed(self) -> int:
        """Its seed."""
        ...


run_id = config.run_id


def kind(wanted: object) -> str:
    """The kind of a run: the name of its plug-in."""
    return registry.of_config("runs", wanted).name


def label(wanted: object) -> str:
    """The word for a run in tables; empty where none is needed."""
    return registry.of_config("runs", wanted).mark.label(wanted)


def parents(wanted: object) -> dict[str, object]:
    """The runs that must exist before this one, by their role in it."""
    return config.parents(wanted)


def with_parents(wanted: Iterable[object]) -> dict[str, object]:
    """Every one of these runs and those before them, once each, by id: parents before children."""
    return {run_id(each): each for each in config.ordered(wanted)}


def open_config(directory: RunDirectory) -> object:
    """The configuration of a run, with those of the runs that it refers to.

    Raises:
        RequestError: A configuration is missing, damaged, or not the one that was referred to.
    """
    with naming(directory.path):
        return run_from_data(directory.config(), Store(directory.path.parent))


def run_from_data(data: Mapping[str, object], store: Store) -> object:
    """The configuration that ``data`` describes; the runs that it refers to are read from the store, once each.

    Raises:
        RequestError: A configuration is missing, damaged, or not the one that was referred to.
    """
    texts: dict[str, Mapping[str, object]] = {"": data}
    waiting, begun, found = [""], set[str](), cast("dict[str, object]", {})
    while waiting:
        name = waiting[-1]
        missing = [other for other in dict.fromkeys(config.references(texts[name]).values()) if other not in found]
        if missing:
            if name in begun:  # what it refers to should have been read by now
                raise RequestError(f"the configuration of {name} refers to itself by {missing[0]}: make it again")
            begun.add(name)
            texts |= {other: store.directory(other).config() for other in missing if other not in texts}
            waiting += missing
        else:
            found.setdefault(waiting.pop(), config.run_from_data(texts[name], found))
    return found[""]


def expanded(directory: RunDirectory) -> dict[str, object]:
    """What ``config.json`` says, with the configurations of the runs it refers to in their places."""
    store = Store(directory.path.parent)
    seen: dict[str, dict[str, object]] = {}

    def fill(value: object) -> object:
        if isinstance(value, Mapping):
            items = cast("Mapping[str, object]", value)
            name = config.referred(items)
            if name is None:
                return {key: fill(part) for key, part in items.items()}
            if name not in seen:
                seen[name] = {}  # a damaged configuration may refer to itself
                path = store.directory(name).path / "config.json"
                seen[name] = cast("dict[str, object]", fill(store.directory(name).config())) if path.is_file() else {}
            return seen[name]
        return [fill(part) for part in cast("list[object]", value)] if isinstance(value, list) else value

    return cast("dict[str, object]", fill(directory.config()))
