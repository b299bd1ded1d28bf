"""Configurations: frozen dataclasses <-> JSON, their digest, and the short text form of a plug-in.

A field annotated ``Annotated[object, Choice("methods")]`` holds the configuration of any plug-in of
that kind. In JSON it is an object with the plug-in's ``name`` beside its fields, or, there as everywhere, text
such as ``resnet18:width=16`` (:func:`parse`).
"""

import dataclasses
import hashlib
import json
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import cattrs
from cattrs.errors import ForbiddenExtraKeysError

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.core.text import Text, assignments, opened, quoted, split

T = TypeVar("T")

FORMAT = 1
"""Part of every digest: raised when the meaning of stored configurations changes."""


@dataclass(frozen=True)
class Choice:
    """Annotation of a field that holds the configuration of some plug-in of this kind."""

    kind: str
    model: bool = False
    """Of kinds of runs: only those that give a model."""
    only: str = ""
    """Of kinds of runs: this one alone."""


@dataclass(frozen=True)
class ReadBy:
    """Annotation of a field whose text is read by a function, such as the name of a file of ids."""

    function: Callable[[str], object]


def to_data(value: object, declared: object = None, *, runs: bool = False) -> dict[str, object]:
    """A configuration as JSON-ready data (see the module for plug-ins and tagged unions).

    A run that it holds is given by id and digest, or, with ``runs``, as the value that it is.
    """
    return cast("dict[str, object]", _converter(runs).unstructure(value, declared or type(value)))


def from_data(kind: type[T], data: object) -> T:
    """The configuration of type ``kind`` that ``data`` describes.

    Raises:
        RequestError: A key is unknown or missing, or a value has the wrong type or is out of range.
    """
    try:
        return _converter().structure(data, kind)
    except RequestError:
        raise
    except Exception as error:  # cattrs raises groups of many types; all mean: not such a configuration
        reasons = cattrs.transform_error(
            error, path=getattr(kind, "__name__", "configuration"), format_exception=_reason
        )
        raise RequestError("; ".join(dict.fromkeys(reasons))) from error


def _reason(error: BaseException, _: object) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        return "; ".join(registry.unknown("option", key, known) for key in sorted(error.extra_fields))
    if isinstance(error, KeyError):
        return f"the option {error} is missing"
    return str(error)


def digest(value: object, declared: object = None) -> str:
    """A stable digest of a configuration: 64 hexadecimal digits of SHA-256 over its canonical JSON."""
    return digest_data(to_data(value, declared))


def digest_data(data: object) -> str:
    """The digest of JSON-ready data; the order of keys does not matter.

    Raises:
        RequestError: Some number in it is not finite.
    """
    try:
        text = json.dumps({"format": FORMAT, "data": data}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise RequestError(f"a configuration holds a number that is not finite ({error})") from error
    return hashlib.sha256(text.encode()).hexdigest()


def plugin_from_data(kind: str, data: object) -> object:
    """The plug-in configuration that a tagged object or a text describes.

    Raises:
        RequestError: It describes none.
    """
    return from_data(cast("type[object]", Annotated[object, Choice(kind)]), data)


def parse(kind: str, text: str) -> object:
    """The plug-in configuration written ``NAME:key=value,...``.

    One value may stand without its key, that of the first field: ``idx:/data/mnist``, ``class:3+5,count=50``; a
    percentage is the field ``share``: ``random:10%``.

    Raises:
        RequestError: The name, a key or a value is wrong.
    """
    name, _, rest = text.partition(":")
    plugin = registry.find(kind, name)
    what = f"{registry.KINDS[kind].singular} {plugin.name}"
    return override(plugin.config, {}, assignments(rest, field_names(plugin.config), what), what)


def read_texts(value: object) -> None:
    """Put plug-in configurations in the place of texts in the fields of a frozen dataclass that is being made."""
    for name, hint in _hints(type(value)).items():
        given, kinds = getattr(value, name), [_choice(each) for each in (hint, *get_args(hint)) if _is_choice(each)]
        if isinstance(given, str) and kinds:
            object.__setattr__(value, name, parse(kinds[0].kind, given))
        elif isinstance(given, tuple) and kinds:
            parts = cast("tuple[object, ...]", given)
            read = tuple(parse(kinds[0].kind, part) if isinstance(part, str) else part for part in parts)
            object.__setattr__(value, name, read)


@cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind, include_extras=True)


def text(kind: str, value: object) -> str:
    """The text of a plug-in configuration: its name, and the fields that differ from their defaults.

    A first field that has no default stands without its name, and a share is a percentage.
    """
    plugin = registry.of_config(kind, value)
    first = dataclasses.fields(plugin.config)[:1]
    leading = [field.name for field in first if _default(plugin.config, field.name) is None]
    parts: list[str] = []
    for name, part in _changed(value):
        if name == "share" and isinstance(part, float) and float(f"{100 * part:.12g}") / 100 == part:
            parts.append(f"{100 * part:.12g}%")
        else:
            parts.append(written(part) if name in leading else f"{name}={written(part)}")
    return f"{plugin.name}:{','.join(parts)}" if parts else plugin.name


def _changed(value: object) -> list[tuple[str, object]]:
    """The fields of a dataclass that differ from their defaults, those of dataclasses in it by dotted names."""
    found: list[tuple[str, object]] = []
    for name in field_names(type(value)):
        part, default = getattr(value, name), _default(type(value), name)
        if part == default:
            continue
        if _plain_dataclass(part) and type(part) is type(default):
            found += [(f"{name}.{key}", inner) for key, inner in _changed(part)]
        else:
            found.append((name, part))
    return found


def _plain_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not registry.kind_of(value)


def written(value: object) -> str:
    """One value in the text language."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(quoted(written(part), "+,:") for part in cast("tuple[object, ...]", value))
    kind = registry.kind_of(value)
    if kind == "runs":
        return run_id(value)
    return quoted(text(kind, value), ",:") if kind else quoted(str(value), ",+()")


def field_names(kind: type) -> list[str]:
    """The names of a dataclass's fields, in order."""
    return [field.name for field in dataclasses.fields(kind)]


def override(kind: type[T], data: Mapping[str, object], values: Mapping[str, object], what: str) -> T:
    """The configuration ``data`` of type ``kind`` with some values changed.

    A key is a field, a dotted path (``rule.lr``), or the name of a field of ``rule``, when the
    configuration has one and no field of that name itself (``lr``).

    Raises:
        RequestError: A key is unknown or a value wrong; ``what`` says for whom.
    """
    merged = _copied(data)
    for key, value in values.items():
        path = _path(kind, key, what)
        _set(kind, merged, path, value, what)
    try:
        return from_data(kind, merged)
    except RequestError as error:
        raise RequestError(f"{what}: {error}") from error


def _copied(data: Mapping[str, object]) -> dict[str, object]:
    """A copy whose objects can be changed; runs and other values are shared."""
    parts = {key: cast("Mapping[str, object]", part) for key, part in data.items() if isinstance(part, Mapping)}
    return {key: _copied(parts[key]) if key in parts else part for key, part in data.items()}


def _path(kind: type, key: str, what: str) -> list[str]:
    names = field_names(kind)
    path = key.split(".")
    if path[0] in names:
        return path
    declared = get_type_hints(kind)["rule"] if "rule" in names else None
    kinds = _members(declared).values() if _members(declared) else [declared]
    of_rule = [name for each in kinds if dataclasses.is_dataclass(each) for name in field_names(each)]  # pyright: ignore
    if path[0] in of_rule:
        return ["rule", *path]
    raise RequestError(f"{what}: {registry.unknown('option', key, [*names, *of_rule])}")


def _default(kind: type, name: str) -> object:
    """The default of a field; none where there is no default."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _set(kind: type, data: dict[str, object], path: list[str], value: object, what: str) -> None:
    """Set a nested value; a configuration inside that was not there yet starts from its default."""
    for name in path[:-1]:
        if name not in data:
            default = _default(kind, name)
            if dataclasses.is_dataclass(default) and not isinstance(default, type):
                data[name] = to_data(default, runs=True) | ({"kind": tag(type(default))} if name == "rule" else {})
        inner = data.get(name)
        if not isinstance(inner, dict):
            raise RequestError(f"{what}: {name} has no options of its own, so {'.'.join(path)} means nothing")
        data = cast("dict[str, object]", inner)
    data[path[-1]] = value


@cache
def _converter(runs: bool = False) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for plain, accepted in ((float, numbers.Real), (int, numbers.Integral), (bool, bool), (str, str)):
        converter.register_structure_hook(plain, _strict(plain, accepted))
    converter.register_structure_hook_func(_is_optional, _structure_optional)
    converter.register_structure_hook_func(_is_literal, _structure_literal)
    converter.register_structure_hook_func(_is_list, lambda value, kind: _structure_list(value, get_args(kind)[0]))
    converter.register_structure_hook(Path, lambda value, _: Path(opened(value) if isinstance(value, Text) else value))
    converter.register_structure_hook_func(_is_read, _structure_read)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(_is_choice, lambda value, kind: _structure_choice(value, _choice(kind)))
    converter.register_unstructure_hook_factory(
        _is_choice, lambda kind: lambda value: _unstructure_choice(value, kind, runs)
    )
    converter.register_structure_hook_func(_is_union, _structure_union)
    converter.register_unstructure_hook_func(_is_union, lambda value: _unstructure_union(value, runs))
    return converter


def _strict(kind: type, accepted: type) -> Callable[[object, object], object]:
    """No silent conversion: 0.5 is no int, "no" is no bool, true is no number; only text becomes what is wanted."""

    def structure(given: object, _: object) -> object:
        value = _of_text(given, kind) if isinstance(given, Text) else given
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {kind.__name__}, got {given!r}")
        if isinstance(value, numbers.Real) and not math.isfinite(value):
            raise TypeError(f"expected a finite number, got {value}")
        return kind(value)

    return structure


def _of_text(text: Text, kind: type) -> object:
    """A value of a plain type from text; the text itself where it is none."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is str:
        return str(opened(text))
    try:
        return float(text[:-1]) / 100 if kind is float and text.endswith("%") else kind(text)
    except ValueError:
        return text


def _is_optional(kind: object) -> bool:
    return get_origin(kind) in (Union, UnionType) and type(None) in get_args(kind) and not _is_union(kind)


def _structure_optional(value: object, kind: object) -> object:
    if value is None or (isinstance(value, Text) and value.lower() == "none"):
        return None
    rest = tuple(each for each in get_args(kind) if each is not type(None))
    return _converter().structure(value, rest[0] if len(rest) == 1 else Union[rest])  # pyright: ignore  # noqa: UP007


def _is_read(kind: object) -> bool:
    return get_origin(kind) is Annotated and any(isinstance(note, ReadBy) for note in get_args(kind)[1:])


def _structure_read(value: object, kind: object) -> object:
    plain, reader = get_args(kind)[0], next(note for note in get_args(kind)[1:] if isinstance(note, ReadBy))
    if not isinstance(value, str):
        return _converter().structure(value, plain)
    read = reader.function(str(opened(value)))
    return _converter().structure(read, plain) if get_origin(plain) is tuple else read


def _is_list(kind: object) -> bool:
    """Whether this is a tuple of any length of one type."""
    return get_origin(kind) is tuple and len(get_args(kind)) == 2 and get_args(kind)[1] is Ellipsis


def _structure_list(value: object, kind: type) -> tuple[object, ...]:
    return tuple(_converter().structure(part, kind) for part in _several(value))


def _several(value: object) -> list[object]:
    """The parts of a list; one value alone is a list of one, and text joins several: ``a+b``, ``3+17``, ``(8,4)``."""
    if isinstance(value, str):
        inner = opened(value)
        return list[object](split(inner, "," if inner != value and "," in inner else "+"))
    if isinstance(value, Iterable):
        return list(cast("Iterable[object]", value))
    return [value]


def _is_literal(kind: object) -> bool:
    return get_origin(kind) is Literal


def _structure_literal(value: object, kind: object) -> object:
    for known in get_args(kind):
        if value == known or (isinstance(value, Text) and value == str(known)):
            return known
    raise TypeError(f"expected one of {', '.join(map(str, get_args(kind)))}, got {value!r}")


def _is_choice(kind: object) -> bool:
    return get_origin(kind) is Annotated and any(isinstance(note, Choice) for note in get_args(kind)[1:])


def _choice(kind: object) -> Choice:
    return next(note for note in get_args(kind)[1:] if isinstance(note, Choice))


def _structure_choice(value: object, choice: Choice) -> object:
    kind = choice.kind
    if kind == "runs" and (isinstance(value, Own) or registry.is_run(value)):
        return _checked(value, choice)
    if isinstance(value, str):
        return _checked(parse(kind, opened(value)), choice)
    if not isinstance(value, Mapping) or "name" not in value:
        raise TypeError(f"expected an object with the name of a {registry.KINDS[kind].singular}, got {value!r}")
    data = dict(cast("Mapping[str, object]", value))
    plugin = registry.find(kind, str(data.pop("name")))
    return _converter().structure(data, plugin.config)


def _checked(value: object, choice: Choice) -> object:
    if registry.is_run(value):
        plugin = registry.of_config("runs", value)
        if choice.model and not plugin.mark.model:
            raise TypeError(f"expected a run that gives a model, got {run_id(value)}")
        if choice.only not in ("", plugin.name):
            raise TypeError(f"expected a run of `expunge {choice.only}`, got {run_id(value)}")
    return value


def _unstructure_choice(value: object, kind: object, runs: bool) -> object:
    if _choice(kind).kind == "runs":
        return value if runs else {"run": "own"} if isinstance(value, Own) else _reference(value)
    plugin = registry.of_config(_choice(kind).kind, value)
    return {"name": plugin.name, **_converter(runs).unstructure(value, plugin.config)}


def tag(kind: type) -> str:
    """How JSON names a class among others: ``PerRole`` is ``per_role``."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def _members(kind: object) -> dict[str, type]:
    if get_origin(kind) not in (Union, UnionType):
        return {}
    members = cast("tuple[type, ...]", get_args(kind))
    return {tag(member): member for member in members if dataclasses.is_dataclass(member)}


def _is_union(kind: object) -> bool:
    return len(_members(kind)) > 1


def _structure_union(value: object, kind: object) -> object:
    members = _members(kind)
    if (value is None and type(None) in get_args(kind)) or isinstance(value, tuple(members.values())):
        return value
    if not isinstance(value, Mapping) or value.get("kind") not in members:
        raise TypeError(f"expected an object whose kind is one of {', '.join(members)}, got {value!r}")
    data = dict(cast("Mapping[str, object]", value))
    return _converter().structure(data, members[str(data.pop("kind"))])


def _unstructure_union(value: object, runs: bool) -> object:
    if value is None:
        return None
    return {"kind": tag(type(value)), **_converter(runs).unstructure(value, type(value))}


@dataclass(frozen=True)
class Own:
    """Stands for the original model of an unlearning in a text that is written before it is known."""


OWN = Own()
"""The one value of :class:`Own`."""

_DIGEST = "__digest__"


def _reference(wanted: object) -> dict[str, object]:
    return {"run": run_id(wanted), "digest": run_digest(wanted)}


def run_id(wanted: object) -> str:
    """The name of a run's directory: its kind, a short description, and twelve digits of its digest."""
    plugin = registry.of_config("runs", wanted)
    return f"{plugin.name}-{plugin.mark.words(wanted)}-{run_digest(wanted)[:12]}"


def run_digest(wanted: object) -> str:
    """The digest of a run's configuration, in which every run that it refers to counts by its own digest.

    It is computed once for each configuration, parents first, so that a chain of any length costs its length.
    """
    if _DIGEST not in vars(wanted):
        for each in ordered([wanted], known=lambda run: _DIGEST in vars(run)):
            vars(each).setdefault(_DIGEST, digest_data(run_to_data(each)))
    return cast("str", vars(wanted)[_DIGEST])


def run_to_data(wanted: object) -> dict[str, object]:
    """The configuration of a run as JSON-ready data with its kind; the runs that it refers to by id and digest."""
    plugin = registry.of_config("runs", wanted)
    return {"kind": plugin.name, **to_data(wanted, plugin.config)}


def run_from_data(data: Mapping[str, object], known: Mapping[str, object]) -> object:
    """The run that ``data`` describes, where ``known`` holds the runs that it refers to, by id.

    Raises:
        RequestError: It describes none, or one of the runs is not the one that was referred to.
    """
    fields = dict(data)
    plugin = registry.find("runs", str(fields.pop("kind", "")))
    return from_data(plugin.config, _replaced(fields, known))


def references(data: object) -> dict[str, str]:
    """The ids of the runs that JSON-ready data refers to, by digest."""
    if isinstance(data, Mapping):
        items = cast("Mapping[str, object]", data)
        name = referred(items)
        if name is not None:
            return {str(items["digest"]): name}
        return {key: value for part in items.values() for key, value in references(part).items()}
    if isinstance(data, list):
        return {key: value for part in cast("list[object]", data) for key, value in references(part).items()}
    return {}


def referred(data: Mapping[str, object]) -> str | None:
    """The id of the run that an object refers to, if it is a reference."""
    return str(data["run"]) if set(data) == {"run", "digest"} else None


def _replaced(data: object, known: Mapping[str, object]) -> object:
    """The data with runs in the places of references."""
    if isinstance(data, Mapping):
        items = cast("Mapping[str, object]", data)
        name = referred(items)
        if name is None:
            return {key: _replaced(part, known) for key, part in items.items()}
        if run_digest(known[name]) != items["digest"]:
            raise RequestError(f"{name} has another configuration than the one referred to: make it again")
        return known[name]
    return [_replaced(part, known) for part in cast("list[object]", data)] if isinstance(data, list) else data


def parents(wanted: object) -> dict[str, object]:
    """The runs that a run depends on, by role: those in its fields, and those that its kind computes."""
    computed = registry.of_config("runs", wanted).mark.parents
    return _held(wanted) | ({} if computed is None else dict(computed(wanted)))


def ordered(wanted: Iterable[object], known: Callable[[object], bool] = lambda _: False) -> list[object]:
    """Every one of these runs and of those before them, once each, parents before children.

    What comes before a run that is ``known`` is left out.
    """
    found: dict[int, object] = {}
    begun: set[int] = set()
    waiting = list(wanted)[::-1]
    while waiting:
        each = waiting[-1]
        if id(each) in begun or known(each):
            found.setdefault(id(each), waiting.pop())
            continue
        begun.add(id(each))
        waiting += [parent for parent in parents(each).values() if id(parent) not in found][::-1]
    return list(found.values())


def _held(value: object, role: str = "") -> dict[str, object]:
    """The runs in the fields of a configuration and of what it holds, by the name of the field."""
    if isinstance(value, tuple):
        parts = enumerate(cast("tuple[object, ...]", value))
        return {key: run for number, part in parts for key, run in _in_place(part, f"{role}.{number}").items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {key: run for name in names for key, run in _in_place(getattr(value, name), name).items()}
    return {}


def run_fields(kind: type) -> list[str]:
    """The fields of a configuration that hold a run."""
    return [name for name, hint in _hints(kind).items() if any(_holds_run(each) for each in (hint, *get_args(hint)))]


def _holds_run(kind: object) -> bool:
    return _is_choice(kind) and _choice(kind).kind == "runs"


def held(value: object) -> list[object]:
    """The runs in the fields of a configuration and of what it holds."""
    return list(_held(value).values())


def _in_place(value: object, role: str) -> dict[str, object]:
    return {role: value} if registry.is_run(value) else _held(value, role)


def bind(value: T, original: object) -> T:
    """The value with the original model in every place that :data:`OWN` holds."""
    if isinstance(value, Own):
        return cast("T", original)
    if isinstance(value, tuple):
        return cast("T", tuple(bind(part, original) for part in cast("tuple[object, ...]", value)))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    before = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    after = {name: bind(part, original) for name, part in before.items()}
    changed = {name: part for name, part in after.items() if part is not before[name]}
    return dataclasses.replace(value, **changed) if changed else value  # pyright: ignore
