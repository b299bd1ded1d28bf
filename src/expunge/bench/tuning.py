"""The search for hyperparameters: on the validation split, at the same budget for every method.

The test set takes no part: what is minimised is the average gap to the retrained model with validation images in
place of test images, on a training and a forget set (``seed``) that no comparison need use again.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.bench import local
from expunge.bench.grid import Comparison, labelled
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
    """One unlearning that was tried."""

    text: str
    """The method with its options."""
    gap: float | None
    """Average gap to the retrained model on the validation split, in points; None where the run failed."""


@dataclass(frozen=True)
class Search:
    """What was tried for one method, in order; the first trial has its defaults."""

    method: str
    """The label of the method."""
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the smallest gap.

        Raises:
            RequestError: None succeeded.
        """
        done = [trial for trial in self.trials if trial.gap is not None]
        if not done:
            raise RequestError(f"every trial of {self.method} failed: give it other defaults")
        return min(done, key=lambda trial: trial.gap or 0.0)

    @property
    def source(self) -> str:
        """Where the best options came from."""
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

    Each method is tried ``trials`` times: with the options that the comparison gives it, then with those that a
    Gaussian process proposes (a random start of three). What a method says in the comparison (``epochs=5``) is
    fixed unless it is among the options that it declares for the search. Runs are kept, so that a search that was
    stopped goes on where it was. Cost: ``trials`` unlearnings a method, one training and one retraining.
    """
    if trials < 1:
        raise RequestError(f"trials must be at least 1, got {trials}")
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
    """Raise a RunError with its reason if the model to compare with, or its original, could not be made."""
    for wanted in (reference.original, reference):
        directory = store.directory(run_id(wanted))
        if directory.exists and not directory.finished:
            raise RunError(f"there is nothing to compare with: {directory.id} failed: {directory.record()['reason']}")


def _run_of(wanted: Comparison, text: str | None, seed: int) -> UnlearnConfig:
    """The unlearning by this text at the seed of the search; without a text, retraining."""
    chosen = retraining(wanted.training) if text is None else presets.named(text)
    return UnlearnConfig(wanted.original(seed), wanted.forget, chosen, seed, wanted.precision, seed)


def _gap(store: Store, subject: UnlearnConfig, reference: Subject, seed: int) -> float | None:
    if not store.directory(run_id(subject)).finished:
        return None
    value = _judge(store, subject, reference, seed).values["average_gap"]
    return value if math.isfinite(value) else None


def _judge(store: Store, wanted: UnlearnConfig, reference: Subject | None, seed: int) -> Subject:
    """A run with its metrics, where validation images are what it is tested on."""
    found = subject_of(store.directory(run_id(wanted)), reference=reference)
    splits = {"forget": found.splits["forget"], "retain": found.splits["retain"], "test": found.splits["validation"]}
    if not len(splits["test"]):
        raise RequestError("the search needs a validation split: give the data a validation share above 0")
    judged = dataclasses.replace(found, splits=splits)
    evaluate(judged, [config.parse("metrics", "average_gap")], Context(randomness.generator(seed, "evaluation")))
    return judged


class _Study:
    """The trials of one method: asks for the next options, is told how they did."""

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
            warnings.simplefilter("ignore")  # the sampler calls itself experimental
            sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=3, deterministic_objective=True)
        self.study = optuna.create_study(sampler=sampler)
        self.asked: dict[str, Any] = {}

    def ask(self) -> str:
        """The method with the options to try next; its own defaults at first, and where there is nothing to search."""
        if not self.told or not self.space:
            return self.text
        trial = self.study.ask(self.distributions)
        text = with_options(self.text, {key: f"{value:.3g}" for key, value in trial.params.items()})
        self.asked[text] = trial
        return text

    def tell(self, text: str, gap: float | None) -> None:
        """How the options that were asked for did."""
        self.told.append(Trial(text, gap))
        if text in self.asked:
            states = _optuna().trial.TrialState
            state = states.FAIL if gap is None else states.COMPLETE
            self.study.tell(self.asked.pop(text), gap, state=state)
        elif gap is not None and self.space:
            self._tell_of_defaults(gap)

    def _tell_of_defaults(self, gap: float) -> None:
        """The defaults are a trial too, if they lie within the bounds of the search."""
        given = presets.named(self.text)
        values = {key: presets.option(given, key) for key in self.space}
        if all(isinstance(v, (int, float)) and self.space[k][0] <= v <= self.space[k][1] for k, v in values.items()):
            trial = _optuna().create_trial(params=values, distributions=self.distributions, value=gap)
            self.study.add_trial(trial)


def with_options(text: str, options: Mapping[str, str]) -> str:
    """The text form of a method with these options added or changed."""
    name, _, rest = text.partition(":")
    parts = [part for part in rest.split(",") if part and part.partition("=")[0] not in options]
    return f"{name}:{','.join([*parts, *(f'{key}={value}' for key, value in options.items())])}"


def space(text: str) -> dict[str, tuple[float, float]]:
    """The options to search for a method in its text form, each with its least and largest value.

    Bounds of ``lr`` are meant for SGD. A rule per role has a rate for each role, and those of AdamW and Lion,
    whose steps do not depend on the size of the gradient, are a hundredth of them.
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
    """The library of the search, which is an extra.

    Raises:
        RequestError: It is not installed.
    """
    try:
        import optuna  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RequestError("the search needs an extra: pip install 'expunge[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def to_data(wanted: Comparison, searches: Sequence[Search], seed: int) -> dict[str, object]:
    """The best of each search as JSON-ready data, beside what the defaults gave."""
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
