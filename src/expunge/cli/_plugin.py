"""Options of a plug-in on the command line: what the command itself does not know.

``scrub --epochs 5 --forget.lr 0.1 --linear`` is the text ``scrub:epochs=5,forget.lr=0.1,linear=true``.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from rich.markup import escape
from rich.table import Table

from expunge.cli import _console
from expunge.core import config
from expunge.core.errors import RequestError
from expunge.core.text import Text

T = TypeVar("T")


def parse(kind: type[T], command: str, help_text: str, arguments: Sequence[str]) -> tuple[T, list[str]]:
    """The options of a command, and the arguments that are not among them."""
    return tyro.cli(kind, prog=f"expunge {command}", description=help_text, args=arguments, return_unknown_args=True)


def named(words: Sequence[str], known: Iterable[str], what: str) -> tuple[str, dict[str, object]]:
    """The name of the plug-in, which may stand anywhere, and its options by name, as :class:`Text`.

    Several values of an option are a list, and an option without a value is true, or false where it begins with
    ``no-``.

    Raises:
        RequestError: There is no name, a word belongs to no option, or an option is given twice.
    """
    names = {each.replace("-", "_") for each in known}
    at = next((place for place, word in enumerate(words) if word.replace("-", "_") in names), None)
    if words and not words[0].startswith("--"):
        at = 0
    if at is None:
        raise RequestError(f"name a {what}: `--help` lists them")
    options: dict[str, object] = {}
    key = ""
    for word in (*words[:at], *words[at + 1 :]):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            key = name.replace("-", "_")
            if key in options:
                raise RequestError(f"--{name} is given twice")
            options[key] = Text(value)
        elif not key:
            raise RequestError(f"{word!r} belongs to no option: write --NAME {word}")
        else:
            options[key] = Text("+".join(filter(None, (str(options[key]), word))))
    given = {key: value for key, value in options.items() if value}
    switches = options.keys() - given.keys()
    given |= {key: Text("true") for key in switches if not key.startswith("no_")}
    return words[at], given | {key[3:]: Text("false") for key in switches if key.startswith("no_")}


def print_options(title: str, summary: str, groups: Mapping[str, tuple[str, object]]) -> None:
    """Print the options of a plug-in: for each group its title, the prefix of its options, and their defaults."""
    console = _console.out()
    console.print(f"usage: {escape(title)}\n", highlight=False)
    console.print(escape(summary), highlight=False)
    for group, (prefix, default) in groups.items():
        kind: type[Any] = type(default)
        table = Table.grid(padding=(0, 2))
        table.add_column(max_width=34, overflow="fold")
        table.add_column()
        texts, hints = documented(kind), get_type_hints(kind)
        for field in fields(kind):
            value = getattr(default, field.name)
            if is_dataclass(value) and not isinstance(value, type) and field.name == "rule":
                continue
            option = f"--{prefix}{field.name}".replace("_", "-")
            shown = f"{texts.get(field.name, '')} (default: {config.written(value)})"
            table.add_row(escape(f"{option} {_metavar(hints[field.name])}"), escape(shown))
        if table.row_count:
            console.print(f"\n{escape(group)}:", highlight=False)
            console.print(table)


def documented(kind: type[Any]) -> dict[str, str]:
    """The string that stands below each field of a dataclass, by name, on one line."""
    found: dict[str, str] = {}
    for each in [base for base in kind.__mro__[::-1] if is_dataclass(base) and fields(base)]:
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, text in pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = re.sub(r"\s+", " ", str(getattr(text.value, "value", ""))).replace("``", "")
    return found


def _metavar(hint: object) -> str:
    """The form of a value, for help."""
    several = [each for each in get_args(hint) if each is not type(None)]
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if get_origin(hint) is tuple:
        return f"{_metavar(several[0])}..."
    if type(None) in get_args(hint):
        return _metavar(several[0])
    plain = {bool: "[true|false]", int: "INT", float: "FLOAT", str: "TEXT"}
    return plain.get(hint, "VALUE") if isinstance(hint, type) else "VALUE"
