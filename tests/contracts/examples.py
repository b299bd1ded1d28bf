"""A configuration of any plug-in: its defaults, with something for each option that must be given."""

import dataclasses
from typing import Annotated, get_args, get_origin, get_type_hints

from expunge.core import registry
from expunge.core.config import Choice
from expunge.core.registry import Plugin


def example(plugin: Plugin) -> object:
    """The configuration with its defaults; for what must be given, a value of its type."""
    hints = get_type_hints(plugin.config, include_extras=True)
    required = [
        field.name
        for field in dataclasses.fields(plugin.config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return plugin.config(**{name: value(hints[name]) for name in required})


def value(hint: object) -> object:
    """Two plug-ins with defaults where a list of them is wanted, 0 and 1 for a list of numbers, or a function."""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(plain) is not tuple:
        return "tests.problems:architecture"
    notes = [note for note in getattr(get_args(plain)[0], "__metadata__", ()) if isinstance(note, Choice)]
    if not notes:
        return 0, 1
    defaults = [each for each in registry.plugins(notes[0].kind).values() if not _required(each)]
    return tuple(each.config() for each in defaults[:2])


def _required(plugin: Plugin) -> bool:
    fields = dataclasses.fields(plugin.config)
    return any(each.default is each.default_factory is dataclasses.MISSING for each in fields)
