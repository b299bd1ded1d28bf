"""Make a trained model sparse, train it on under its mask, and print the folder of the new run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Union

import tyro

from expunge.cli import _console
from expunge.core import registry
from expunge.runs.prune import PruneConfig
from expunge.store import execute
from expunge.store.run import GivesModel
from expunge.training.fit import Training
from expunge.training.stepper import Precision


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge prune`."""

    run: _console.RunPath
    """The run whose model is to be pruned: of `expunge train`, `prune`, `import` or `unlearn`."""
    rewind: int | None = None
    """Give the weights that are left their values after this epoch of the original training (0: before it), and train
    on from there; by default they keep their trained values, and training begins anew."""
    epochs: int | None = None
    """Epochs of training under the mask; by default as many as the original's."""
    lr: float | None = None
    """Learning rate of training under the mask; by default the original's."""
    seed: int = 0
    """Seed of the order of examples and the augmentation, and of random pruning."""
    precision: Precision = "auto"
    """bfloat16 or float32 for the forward passes; auto takes bfloat16 where it pays."""


def run(arguments: Sequence[str]) -> int:
    """Prune, round by round, or find the run that exists already."""
    parsed = _console.parse(_arguments(), "prune", __doc__, arguments)
    store, original = _console.open_original(parsed.run)
    pruner: object = parsed.pruner  # pyright: ignore
    retraining = _retraining(original, parsed)
    wanted = PruneConfig(original, pruner, parsed.rewind, retraining, parsed.precision, parsed.seed)
    with _console.session(parsed) as session:
        directory = execute.run(wanted, store, session)
    _console.report_run(directory, parsed, "unlearn: expunge unlearn --run RUN --forget random:10% scrub")
    return 0


def _arguments() -> type[Arguments]:
    """The options with one subcommand per pruner."""
    choices = tuple(
        Annotated[plugin.config, tyro.conf.subcommand(name.replace("_", "-"), description=plugin.summary)]
        for name, plugin in registry.plugins("pruning").items()
    )
    field = ("pruner", Annotated[Union[choices], tyro.conf.arg(name="")])  # noqa: UP007 - built at run time
    return dataclasses.make_dataclass("Arguments", [field], bases=(Arguments,), frozen=True, kw_only=True)


def _retraining(original: GivesModel, given: Arguments) -> Training | None:
    """The plan of training under the mask, where it is not that of the original."""
    plan = original.training
    if given.epochs is not None:
        plan = dataclasses.replace(plan, epochs=given.epochs, stop_after=None)
    if given.lr is not None:
        plan = dataclasses.replace(plan, rule=dataclasses.replace(plan.rule, lr=given.lr))
    return None if plan == original.training else plan
