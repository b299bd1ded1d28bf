"""Hyperparameter search on the validation set, with the same budget for every method.

The objective is the average gap to the retrained model, with validation images instead of test images, on a model and
a forget set whose ``seed`` differs from those of comparisons. The test set is not used.
"""

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch

from expunge.bench import local
from expunge.bench.grid import Comparison, labelled, settled
from expunge.bench.local import Board, Watcher
from expunge.core import config, randomness
from expunge.core.errors import RequestError, RunError
from expunge.evaluation.predictions import Subject, evaluate
from expunge.runs.evaluate import subject_of
from expunge.runs.unlearn import UnlearnConfig, retraining
from expunge.store.directory import Store
from expunge.store.run import run_id
from expunge.training.context import Context
from expunge.unlearning import presets


@dataclass(frozen=True)
class Trial:
    """One trial of a search."""

    text: str
    """The method with its options."""
    gap: float | None
    """Average gap to the retrained model on the validation set, in points; None if the run failed."""


@dataclass(frozen=True)
class Search:
    """The trials of one method, in order; the first has its defaults."""

    method: str
    """The label of the method."""
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the smallest gap.

        Raises:
            RequestError: All trials failed.
        """
        done = [trial for trial in self.trials if trial.gap is not None]
        if not done:
            raise RequestError(f"all trials of {self.method} failed: give it other defaults")
        return min(done, key=lambda trial: trial.gap or 0.0)

    @property
    def source(self) -> str:
        """The origin of the best options."""
        if self.best == self.trials[0]:
            return f"the method's own defaults, the best of {len(self.trials)} trials"
        return f"search, the best of {len(self.trials)} trials"


def tune(
    wanted: Comparison,
    store: Store,
    *,
    trials: int = 8,
    seed: int = 100,
    jobs: int = 1,
    device: str = "cpu",
    retry: bool = False,
    watch: Watcher | None = None,
) -> list[Search]:
    """Search the options of every method of a comparison.

    Each method has ``trials`` trials: first with its options in the comparison, then with proposals of a Gaussian
    process (after three random ones). Options set in the comparison (``epochs=5``) are fixed unless the method declares
    them for the search. Runs are stored, so an interrupted search can be continued. Cost: ``trials`` unlearnings per
    method, one training and one retraining.
    """
    if trials < 1:
        raise RequestError(f"trials must be at least 1, got {trials}")
    wanted = settled(wanted, torch.device(device))
    studies = [_Study(method, seed) for method in wanted.methods]
    reference, judged, board = _run_of(wanted, None, seed), None, Board()
    for _ in range(trials):
        texts = [study.ask() for study in studies]
        subjects = [_run_of(wanted, text, seed) for text in texts]
        local.make([reference, *subjects], store, jobs=jobs, device=device, retry=retry, watch=watch, board=board)
        _check_reference(store, reference)
        judged = judged or _judge(store, reference, None, seed)
        for study, text, subject in zip(studies, texts, subjects, strict=True):
            study.tell(text, _gap(store, subject, judged, seed))
    return [Search(study.label, tuple(study.told)) for study in studies]


def _check_reference(store: Store, reference: UnlearnConfig) -> None:
    """Raise a RunError with the reason if the retrained model or its original failed."""
    for wanted in (reference.original, reference):
        directory = store.directory(run_id(wanted))
        if directory.exists and not directory.finished:
            raise RunError(f"there is no reference: {directory.id} failed: {directory.record()['reason']}")


def _run_of(wanted: Comparison, text: str | None, seed: int) -> UnlearnConfig:
    """The unlearning with this text at the seed of the search; without a text, retraining."""
    chosen = retraining(wanted.training) if text is None else presets.named(text)
    original = wanted.original(seed)
    return UnlearnConfig(original, wanted.forget, chosen, seed, original.precision, seed)


def _gap(store: Store, subject: UnlearnConfig, reference: Subject, seed: int) -> float | None:
    if not store.directory(run_id(subject)).finished:
        return None
    value = _judge(store, subject, reference, seed).values["average_gap"]
    return value if math.isfinite(value) else None


def _judge(store: Store, wanted: UnlearnConfig, reference: Subject | None, seed: int) -> Subject:
    """Evaluate a run with validation images as the test set."""
    found = subject_of(store.directory(run_id(wanted)), reference=reference)
    splits = {"forget": found.splits["forget"], "retain": found.splits["retain"], "test": found.splits["validation"]}
    if not len(splits["test"]):
        raise RequestError("the search needs a validation set: give the data a validation share above 0")
    judged = dataclasses.replace(found, splits=splits)
    evaluate(judged, [config.parse("metrics", "average_gap")], Context(randomness.generator(seed, "evaluation")))
    return judged


class _Study:
    """The trials of one method, by Optuna's ask-and-tell interface."""

    def __init__(self, method: str, seed: int) -> None:
        self.text, label = labelled(method)
        self.label = label or presets.canonical(self.text.partition(":")[0])
        self.told: list[Trial] = []
        self.space = space(self.text)
        optuna = _optuna()
        self.distributions = {
            key: optuna.distributions.FloatDistribution(low, high, log=low > 0)
            for key, (low, high) in self.space.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sampler warns that it is experimental
            sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=3, deterministic_objective=True)
        self.study = optuna.create_study(sampler=sampler)
        self.asked: dict[str, Any] = {}

    def ask(self) -> str:
        """Return the method with the options to try next: its defaults at first, or if no option is searched."""
        if not self.told or not self.space:
            return self.text
        trial = self.study.ask(self.distributions)
        text = with_options(self.text, {key: f"{value:.3g}" for key, value in trial.params.items()})
        self.asked[text] = trial
        return text

    def tell(self, text: str, gap: float | None) -> None:
        """Record the gap of a trial; defaults are reported to the sampler if they are within the search space."""
        self.told.append(Trial(text, gap))
        optuna = _optuna()
        if text in self.asked:
            state = optuna.trial.TrialState.FAIL if gap is None else optuna.trial.TrialState.COMPLETE
            self.study.tell(self.asked.pop(text), gap, state=state)
        elif gap is not None and self.space:
            given = presets.named(self.text)
            values = {key: presets.option(given, key) for key in self.space}
            bounds = self.space.items()
            if all(isinstance(v := values[key], (int, float)) and low <= v <= high for key, (low, high) in bounds):
                trial = optuna.create_trial(params=values, distributions=self.distributions, value=gap)
                self.study.add_trial(trial)


def with_options(text: str, options: Mapping[str, str]) -> str:
    """Return the text form of a method with these options added or changed."""
    name, _, rest = text.partition(":")
    parts = [part for part in rest.split(",") if part and part.partition("=")[0] not in options]
    return f"{name}:{','.join([*parts, *(f'{key}={value}' for key, value in options.items())])}"


def space(text: str) -> dict[str, tuple[float, float]]:
    """Return the options to search for a method in its text form, each with its smallest and largest value.

    The declared range of ``lr`` is for SGD. With a rule per role, each role has its own learning rate; for AdamW and
    Lion, whose steps do not depend on the scale of the gradient, the range is divided by 100.
    """
    found: dict[str, tuple[float, float]] = {}
    for key, (low, high) in presets.search_space(text.partition(":")[0]).items():
        rates = presets.rules(presets.named(text)) if key == "lr" else {}
        for name, rule in rates.items():
            factor = 1.0 if rule.optimizer == "sgd" else 0.01
            found[f"{name}.lr" if name else "lr"] = (low * factor, high * factor)
        if not rates:
            found[key] = (low, high)
    return found


def _optuna() -> Any:
    """Import Optuna, an optional dependency.

    Raises:
        RequestError: It is not installed.
    """
    try:
        import optuna  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RequestError("the search needs an extra: pip install 'expunge[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def tuned(name: str) -> tuple[str, ...]:
    """Return the methods of a recipe with the options that a search found for them.

    ``recipes/tuned/NAME.json`` has them, with all trials and the command of the search.
    """
    text = (files("expunge.bench.recipes") / "tuned" / f"{name}.json").read_text(encoding="utf-8")
    found = json.loads(text)["methods"]
    return tuple(f"{method['method']} as {method['label']}" for method in found)


def to_data(wanted: Comparison, searches: Sequence[Search], seed: int) -> dict[str, object]:
    """Return the best trial of each search as JSON-ready data, with the gap of the defaults and all trials."""
    return {
        "comparison": wanted.name,
        "seed": seed,
        "objective": "average gap to retraining on the validation split, in points",
        "methods": [
            {
                "label": search.method,
                "method": search.best.text,
                "source": search.source,
                "gap": search.best.gap,
                "default_gap": search.trials[0].gap,
                "trials": [{"method": trial.text, "gap": trial.gap} for trial in search.trials],
            }
            for search in searches
        ],
    }
