"""Runs as values: their ids, their parents, and reading them from a store."""

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.core.files import naming
from expunge.data.split_data import DataConfig
from expunge.store.directory import RunDirectory, Store
from expunge.training.fit import Training
from expunge.training.precision import Precision


class GivesModel(Protocol):
    """The configuration of a run that gives a model."""

    @property
    def data(self) -> DataConfig:
        """The images that the model was trained on."""
        ...

    @property
    def model(self) -> object:
        """The architecture."""
        ...

    @property
    def training(self) -> Training:
        """The training, which retraining repeats."""
        ...

    @property
    def precision(self) -> Precision:
        """Precision of the forward passes."""
        ...

    @property
    def seed(self) -> int:
        """The seed."""
        ...


run_id, parents = config.run_id, config.parents


def kind(wanted: object) -> str:
    """Return the kind of a run: the name of its plug-in."""
    return registry.of_config("runs", wanted).name


def label(wanted: object) -> str:
    """Return the label of a run in tables; empty if it needs none."""
    return registry.of_config("runs", wanted).mark.label(wanted)


def with_parents(wanted: Iterable[object]) -> dict[str, object]:
    """Return these runs and all their ancestors, once each, by id, parents before children."""
    return {run_id(each): each for each in config.ordered(wanted)}


def open_config(directory: RunDirectory) -> object:
    """Read the configuration of a run and of all its ancestors.

    Raises:
        RequestError: A configuration is missing or damaged, or its digest is not that of the reference to it.
    """
    with naming(directory.path):
        return run_from_data(directory.config(), Store(directory.path.parent))


def run_from_data(data: Mapping[str, object], store: Store) -> object:
    """Return the run that ``data`` describes, with its ancestors, which are read from the store once each.

    Raises:
        RequestError: A configuration is missing or damaged, or its digest is not that of the reference to it.
    """
    texts: dict[str, Mapping[str, object]] = {"": data}
    waiting, begun, found = [""], set[str](), cast("dict[str, object]", {})
    while waiting:
        name = waiting[-1]
        missing = [other for other in dict.fromkeys(config.references(texts[name]).values()) if other not in found]
        if missing:
            if name in begun:  # its references have been read, so this is a cycle
                raise RequestError(f"the configuration of {name} refers to itself by {missing[0]}: make it again")
            begun.add(name)
            texts |= {other: store.directory(other).config() for other in missing if other not in texts}
            waiting += missing
        else:
            found.setdefault(waiting.pop(), config.run_from_data(texts[name], found))
    return found[""]


def expanded(directory: RunDirectory) -> dict[str, object]:
    """Read ``config.json``, with references replaced by the configurations of the runs that they refer to."""
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
                found = store.directory(name)
                seen[name] = cast("dict[str, object]", fill(found.config())) if found.exists else {}
            return seen[name]
        return [fill(part) for part in cast("list[object]", value)] if isinstance(value, list) else value

    return cast("dict[str, object]", fill(directory.config()))
