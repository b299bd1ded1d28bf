"""A configuration of any plug-in: its defaults, with something for each option that must be given."""

import dataclasses
from typing import get_origin, get_type_hints

from expunge.core.registry import Plugin


def example(plugin: Plugin) -> object:
    """The configuration with its defaults; a list that must be given is of 0 and 1, anything else is ``here``."""
    hints = get_type_hints(plugin.config)
    required = [
        field.name
        for field in dataclasses.fields(plugin.config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return plugin.config(**{name: (0, 1) if get_origin(hints[name]) is tuple else "here" for name in required})
