"""List plug-ins of a kind (methods, metrics, data sources, ...), recipes, or the ids and names of examples."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import tyro

from expunge.bench import recipes
from expunge.cli import _console
from expunge.cli import _ids as examples
from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.core.registry import Measure
from expunge.unlearning import presets


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Options of `expunge list`."""

    what: Annotated[
        Literal[
            "methods",
            "metrics",
            "scores",
            "pruning",
            "data",
            "models",
            "forget-sets",
            "poisons",
            "runs",
            "recipes",
            "ids",
        ],
        tyro.conf.Positional,
    ]
    """What to list."""
    examples: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN|DATA [NAME|ID ...]]")] = ()
    """Of ids: the run or data source, and the examples, by name or id; all by default."""
    json: bool = False
    """Print the result as JSON."""
    csv: bool = False
    """Of ids: print the result as CSV."""
    all: bool = False
    """Of ids: print all rows."""


def run(arguments: Sequence[str]) -> int:
    """List plug-ins or recipes."""
    given = _console.parse(Arguments, "list", __doc__, arguments)
    if given.what == "ids":
        return _ids(given)
    if given.examples or given.csv or given.all:
        raise RequestError("RUN|DATA, --csv and --all belong to `expunge list ids`")
    rows = _recipes() if given.what == "recipes" else _plugins(given.what.replace("-", "_"))
    if given.json:
        _console.print_json(rows)
        return 0
    _console.print_list(rows)
    return 0


def _ids(given: Arguments) -> int:
    found = examples.find(given.examples)
    if given.json:
        _console.print_json([dataclasses.asdict(example) for example in found])
    elif given.csv:
        examples.write_csv(found)
    else:
        examples.show(found, given.all)
    return 0


def _plugins(kind: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {
            "name": plugin.name,
            "summary": plugin.summary,
            "options": _options(plugin.config) | _added(kind, plugin.name),
            "aliases": list(plugin.mark.aliases),
            "reference": plugin.mark.reference,
            **({"measures": list(map(_measure, plugin.mark.measures))} if kind == "metrics" else {}),
        }
        for plugin in registry.plugins(kind).values()
    ]
    return rows + (_presets() if kind == "methods" else [])


def _measure(measure: Measure) -> dict[str, object]:
    """What a metric says of one of its values."""
    described = {field.name: getattr(measure, field.name) for field in dataclasses.fields(measure)}
    return {name: described[name] for name in ("name", "title", "unit", "better", "range", "retrained", "meaning")}


def _presets() -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "summary": f"preset: {preset.summary}",
            "options": {"method": preset.method} | _parts(preset),
            "aliases": list(preset.aliases),
        }
        for name, preset in presets.PRESETS.items()
        if name not in registry.plugins("methods")
    ]


def _added(kind: str, name: str) -> dict[str, object]:
    """The update mask that a method has by its name."""
    preset = presets.PRESETS.get(name) if kind == "methods" else None
    return {} if preset is None else _parts(preset)


def _parts(preset: presets.Preset) -> dict[str, object]:
    parts = {"update_mask": preset.update_mask, "adapters": preset.adapters}
    return {name: _plain(part) for name, part in parts.items() if part is not None}


def _options(kind: type) -> dict[str, object]:
    """Each option with its default; None where it must be given."""
    return {
        field.name: None if field.default is dataclasses.MISSING else _plain(field.default)
        for field in dataclasses.fields(kind)
    }


def _plain(value: object) -> object:
    """The short form of a rule: its class and the values that are not defaults."""
    if not dataclasses.is_dataclass(value):
        return value
    defaults = cast("type", type(value))
    changed = {
        field.name: _plain(getattr(value, field.name))
        for field in dataclasses.fields(defaults)
        if getattr(value, field.name) != field.default
    }
    return f"{defaults.__name__}({', '.join(f'{key}={item}' for key, item in changed.items())})"


def _recipes() -> list[dict[str, object]]:
    return [{"name": name, "summary": recipes.summary(name)} for name in recipes.names()]
