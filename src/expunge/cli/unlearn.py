"""Make a trained model forget examples, by any method, and print the folder of the new run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

import tyro

from expunge import pipeline, registry, unlearning
from expunge.cli import _console
from expunge.data.forgetting import parse_forget
from expunge.methods.retrain import RetrainConfig
from expunge.pipeline import UnlearnConfig
from expunge.saliency import Saliency
from expunge.unlearning import Unlearning
from expunge.updates import Precision


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge unlearn`."""

    run: _console.RunPath
    """The run of `expunge train` whose model is to forget."""
    forget: str
    """What to forget: random:4500, random:10%, class:3, class:3,5 or ids:FILE (one id a line)."""
    forget_seed: int = 0
    """Seed of the choice of a random forget set."""
    seed: int = 0
    """Seed of the unlearning: batches, augmentation, random labels."""
    precision: Precision = "auto"
    """bfloat16 or float32 for the forward passes; auto takes bfloat16 where it pays."""


def run(arguments: Sequence[str]) -> int:
    """Unlearn, or find the run that exists already."""
    given = _with_names(list(arguments))
    parsed = _console.parse(_arguments(given), "unlearn", __doc__, given)
    choice: _Choice = parsed.choice  # pyright: ignore
    store, original = _console.open_original(parsed.run)
    chosen = Unlearning(choice.method, choice.update_mask)
    wanted = UnlearnConfig(
        original, parse_forget(parsed.forget), chosen, parsed.forget_seed, parsed.precision, parsed.seed
    )
    with _console.session(parsed) as session:
        directory = pipeline.run(wanted, store, session)
    _console.report_run(directory, parsed, "evaluate: expunge evaluate --run RUN --reference RETRAINED")
    return 0


@dataclass(frozen=True)
class _Choice:
    """One method or preset; the fields of ``method`` stand without a prefix on the command line."""

    method: object
    update_mask: Saliency | None = None


def _with_names(arguments: list[str]) -> list[str]:
    """The same arguments with the method by its canonical name, which is said when it was an alias."""
    after_option = False
    for position, word in enumerate(arguments):
        if word.startswith("-"):
            after_option = "=" not in word and word not in ("--json", "--quiet", "--retry", "-h", "--help")
        elif after_option:
            after_option = False
        else:
            name = unlearning.canonical(word)
            if name not in (word, word.replace("-", "_")):
                _console.say(f"{word} is called {name} here")
            return [*arguments[:position], name.replace("_", "-"), *arguments[position + 1 :]]
    return arguments


def _arguments(given: list[str]) -> type[Arguments]:
    """The options with one subcommand per method and preset.

    ``--forget.`` and ``--retain.`` among the arguments give each role a rule of its own, and
    ``--update-mask.`` gives a method an update mask.
    """
    roles = any(word.startswith(("--forget.", "--retain.")) for word in given)
    masked = any(word.startswith("--update-mask.") for word in given)
    names = [*registry.plugins("methods"), *unlearning.PRESETS]
    choices = tuple(_subcommand(name, given, roles, masked) for name in names)
    field = ("choice", Annotated[Union[choices], tyro.conf.arg(name="")])  # noqa: UP007 - built at run time
    return dataclasses.make_dataclass("Arguments", [field], bases=(Arguments,), frozen=True, kw_only=True)


def _subcommand(name: str, given: list[str], roles: bool, masked: bool) -> object:
    default = unlearning.named(name)
    method = _as_original(default.method, given)
    if roles:
        method = unlearning.per_role(method)
    mask = Saliency() if masked and default.update_mask is None else default.update_mask
    summary = registry.of_config("methods", method).summary
    if name in unlearning.PRESETS:
        summary = f"{registry.of_config('methods', method).name} with an update mask: {summary}"
    fields: list[tuple[str, object]] = [("method", Annotated[type(method), tyro.conf.arg(name="")])]
    if mask is not None:
        fields.append(("update_mask", Saliency))
    shape = dataclasses.make_dataclass(f"Choice_{name}", fields, bases=(_Choice,), frozen=True)  # pyright: ignore
    value = shape(method) if mask is None else shape(method, mask)
    return Annotated[shape, tyro.conf.subcommand(name.replace("_", "-"), default=value, description=summary)]


def _as_original(method: object, given: list[str]) -> object:
    """Retraining repeats the training of the original model unless told otherwise."""
    if isinstance(method, RetrainConfig) and "--run" in given[:-1]:
        _, original = _console.open_original(Path(given[given.index("--run") + 1]))
        plan = original.training
        return RetrainConfig(plan.epochs, plan.batch_size, plan.rule)
    return method
