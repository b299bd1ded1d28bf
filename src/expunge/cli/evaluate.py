"""Measure an unlearned model: accuracies, membership attack, distance, and the gap to retraining."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from expunge.cli import _console
from expunge.core import config
from expunge.runs.evaluate import EvaluateConfig, every_metric, shadow_models
from expunge.store import execute
from expunge.store.examples import forgotten_words
from expunge.store.run import run_id
from expunge.unlearning import presets


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge evaluate`."""

    run: _console.RunPath
    """The run of `expunge unlearn` to measure."""
    reference: _console.RunPath | None = None
    """The run of `expunge unlearn ... retrain` on the same forget set, to compare with."""
    metrics: tuple[str, ...] = ()
    """Only these metrics, see `expunge list metrics`; options follow a colon: membership_svc:exact=true."""
    seed: int = 0
    """Seed of random choices within metrics."""
    shadows: int = 0
    """Attack the model by lira with this many shadow models, 16 say; the first time, each takes half a training."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate, or find the run that exists already."""
    given = _console.parse(Arguments, "evaluate", __doc__, arguments)
    store, subject = _console.open_unlearned(given.run)
    reference = None if given.reference is None else _console.open_unlearned(given.reference)[1]
    metrics = tuple(config.parse("metrics", text) for text in given.metrics) or every_metric()
    shadows = shadow_models(subject.original, given.shadows)
    wanted = EvaluateConfig(subject, reference, metrics, given.seed, shadows)
    with _console.session(given, shadows) as session:
        directory = execute.run(wanted, store, session)
    _console.say_strength(presets.label(subject.unlearning), store.directory(run_id(subject)))
    record = directory.record()
    if given.json:
        _console.print_json({"run": str(directory.path), **record})
        return 0
    values = cast("dict[str, float | None]", record["metrics"])
    rows = [(name, "not defined" if value is None else f"{value:.4g}") for name, value in values.items()]
    _console.say(forgotten_words(store.directory(run_id(subject))))
    _console.print_table(directory.id, ("metric", "value"), rows)
    return 0
