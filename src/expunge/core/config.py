"""Configurations: frozen dataclasses to and from JSON, their digests, and the text form of plug-ins.

A field annotated ``Annotated[object, Choice("methods")]`` holds the configuration of any plug-in of
that kind. In JSON it is an object with the plug-in's ``name`` and its fields, or text such as
``resnet18:width=16`` (:func:`parse`).
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
"""Part of every digest; increase it when the meaning of stored configurations changes."""


@dataclass(frozen=True)
class Choice:
    """Annotation of a field that holds the configuration of any plug-in of this kind."""

    kind: str
    model: bool = False
    """For runs: accept only kinds that give a model."""
    only: str = ""
    """For runs: accept only this kind."""


@dataclass(frozen=True)
class ReadBy:
    """Annotation of a field whose text is read by a function, such as the path of a file of ids."""

    function: Callable[[str], object]


@dataclass(frozen=True)
class InPlaceOf:
    """Annotation of a field that is given in place of another: to set either resets the other to its default."""

    field: str


@dataclass(frozen=True)
class Others:
    """Annotation of a field, a tuple of texts ``key=value``, for the options in a text that have no field."""


def to_data(value: object, declared: object = None, *, runs: bool = False) -> dict[str, object]:
    """Return a configuration as JSON-ready data.

    Runs in it become references (id and digest); with ``runs``, they stay values.
    """
    return cast("dict[str, object]", _converter(runs).unstructure(value, declared or type(value)))


def from_data(kind: type[T], data: object) -> T:
    """Return the configuration of type ``kind`` that ``data`` describes.

    Raises:
        RequestError: A key is unknown or missing, or a value has the wrong type or is out of range.
    """
    try:
        return _converter().structure(data, kind)
    except RequestError:
        raise
    except Exception as error:  # cattrs raises groups of many types; all mean that the data are wrong
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
    """Return the SHA-256 of a configuration's canonical JSON, as 64 hexadecimal digits."""
    return digest_data(to_data(value, declared))


def digest_data(data: object) -> str:
    """Return the digest of JSON-ready data, which is independent of the order of keys.

    Raises:
        RequestError: A number in it is not finite.
    """
    try:
        text = json.dumps({"format": FORMAT, "data": data}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise RequestError(f"a configuration holds a number that is not finite ({error})") from error
    return hashlib.sha256(text.encode()).hexdigest()


def plugin_from_data(kind: str, data: object) -> object:
    """Return the plug-in configuration that an object with a ``name``, or a text, describes.

    Raises:
        RequestError: The data describe no plug-in of this kind.
    """
    return from_data(cast("type[object]", Annotated[object, Choice(kind)]), data)


def parse(kind: str, text: str) -> object:
    """Return the plug-in configuration written ``NAME:key=value,...``.

    A value without a key belongs to the first field (``idx:/data/mnist``, ``class:3+5,count=50``), a percentage
    without a key to the field ``share`` (``random:10%``). ``FILE.py:NAME`` and ``package.module:NAME`` are a function
    of the user's own, where the kind allows it.

    Raises:
        RequestError: The name, a key or a value is wrong.
    """
    own = registry.KINDS[kind].own
    name, _, rest = (f"{own}:{text}" if own and _USERS_FUNCTION.match(text) else text).partition(":")
    plugin = registry.find(kind, name)
    what = f"{registry.KINDS[kind].singular} {plugin.name}"
    names = field_names(plugin.config)
    values = assignments(rest, names, what)
    for field in _others(plugin.config):
        more = {key: values.pop(key) for key in [*values] if key.partition(".")[0] not in names}
        values |= {field: tuple(f"{key}={value}" for key, value in more.items())} if more else {}
    return override(plugin.config, {}, values, what)


_USERS_FUNCTION = re.compile(r"([^:,()=]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)+):[A-Za-z_]\w*(,|$)")


@cache
def _others(kind: type) -> tuple[str, ...]:
    """The field that takes the options without a field, if there is one."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(name for name, hint in hints.items() if _note(hint, Others) is not None)


def read_texts(value: object) -> None:
    """Replace texts by plug-in configurations in the fields of a frozen dataclass, during its initialisation."""
    for name, choice in _choices(type(value)).items():
        given = getattr(value, name)
        if isinstance(given, str):
            object.__setattr__(value, name, parse(choice.kind, given))
        elif isinstance(given, tuple):
            parts = cast("tuple[object, ...]", given)
            read = tuple(parse(choice.kind, part) if isinstance(part, str) else part for part in parts)
            object.__setattr__(value, name, read)


@cache
def _choices(kind: type) -> dict[str, Choice]:
    """The fields of a dataclass that hold plug-in configurations: alone, optional, or in a tuple."""
    hints = get_type_hints(kind, include_extras=True)
    found = {name: [_note(each, Choice) for each in (hint, *get_args(hint))] for name, hint in hints.items()}
    return {name: choice for name, notes in found.items() for choice in notes if choice is not None}


def text(kind: str, value: object) -> str:
    """Return the text of a plug-in configuration: its name, and the fields that differ from their defaults.

    A first field without a default is written without its key, and a share as a percentage.
    """
    plugin = registry.of_config(kind, value)
    first = dataclasses.fields(plugin.config)[:1]
    leading = [field.name for field in first if _default(plugin.config, field.name) is None]
    parts: list[str] = []
    for name, part in _changed(value):
        if name in _others(plugin.config):
            parts += cast("tuple[str, ...]", part)
        elif name == "share" and isinstance(part, float) and float(f"{100 * part:.12g}") / 100 == part:
            parts.append(f"{100 * part:.12g}%")
        else:
            parts.append(written(part) if name in leading else f"{name}={written(part)}")
    return f"{plugin.name}:{','.join(parts)}" if parts else plugin.name


def _changed(value: object) -> list[tuple[str, object]]:
    """The fields of a dataclass that differ from their defaults; nested fields have dotted names."""
    found: list[tuple[str, object]] = []
    for name in field_names(type(value)):
        part, default = getattr(value, name), _default(type(value), name)
        if part == default:
            continue
        if dataclasses.is_dataclass(part) and type(part) is type(default) and not registry.kind_of(part):
            found += [(f"{name}.{key}", inner) for key, inner in _changed(part)]
        else:
            found.append((name, part))
    return found


def written(value: object) -> str:
    """Write one value in the text language."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        texts = [written(part) if isinstance(part, str) else quoted(written(part), "+,:") for part in parts]
        return f"({texts[0]})" if len(texts) == 1 and texts[0].startswith("(") else "+".join(texts)
    kind = registry.kind_of(value)
    if kind == "runs":
        return run_id(value)
    return quoted(text(kind, value), ",:") if kind else quoted(str(value), ",+()")


def field_names(kind: type) -> list[str]:
    """The names of a dataclass's fields, in order."""
    return [field.name for field in dataclasses.fields(kind)]


def override(kind: type[T], data: Mapping[str, object], values: Mapping[str, object], what: str) -> T:
    """Return the configuration that ``data`` of type ``kind`` describes, with some values changed.

    A key is a field, a dotted path (``rule.lr``), or, if the configuration has no such field itself, a field of
    its ``rule`` (``lr``).

    Raises:
        RequestError: A key is unknown, a value wrong, or both of two alternatives are given; the message begins with
            ``what``.
    """
    merged = _copied(data)
    given = {key for key, value in values.items() if not _is_none(value)}
    for one, other in _alternatives(kind):
        if {one, other} <= given:
            raise RequestError(f"{what}: {one} is given in place of {other}: leave out one of them")
        merged |= {b: _default(kind, b) for a, b in ((one, other), (other, one)) if a in given and b in merged}
    for key, value in values.items():
        _set(kind, merged, _path(kind, key, what), value, what)
    try:
        return from_data(kind, merged)
    except RequestError as error:
        raise RequestError(f"{what}: {error}") from error


@cache
def _alternatives(kind: type) -> list[tuple[str, str]]:
    """The fields of a dataclass that are given in place of another, each with that other."""
    notes = {name: _note(hint, InPlaceOf) for name, hint in get_type_hints(kind, include_extras=True).items()}
    return [(name, note.field) for name, note in notes.items() if note is not None]


def _copied(data: Mapping[str, object]) -> dict[str, object]:
    """A copy with new nested objects; runs and other values are shared."""
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
    """The default of a field, None if it has none."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _set(kind: type, data: dict[str, object], path: list[str], value: object, what: str) -> None:
    """Set a nested value; nested configurations that ``data`` lacks are added with their defaults."""
    for name in path[:-1]:
        if name not in data:
            default = _default(kind, name)
            if dataclasses.is_dataclass(default) and not isinstance(default, type):
                data[name] = to_data(default, runs=True) | ({"kind": tag(type(default))} if name == "rule" else {})
        inner = data.get(name)
        if not isinstance(inner, dict):
            raise RequestError(f"{what}: {name} has no options of its own, so there is no {'.'.join(path)}")
        data = cast("dict[str, object]", inner)
    data[path[-1]] = value


@cache
def _converter(runs: bool = False) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for plain, accepted in ((float, numbers.Real), (int, numbers.Integral), (bool, bool), (str, str)):
        converter.register_structure_hook(plain, _strict(plain, accepted))
    converter.register_structure_hook_func(_is_optional, _structure_optional)
    converter.register_structure_hook_func(_is_literal, _structure_literal)
    converter.register_structure_hook_func(lambda kind: kind == int | str, _structure_number_or_text)
    converter.register_structure_hook_func(_is_list, lambda value, kind: _structure_list(value, get_args(kind)[0]))
    converter.register_structure_hook(Path, lambda value, _: Path(opened(value) if isinstance(value, Text) else value))
    converter.register_structure_hook_func(lambda kind: _note(kind, ReadBy) is not None, _structure_read)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(_is_choice, _structure_choice)
    converter.register_unstructure_hook_factory(
        _is_choice, lambda kind: lambda value: _unstructure_choice(value, kind, runs)
    )
    converter.register_structure_hook_func(_is_union, _structure_union)
    converter.register_unstructure_hook_func(_is_union, lambda value: _unstructure_union(value, runs))
    return converter


def _strict(kind: type, accepted: type) -> Callable[[object, object], object]:
    """A hook without silent conversions: 0.5 is no int, "no" no bool, true no number; only ``Text`` is converted."""

    def structure(given: object, _: object) -> object:
        value = _of_text(given, kind) if isinstance(given, Text) else given
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {kind.__name__}, got {given!r}")
        if isinstance(value, numbers.Real) and not math.isfinite(value):
            raise TypeError(f"expected a finite number, got {value}")
        return kind(value)

    return structure


def _of_text(text: Text, kind: type) -> object:
    """Convert text to a plain type; text that cannot be converted is returned unchanged."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is str:
        return str(opened(text))
    if "_" in text or "+" in text[:1] or not text.isascii():  # int and float would read 1_000, +5 and other digits
        return text
    try:
        return float(text[:-1]) / 100 if kind is float and text.endswith("%") else kind(text)
    except ValueError:
        return text


def _is_optional(kind: object) -> bool:
    return get_origin(kind) in (Union, UnionType) and type(None) in get_args(kind) and not _is_union(kind)


def _is_none(value: object) -> bool:
    return value is None or (isinstance(value, Text) and value.lower() == "none")


def _structure_optional(value: object, kind: object) -> object:
    if _is_none(value):
        return None
    rest = tuple(each for each in get_args(kind) if each is not type(None))
    return _converter().structure(value, rest[0] if len(rest) == 1 else Union[rest])  # pyright: ignore  # noqa: UP007


def _note(kind: object, wanted: type[T]) -> T | None:
    """The annotation of class ``wanted`` on a type, if it has one."""
    notes = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((note for note in notes if isinstance(note, wanted)), None)


def _structure_read(value: object, kind: object) -> object:
    plain, reader = get_args(kind)[0], _note(kind, ReadBy)
    if reader is None or not isinstance(value, str):
        return _converter().structure(value, plain)
    read = reader.function(str(opened(value)))
    return _converter().structure(read, plain) if get_origin(plain) is tuple else read


def _is_list(kind: object) -> bool:
    """Whether a type is ``tuple[X, ...]``."""
    return get_origin(kind) is tuple and len(get_args(kind)) == 2 and get_args(kind)[1] is Ellipsis


def _structure_list(value: object, kind: type) -> tuple[object, ...]:
    return tuple(_converter().structure(part, kind) for part in _several(value))


def _several(value: object) -> list[object]:
    """The elements of a list, written ``a+b`` or ``(8,4)`` in text; a single value is a list of one."""
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


def _structure_number_or_text(value: object, _: object) -> object:
    if isinstance(value, Text):
        value = int(value) if re.fullmatch(r"0|[1-9][0-9]{0,18}", value) else str(opened(value))
    if type(value) not in (int, str):
        raise TypeError(f"expected a whole number or text, got {value!r}")
    return value


def _is_choice(kind: object) -> bool:
    return _note(kind, Choice) is not None


def _structure_choice(value: object, annotated: object) -> object:
    choice = cast("Choice", _note(annotated, Choice))
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
    choice = cast("Choice", _note(kind, Choice))
    if choice.kind != "runs":
        plugin = registry.of_config(choice.kind, value)
        return {"name": plugin.name, **_converter(runs).unstructure(value, plugin.config)}
    if runs:
        return value
    return {"run": "own"} if isinstance(value, Own) else {"run": run_id(value), "digest": run_digest(value)}


def tag(kind: type) -> str:
    """The name of a class in JSON, where a field allows several: ``per_role`` for ``PerRole``."""
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
    """Placeholder for the model to unlearn from, in a method's configuration that does not name a run yet."""


OWN = Own()
"""The one value of :class:`Own`."""

_DIGEST = "__digest__"


def run_id(wanted: object) -> str:
    """Return the name of a run's directory: its kind, a short description, and twelve digits of its digest."""
    plugin = registry.of_config("runs", wanted)
    return f"{plugin.name}-{plugin.mark.words(wanted)}-{run_digest(wanted)[:12]}"


def run_digest(wanted: object) -> str:
    """Return the digest of a run's configuration, in which its parents are represented by their digests.

    Each configuration is digested once, parents first: the cost is linear in the length of a chain.
    """
    if _DIGEST not in vars(wanted):
        for each in ordered([wanted], known=lambda run: _DIGEST in vars(run)):
            vars(each).setdefault(_DIGEST, digest_data(run_to_data(each)))
    return cast("str", vars(wanted)[_DIGEST])


def run_to_data(wanted: object) -> dict[str, object]:
    """Return the configuration of a run as JSON-ready data with its kind; its parents become references."""
    plugin = registry.of_config("runs", wanted)
    return {"kind": plugin.name, **to_data(wanted, plugin.config)}


def run_from_data(data: Mapping[str, object], known: Mapping[str, object]) -> object:
    """Return the run that ``data`` describes; ``known`` holds the runs that it refers to, by id.

    Raises:
        RequestError: The data describe no run, or a run in ``known`` has another digest than its reference.
    """
    fields = dict(data)
    plugin = registry.find("runs", str(fields.pop("kind", "")))
    return from_data(plugin.config, _replaced(fields, known))


def references(data: object) -> dict[str, str]:
    """Return the ids of the runs that JSON-ready data refer to, by digest."""
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
    """Return the id of the run that an object refers to, or None if it is no reference."""
    return str(data["run"]) if set(data) == {"run", "digest"} else None


def _replaced(data: object, known: Mapping[str, object]) -> object:
    """Replace references by runs."""
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
    """Return the runs that a run depends on, by role: those in its fields, and those that its kind computes."""
    computed = registry.of_config("runs", wanted).mark.parents
    return held(wanted) | ({} if computed is None else dict(computed(wanted)))


def ordered(wanted: Iterable[object], known: Callable[[object], bool] = lambda _: False) -> list[object]:
    """Return these runs and all their ancestors, once each, parents before children.

    The ancestors of a ``known`` run are left out.
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


def held(value: object, role: str = "") -> dict[str, object]:
    """Return the runs in a configuration, at any depth but not within other runs, by the name of their field."""
    if role and registry.is_run(value):
        return {role: value}
    parts: dict[str, object] = {}
    if isinstance(value, tuple):
        parts = {f"{role}.{number}": part for number, part in enumerate(cast("tuple[object, ...]", value))}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {name: getattr(value, name) for name in field_names(type(value))}
    return {key: run for name, part in parts.items() for key, run in held(part, name).items()}


def run_fields(kind: type) -> dict[str, str]:
    """Return the fields of a configuration that hold runs, each with the kind it must be of (empty: any)."""
    return {name: choice.only for name, choice in _choices(kind).items() if choice.kind == "runs"}


def bind(value: T, original: object) -> T:
    """Return the value with every :data:`OWN` in it replaced by the original model."""
    if isinstance(value, Own):
        return cast("T", original)
    if isinstance(value, tuple):
        return cast("T", tuple(bind(part, original) for part in cast("tuple[object, ...]", value)))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    before = {name: getattr(value, name) for name in field_names(type(value))}
    after = {name: bind(part, original) for name, part in before.items()}
    changed = {name: part for name, part in after.items() if part is not before[name]}
    return dataclasses.replace(value, **changed) if changed else value  # pyright: ignore
