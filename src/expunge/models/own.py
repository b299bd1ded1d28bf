"""A network that a function of the user's own builds."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast, get_type_hints

from torch import nn

from expunge.core import config as configurations
from expunge.core import own_code, registry
from expunge.core.config import Others
from expunge.core.errors import RequestError
from expunge.core.registry import architecture
from expunge.core.text import Text
from expunge.models import _foreign
from expunge.models._check import Shape

_GIVEN = ("shape", "num_classes")


@dataclass(frozen=True)
class OwnConfig:
    """A function, known by the digest of its source."""

    builder: str
    """The function: FILE.py:NAME or package.module:NAME."""
    sha256: str = ""
    """SHA-256 of its source file; by default that of the file as it is now."""
    options: Annotated[tuple[str, ...], Others()] = ()
    """Further arguments of the function: key=value."""

    def __post_init__(self) -> None:
        """Read the source, without executing it."""
        if not self.sha256:
            object.__setattr__(self, "sha256", own_code.digest(self.builder))


@architecture()
def build(config: OwnConfig, shape: Shape, num_classes: int) -> nn.Module:
    """Your own nn.Module: FILE.py:NAME or package.module:NAME, a function of (num_classes) or (shape, num_classes).

    Further parameters are options (``own.py:build,width=8``), whose types are those of their annotations. Anything
    callable that returns a module is a function here, so the class of the module is one too.

    Raises:
        RequestError: The source is not trusted or has changed, an option is unknown or missing, or the module does not
            turn images of this shape into logits.
    """
    with own_code.loaded(config.builder, config.sha256) as function:
        arguments = _arguments(config, function) | _known(function, shape, num_classes)
        make = functools.partial(function, **arguments)
        return _foreign.checked(make, shape, num_classes, config.builder)


def _known(function: Callable[..., object], shape: Shape, num_classes: int) -> dict[str, object]:
    taken = inspect.signature(function).parameters
    return {name: value for name, value in (("shape", shape), ("num_classes", num_classes)) if name in taken}


def _arguments(config: OwnConfig, function: Callable[..., object]) -> dict[str, object]:
    """The options in the types of the function's parameters."""
    parameters = {
        name: each
        for name, each in inspect.signature(function).parameters.items()
        if name not in _GIVEN and each.kind is not inspect.Parameter.VAR_POSITIONAL
    }
    any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    found: dict[str, object] = {}
    for option in config.options:
        name, _, text = option.partition("=")
        if name not in parameters and not any_name:
            raise RequestError(f"{config.builder}: {registry.unknown('option', name, parameters)}")
        try:
            found[name] = (
                configurations.from_data(cast("type[object]", hints[name]), Text(text))
                if name in hints
                else _foreign.value(text)
            )
        except RequestError as error:
            raise RequestError(f"{config.builder}: {name}: {error}") from error
    for name, each in parameters.items():
        required = each.default is inspect.Parameter.empty and each.kind is not inspect.Parameter.VAR_KEYWORD
        if required and name not in found:
            raise RequestError(f"{config.builder} needs {name}: write {config.builder},{name}=...")
    return found
