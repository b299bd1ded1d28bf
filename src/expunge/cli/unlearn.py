"""Make a trained model forget examples, by any method, and print the folder of the new run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

import tyro

from expunge.cli import _console
from expunge.core import config, registry
from expunge.methods.retrain import RetrainConfig
from expunge.runs.unlearn import UnlearnConfig, retraining
from expunge.store import execute
from expunge.store.directory import Store
from expunge.training.stepper import Precision
from expunge.unlearning import presets
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.presets import PRESETS
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.update_masks import UpdateMask


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge unlearn`."""

    run: _console.RunPath
    """The run whose model is to forget: of `expunge train`, `prune`, `import`, or `unlearn`."""
    forget: str
    """What to forget: random:4500, random:10%, class:3, class:3+5,count=50, ids:FILE (one id a line),
    poisoned; see `expunge list forget-sets`."""
    forget_seed: int = 0
    """Seed of the choice of a random forget set."""
    withhold: str | None = None
    """Examples that this step neither forgets nor retains, such as those to be forgotten later; written likewise."""
    seed: int = 0
    """Seed of the unlearning: batches, augmentation, random labels."""
    precision: Precision = "auto"
    """bfloat16 or float32 for the forward passes; auto takes bfloat16 where it pays."""


def run(arguments: Sequence[str]) -> int:
    """Unlearn, or find the run that exists already."""
    given = _with_names([word for argument in arguments for word in _words(argument)])
    words = [word for word in given if word != NO_MASK]
    parsed = _console.parse(_arguments(given), "unlearn", __doc__, words)
    choice: _Choice = parsed.choice  # pyright: ignore
    store, original = _console.open_original(parsed.run)
    method = _with_runs(choice.method, store)
    presets.check_roles(method, _options(given))
    chosen = Unlearning(method, choice.update_mask, choice.adapters)
    wanted = UnlearnConfig(
        original,
        config.parse("forget_sets", parsed.forget),
        chosen,
        parsed.forget_seed,
        parsed.precision,
        parsed.seed,
        None if parsed.withhold is None else config.parse("forget_sets", parsed.withhold),
    )
    with _console.session(parsed) as session:
        directory = execute.run(wanted, store, session)
    _console.report_run(directory, parsed, "evaluate: expunge evaluate --run RUN --reference RETRAINED")
    return 0


NO_MASK = "--no-update-mask"


@dataclass(frozen=True)
class _Choice:
    """One method or preset; the fields of ``method`` stand without a prefix on the command line."""

    method: object
    update_mask: UpdateMask | None = None
    adapters: LowRank | None = None


def _words(argument: str) -> list[str]:
    """``--run=RUN`` as two words: its value is needed before all options are parsed."""
    name, equals, value = argument.partition("=")
    return [name, value] if equals and name == "--run" else [argument]


def _with_names(arguments: list[str]) -> list[str]:
    """The same arguments with the method by its canonical name, which is said when it was an alias."""
    after_option = False
    for position, word in enumerate(arguments):
        if word.startswith("-"):
            after_option = "=" not in word and word not in ("--json", "--quiet", "--retry", "-h", "--help")
        elif after_option:
            after_option = False
        else:
            name = presets.canonical(word)
            if name not in (word, word.replace("-", "_")):
                _console.say(f"{word} is called {name} here")
            return [*arguments[:position], name.replace("_", "-"), *arguments[position + 1 :]]
    return arguments


def _arguments(given: list[str]) -> type[Arguments]:
    """The options with one subcommand per method and preset.

    ``--no-update-mask`` leaves out the update mask that a method has by its name.

    ``--forget.`` and ``--retain.`` among the arguments give each role a rule of its own, ``--update-mask.`` gives
    a method an update mask and ``--adapters.`` low-rank adapters.
    """
    names = [*registry.plugins("methods"), *(name for name in PRESETS if name not in registry.plugins("methods"))]
    choices = tuple(_subcommand(name, given) for name in names)
    field = ("choice", Annotated[Union[choices], tyro.conf.arg(name="")])  # noqa: UP007 - built at run time
    return dataclasses.make_dataclass("Arguments", [field], bases=(Arguments,), frozen=True, kw_only=True)


def _subcommand(name: str, given: list[str]) -> object:
    default = presets.named(name)
    method = _as_original(default.method, given)
    method = presets.with_roles(method, _options(given))
    mask = default.update_mask or (UpdateMask() if _mentions(given, "--update-mask.") else None)
    if mask is not None and _mentions(given, "--update-mask.fraction"):
        mask = dataclasses.replace(mask, threshold=None)
    if mask is not None and _mentions(given, "--update-mask.threshold"):
        mask = dataclasses.replace(mask, fraction=None)
    if _mentions(given, NO_MASK):
        mask = None
    adapters = default.adapters or (LowRank() if _mentions(given, "--adapters.") else None)
    summary = registry.of_config("methods", method).summary
    if default.update_mask is not None and name not in registry.plugins("methods"):
        summary = f"{registry.of_config('methods', method).name} with an update mask: {summary}"
    values = {key: value for key, value in (("update_mask", mask), ("adapters", adapters)) if value is not None}
    method = _with_folders(method)
    fields: list[tuple[str, object]] = [("method", Annotated[type(method), tyro.conf.arg(name="")])]
    fields += [(key, type(value)) for key, value in values.items()]
    shape = dataclasses.make_dataclass(f"Choice_{name}", fields, bases=(_Choice,), frozen=True)  # pyright: ignore
    default_choice = shape(method, **values)
    return Annotated[shape, tyro.conf.subcommand(name.replace("_", "-"), default=default_choice, description=summary)]


def _with_folders(method: object) -> object:
    """The same options, where the folder of a run is asked for in place of a run itself."""
    names = config.run_fields(type(method))
    if not names:
        return method
    folder = Annotated[Path | None, tyro.conf.arg(metavar="RUN")]
    fields: list[tuple[str, object, object]] = [(name, folder, None) for name in names]
    shape = dataclasses.make_dataclass(type(method).__name__, fields, bases=(type(method),), frozen=True)
    return shape(**{field.name: getattr(method, field.name) for field in dataclasses.fields(shape)})


def _with_runs(method: object, store: Store) -> object:
    """The options of the method itself, with the runs whose folders were given, or their names in this store."""
    plugin = next(each for each in registry.plugins("methods").values() if isinstance(method, each.config))
    names = config.run_fields(plugin.config)
    if not names:
        return method
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(plugin.config)}
    folders = {name: values[name] for name in names if values[name] is not None}
    found = {name: folder if folder.exists() else store.root / folder for name, folder in folders.items()}
    runs = {name: _console.open_run(folder, (object,), "precompute")[1] for name, folder in found.items()}
    return config.override(plugin.config, {}, values | runs, plugin.name)


def _options(given: list[str]) -> list[str]:
    """The names of the options among the arguments, without their values."""
    return [word.removeprefix("--").partition("=")[0] for word in given if word.startswith("--")]


def _mentions(given: list[str], *prefixes: str) -> bool:
    return any(word.startswith(prefixes) for word in given)


def _as_original(method: object, given: list[str]) -> object:
    """Retraining repeats the training of the original model unless told otherwise."""
    if isinstance(method, RetrainConfig) and "--run" in given[:-1]:
        _, original = _console.open_original(Path(given[given.index("--run") + 1]))
        return retraining(original.training).method
    return method
