"""What the commands share: parsing by dataclass, progress bars, tables, JSON."""

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar, cast

import torch
import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from expunge.core import checks, config, own_code, registry
from expunge.core.errors import RequestError
from expunge.data.id_lists import read_ids
from expunge.data.poisoning import Poison
from expunge.data.split_data import DataConfig, Split
from expunge.models.own import OwnConfig
from expunge.runs.unlearn import UnlearnConfig
from expunge.store.directory import RunDirectory, Store
from expunge.store.execute import Session
from expunge.store.run import GivesModel, open_config
from expunge.training import stepper
from expunge.unlearning import strength

T = TypeVar("T")

RunPath = Annotated[Path, tyro.conf.arg(metavar="RUN")]
Folder = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
RUNS = Path("runs")
LINE_EVERY = 15.0
"""Seconds between two lines of progress where there is no terminal."""


@dataclass(frozen=True)
class Common:
    """Options of every command that works."""

    device: str = "auto"
    """Where to compute: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress bars."""
    retry: bool = False
    """Try runs again that failed before."""
    trust: bool = False
    """Execute the file of your own code that builds the model (--model own.py:build), and remember that it may be."""


@dataclass(frozen=True, kw_only=True)
class ModelOfImages(Common):
    """Options of commands that begin with images and an architecture."""

    data: str
    """The images it was trained on: a name or NAME:PATH, see `expunge list data`."""
    model: str
    """Its architecture, see `expunge list models`; options follow a colon: resnet18:width=64."""
    limit: int | None = None
    """Use a class-balanced part of this many training images."""
    test_limit: int | None = None
    """Use a class-balanced part of this many test images."""
    validation: float = 0.1
    """Share of each class that is set aside for validation."""
    split: Split | None = None
    """How validation images are chosen: ours, or released, as the original repositories do; ours by default."""
    split_seed: int | None = None
    """Seed of the split and of the limits; by default 0, and 1 for the released split."""
    validation_ids: str | None = None
    """The validation images by their ids, in place of a split: FILE (one id a line, JSON or npy) or 3+17."""

    def images(self, poison: Poison | None = None, split: Split = "ours") -> DataConfig:
        """The images and how they are split, by default so, with a backdoor if there is one."""
        source = config.parse("data", self.data)
        listed = None if self.validation_ids is None else tuple(read_ids(self.validation_ids))
        return DataConfig(
            source,
            self.limit,
            self.test_limit,
            self.validation,
            self.split_seed,
            poison,
            self.split or split,
            listed,
        )


def parse(kind: type[T], command: str, help_text: str | None, arguments: Sequence[str]) -> T:
    """The options of a command, from its arguments; exits with status 2 and a message if they are wrong."""
    if {"--epochs", "--steps"} <= {word.partition("=")[0] for word in arguments}:
        raise RequestError("--steps is given in place of --epochs: leave out one of them")
    return tyro.cli(
        kind,
        prog=f"expunge {command}",
        description=help_text,
        args=list(arguments),
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.AvoidSubcommands),
    )


def device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU if there is one.

    Raises:
        RequestError: There is no such device here.
    """
    return checks.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def out() -> Console:
    """Where results go."""
    return Console(soft_wrap=False)


def say(text: str) -> None:
    """Print a message on the error stream, so that results can be piped."""
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def print_json(value: object) -> None:
    """Print the result as JSON."""
    print(json.dumps(value, indent=1, default=str))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for position, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if position == 0 else "right", no_wrap=position == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    out().print(table)


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Progress bars with the time left, on the error stream; where it is not a terminal, a line every 15 seconds."""
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
        transient=True,
    ) as bars:
        ended = threading.Event()
        if not (quiet or console.is_terminal):
            threading.Thread(target=_lines, args=(bars, ended), daemon=True).start()
        try:
            yield bars
        finally:
            ended.set()


def _lines(bars: Progress, ended: threading.Event) -> None:
    """Print how far every task is, again and again until the end."""
    while not ended.wait(LINE_EVERY):
        for task in bars.tasks:
            if not task.finished:
                left = "" if task.time_remaining is None else f", about {task.time_remaining:.0f} s left"
                say(f"{task.description}: {task.completed:.0f} of {task.total or 0:.0f}{left}")


def allow(models: Iterable[object], options: Common) -> None:
    """Have the user allow the execution of the code that builds these models, once for each source file.

    Raises:
        RequestError: It is not allowed.
    """
    for model in models:
        if not isinstance(model, OwnConfig) or own_code.trusted(model.sha256):
            continue
        if not options.trust:
            asked = f"{model.builder} (SHA-256 {model.sha256[:12]}) is a program that building the model executes"
            if not (sys.stdin.isatty() and sys.stderr.isatty() and _agreed(asked)):
                raise RequestError(f"{asked}: read it, then add --trust, which remembers that it may be executed")
        own_code.trust(model.sha256, model.builder)


def _agreed(asked: str) -> bool:
    say(escape(f"{asked}. Execute it, now and later? [y/N]"))
    return input().strip().lower() in ("y", "yes")


@contextmanager
def session(
    options: Common, wanted: Iterable[object], memory: float = 0.25, files: Mapping[str, Path] | None = None
) -> Iterator[Session]:
    """Return a session with progress bars for these runs and those that they depend on.

    ``memory`` in gigabytes limits work that can be done in pieces.
    """
    allow((getattr(run, "model", None) for run in config.ordered(wanted)), options)
    with progress(options.quiet or options.json) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, state: stepper.Progress) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name.rpartition("-")[0], total=state.steps)
            bars.update(tasks[name], completed=state.step)

        yield Session(device(options.device), report, options.retry, memory, files or {})


def open_run(path: Path, kinds: tuple[type[T], ...], what: str) -> tuple[Store, T]:
    """The store and the configuration of a finished run of some kind, whose files are compared with their digests.

    Raises:
        RequestError: There is no such run, it failed, it is of another kind, or one of its files is damaged.
    """
    directory = RunDirectory(path.resolve())
    if not directory.exists:
        raise RequestError(f"{path} is no run: give the folder that `expunge {what}` printed")
    record = directory.record()
    if record["status"] != "finished":
        raise RequestError(f"{path} is a failed run: {record['reason']}")
    directory.verify()
    wanted = open_config(directory)
    if not isinstance(wanted, kinds):
        raise RequestError(f"{path} is a run of the kind {record['kind']}; this needs one of `expunge {what}`")
    return Store(directory.path.parent), wanted


def open_original(path: Path) -> tuple[Store, GivesModel]:
    """The store and the configuration of a run that gives a model."""
    kinds = tuple(plugin.config for plugin in registry.plugins("runs").values() if plugin.mark.model)
    store, wanted = open_run(path, kinds, "train")
    return store, cast("GivesModel", wanted)


def open_unlearned(path: Path) -> tuple[Store, UnlearnConfig]:
    """The store and the configuration of an unlearned model."""
    return open_run(path, (UnlearnConfig,), "unlearn")


def store(folder: Path) -> Store:
    """The store of that folder, for paths that are printed whole."""
    return Store(folder.resolve())


def say_strength(name: str, directory: RunDirectory) -> None:
    """Warn if an unlearning did nothing, or hardly anything, with the option that makes it stronger."""
    notes = directory.record().get("notes")
    said = strength.sentence(name, cast("dict[str, object]", notes)) if isinstance(notes, dict) else ""
    if said:
        say(f"warning: {said}")


def report_run(directory: RunDirectory, options: Common, next_step: str) -> None:
    """Print the path of a run, or its record; and suggest a next step."""
    if options.json:
        print_json({"run": str(directory.path), **directory.record()})
        return
    print(directory.path)
    if not options.quiet:
        notes = cast("Mapping[str, object]", directory.record().get("notes", {}))
        for note in cast("list[str]", notes.get("images", [])):
            say(note)
        say(f"next, {next_step}")


def print_list(rows: Sequence[Mapping[str, object]]) -> None:
    """Print plug-ins: the name, the summary, the options with their defaults."""
    for row in rows:
        aliases = ", ".join(cast("list[str]", row.get("aliases", [])))
        also = f" (also {aliases})" if aliases else ""
        out().print(f"[bold]{row['name']}[/bold]{escape(also)}  {escape(str(row['summary']))}", soft_wrap=True)
        options = cast("dict[str, object]", row.get("options", {}))
        if options:
            text = ", ".join(f"{name}={value}" for name, value in options.items())
            out().print(f"    {escape(text)}", style="dim", soft_wrap=True)
        if row.get("reference"):
            out().print(f"    {escape(str(row['reference']))}", style="dim", soft_wrap=True)
        for measure in cast("list[Mapping[str, object]]", row.get("measures", [])):
            out().print(f"    {escape(_described(measure))}", style="dim", soft_wrap=True)


def _described(measure: Mapping[str, object]) -> str:
    """The name of a value of a metric, its title, unit and direction in one line."""
    unit = f" ({measure['unit']})" if measure["unit"] else ""
    better = {"higher": ", higher is better", "lower": ", lower is better", "reference": ", best as retrained"}
    return f"{measure['name']}: {measure['title']}{unit}{better.get(str(measure['better']), '')}"
