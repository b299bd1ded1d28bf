"""Configurations: frozen dataclasses <-> JSON, their digest, and the short text form of a plug-in.

A field annotated ``Annotated[object, Choice("methods")]`` holds the configuration of any plug-in of
that kind. In JSON it is an object with the plug-in's ``name`` beside its fields; on the command line
it is text such as ``resnet18:width=16`` (:func:`parse`).
"""

import ast
import copy
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

T = TypeVar("T")

FORMAT = 1
"""Part of every digest: raised when the meaning of stored configurations changes."""


@dataclass(frozen=True)
class Choice:
    """Annotation of a field that holds the configuration of some plug-in of this kind."""

    kind: str


@dataclass(frozen=True)
class Later:
    """Annotation of a field whose type is defined further down: a configuration that holds others of its kind."""

    resolve: Callable[[], object]


def to_data(value: object, declared: object = None) -> dict[str, object]:
    """A configuration as JSON-ready data (see the module for plug-ins and tagged unions)."""
    return cast("dict[str, object]", _converter().unstructure(value, declared or type(value)))


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


def parse(kind: str, text: str) -> object:
    """The plug-in configuration written ``NAME[:VALUE][:]key=value,...``.

    A part without ``=`` is the value of the first field: ``idx:/data/mnist``, ``resnet18:width=16``,
    ``npz:/data/own.npz,mean=0.5``.

    Raises:
        RequestError: The name, a key or a value is wrong.
    """
    name, _, rest = text.partition(":")
    plugin = registry.find(kind, name)
    return options(plugin.config, rest, what=f"{registry.KINDS[kind].singular} {plugin.name}")


def text(kind: str, value: object) -> str:
    """The short text form of a plug-in configuration: its name, and the fields that differ from their defaults."""
    plugin = registry.of_config(kind, value)
    fields = dataclasses.fields(plugin.config)
    changed = [
        f"{field.name}={getattr(value, field.name)}"
        for field in fields
        if getattr(value, field.name) != _default(plugin.config, field.name)
    ]
    return f"{plugin.name}:{','.join(changed)}" if changed else plugin.name


def options(kind: type[T], text: str, what: str) -> T:
    """A dataclass from ``value,key=value,...``; the first part may leave out its key."""
    return override(kind, {}, assignments(text, next(iter(field_names(kind)), ""), what), what)


def assignments(text: str, first: str, what: str) -> dict[str, object]:
    """The values in ``value,key=value,...`` by key; a first part without ``=`` has the key ``first``."""
    values: dict[str, object] = {}
    for position, part in enumerate(filter(None, _commas(text))):
        key, equals, raw = part.partition("=")
        if not equals:
            if position or not first:
                raise RequestError(f"{what}: {part!r} should be key=value")
            key, raw = first, part
        values[key.strip().replace("-", "_")] = _literal(raw.strip())
    return values


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
    merged = copy.deepcopy(dict(data))
    for key, value in values.items():
        path = _path(kind, key, what)
        _set(kind, merged, path, value, what)
    try:
        return from_data(kind, merged)
    except RequestError as error:
        raise RequestError(f"{what}: {error}") from error


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
                data[name] = to_data(default) | ({"kind": tag(type(default))} if name == "rule" else {})
        inner = data.get(name)
        if not isinstance(inner, dict):
            raise RequestError(f"{what}: {name} has no options of its own, so {'.'.join(path)} means nothing")
        data = cast("dict[str, object]", inner)
    data[path[-1]] = value


def _commas(text: str) -> list[str]:
    """Split at the commas that are outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _literal(raw: str) -> object:
    if raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    if raw.lower() == "none":
        return None
    try:
        return ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        return raw


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for plain, accepted in (
        (float, (numbers.Real,)),
        (int, (numbers.Integral,)),
        (bool, (bool,)),
        (str, (str,)),
    ):
        converter.register_structure_hook(plain, _strict(plain, accepted))
    converter.register_structure_hook_func(_is_literal, _structure_literal)
    converter.register_structure_hook_func(_is_list, lambda value, kind: _structure_list(value, get_args(kind)[0]))
    converter.register_structure_hook(Path, lambda value, _: Path(str(value)))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(_is_choice, lambda value, kind: _structure_choice(value, _kind(kind)))
    converter.register_unstructure_hook_factory(_is_choice, lambda kind: lambda value: _unstructure_choice(value, kind))
    converter.register_structure_hook_func(_is_later, lambda value, kind: converter.structure(value, _later(kind)))  # pyright: ignore
    converter.register_unstructure_hook_factory(
        _is_later, lambda kind: lambda value: converter.unstructure(value, _later(kind))
    )
    converter.register_structure_hook_func(_is_union, _structure_union)
    converter.register_unstructure_hook_func(_is_union, _unstructure_union)
    return converter


def _strict(kind: type, accepted: tuple[type, ...]) -> Callable[[object, object], object]:
    """No silent conversion: 0.5 is no int, "no" is no bool, true is no number."""

    def structure(value: object, _: object) -> object:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {kind.__name__}, got {value!r}")
        if isinstance(value, numbers.Real) and not math.isfinite(value):
            raise TypeError(f"expected a finite number, got {value}")
        return kind(value)

    return structure


def _is_list(kind: object) -> bool:
    """Whether this is a tuple of any length of one type."""
    return get_origin(kind) is tuple and len(get_args(kind)) == 2 and get_args(kind)[1] is Ellipsis


def _structure_list(value: object, kind: type) -> tuple[object, ...]:
    return tuple(_converter().structure(part, kind) for part in _several(value, kind))


def _several(value: object, kind: object) -> list[object]:
    """The parts of a list; one value alone is a list of one, and text may join several by +: ``a+b``, ``3+17``."""
    if isinstance(value, str):
        return [int(part) if kind is int and part.isdecimal() else part for part in value.split("+")]
    if isinstance(value, Iterable):
        return list(cast("Iterable[object]", value))
    return [value]


def _is_literal(kind: object) -> bool:
    return get_origin(kind) is Literal


def _structure_literal(value: object, kind: object) -> object:
    if value not in get_args(kind):
        raise TypeError(f"expected one of {', '.join(map(str, get_args(kind)))}, got {value!r}")
    return value


def _is_choice(kind: object) -> bool:
    return get_origin(kind) is Annotated and any(isinstance(note, Choice) for note in get_args(kind)[1:])


def _is_later(kind: object) -> bool:
    return get_origin(kind) is Annotated and any(isinstance(note, Later) for note in get_args(kind)[1:])


def _later(kind: object) -> object:
    return next(note for note in get_args(kind)[1:] if isinstance(note, Later)).resolve()


def _kind(kind: object) -> str:
    return next(note.kind for note in get_args(kind)[1:] if isinstance(note, Choice))


def _structure_choice(value: object, kind: str) -> object:
    if isinstance(value, str):
        return parse(kind, value)
    if not isinstance(value, Mapping) or "name" not in value:
        raise TypeError(f"expected an object with the name of a {registry.KINDS[kind].singular}, got {value!r}")
    data = dict(cast("Mapping[str, object]", value))
    plugin = registry.find(kind, str(data.pop("name")))
    return _converter().structure(data, plugin.config)


def _unstructure_choice(value: object, kind: object) -> object:
    plugin = registry.of_config(_kind(kind), value)
    return {"name": plugin.name, **_converter().unstructure(value, plugin.config)}


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


def _unstructure_union(value: object) -> object:
    if value is None:
        return None
    return {"kind": tag(type(value)), **_converter().unstructure(value, type(value))}
