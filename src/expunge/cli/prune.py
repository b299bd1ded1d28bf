"""Make a trained model sparse, train it on under its mask, and print the folder of the new run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.cli import _console, _plugin
from expunge.core import config, registry
from expunge.runs.prune import PruneConfig
from expunge.store import execute
from expunge.store.run import GivesModel
from expunge.training.fit import Training
from expunge.training.precision import RequestedPrecision, chosen


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge prune`."""

    run: _console.RunPath
    """The run whose model is to be pruned: of `expunge train`, `prune`, `import` or `unlearn`."""
    rewind: int | None = None
    """Rewind the remaining weights to this epoch of the original training (0: initialisation) and go on from there;
    by default they keep their trained values, and the schedule restarts."""
    epochs: int | None = None
    """Epochs of training under the mask; by default as many as the original's."""
    lr: float | None = None
    """Learning rate of training under the mask; by default the original's."""
    seed: int = 0
    """Seed of the order of examples and the augmentation, and of random pruning."""
    precision: RequestedPrecision = "auto"
    """Of the forward passes: float32, bfloat16, or mixed, which is bfloat16 in networks that gain from it; auto takes
    mixed where this machine is faster in bfloat16, and float32 elsewhere."""


def run(arguments: Sequence[str]) -> int:
    """Prune, round by round, or find the run that exists already."""
    pruners = registry.plugins("pruning")
    names = [*pruners, *(alias for plugin in pruners.values() for alias in plugin.mark.aliases)]
    listed = ", ".join(name.replace("_", "-") for name in pruners)
    description = (
        f"{__doc__}\n\nusage: expunge prune --run RUN PRUNER [options of the pruner]\n\npruners: {listed}; "
        "`expunge prune PRUNER --help` shows the options of one"
    )
    word = next((each for each in arguments if each.replace("-", "_") in names), None)
    if word is not None and {"-h", "--help"} & set(arguments):
        plugin = registry.find("pruning", word)
        usage = f"expunge prune --run RUN {plugin.name.replace('_', '-')} [options]"
        _plugin.print_options(usage, plugin.summary, {f"options of {plugin.name}": ("", plugin.config())})
        return 0
    given, words = _plugin.parse(Arguments, "prune", description, arguments)
    name, options = _plugin.named(words, names, "pruner")
    plugin = registry.find("pruning", name)
    pruner = config.override(plugin.config, {}, options, plugin.name)
    store, original = _console.open_original(given.run)
    precision = chosen(given.precision, _console.device(given.device))
    wanted = PruneConfig(original, pruner, given.rewind, _retraining(original, given), precision, given.seed)
    with _console.session(given, [wanted]) as session:
        directory = execute.run(wanted, store, session)
    _console.report_run(directory, given, "unlearn: expunge unlearn --run RUN --forget random:10% scrub")
    return 0


def _retraining(original: GivesModel, given: Arguments) -> Training | None:
    """The plan of training under the mask, where it is not that of the original."""
    plan = original.training
    if given.epochs is not None:
        plan = dataclasses.replace(plan, epochs=given.epochs, steps=None, stop_after=None)
    if given.lr is not None:
        plan = dataclasses.replace(plan, rule=dataclasses.replace(plan.rule, lr=given.lr))
    return None if plan == original.training else plan
