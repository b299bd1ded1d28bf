"""The metrics of one unlearned model, compared with its reference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, cast

import torch

from expunge.core import randomness, registry
from expunge.core.config import Choice, read_texts
from expunge.core.errors import RequestError
from expunge.data.forget_sets.random import RandomForget
from expunge.evaluation.predictions import (
    FORGOTTEN,
    WITHHELD,
    Shadows,
    Subject,
    evaluate,
    parted,
    stored_predictions,
)
from expunge.methods.retrain import RetrainConfig
from expunge.runs.prune import scenario
from expunge.runs.unlearn import UnlearnConfig, first_model, forgotten_sets, retraining
from expunge.store import run
from expunge.store.directory import Draft, Record, RunDirectory, Store
from expunge.store.examples import lacked_images
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.context import Context


def every_metric() -> tuple[object, ...]:
    """Return the default configurations of all metrics."""
    return tuple(plugin.config() for plugin in registry.plugins("metrics").values())


@dataclass(frozen=True)
class EvaluateConfig:
    """The metrics of one unlearned model, compared with its reference."""

    subject: Annotated[UnlearnConfig, Choice("runs", model=True)]
    """The unlearned model."""
    reference: Annotated[UnlearnConfig, Choice("runs", model=True)] | None = None
    """The retrained model to compare with."""
    metrics: tuple[Annotated[object, Choice("metrics")], ...] = field(default_factory=every_metric)
    """The metrics; by default all, listed by name, so that adding a metric changes the evaluation."""
    seed: int = 0
    """Seed of random choices within metrics."""
    shadows: tuple[Annotated[UnlearnConfig, Choice("runs", model=True)], ...] = ()
    """Shadow models for the attack ``lira``: see :func:`shadow_models`; none by default."""

    def __post_init__(self) -> None:
        """Check that the reference is a retrained model with the same data, forget set and architecture."""
        read_texts(self)
        for each in (self.subject, self.reference, *self.shadows):
            if each is not None and run.kind(each) != "unlearn":
                raise RequestError(f"a run of `expunge unlearn` is needed, this is one of {run.kind(each)}")
        if self.reference is None:
            return
        if not isinstance(self.reference.unlearning.method, RetrainConfig):
            given = registry.of_config("methods", self.reference.unlearning.method).name
            raise RequestError(f"the reference must be a run of `expunge unlearn ... retrain`, this is one of {given}")
        reference, subject = ((each.data, forgotten_sets(each)) for each in (self.reference, self.subject))
        if reference != subject:
            raise RequestError(
                "the reference has forgotten other examples than the model to evaluate: retrain with the same data, "
                "--forget and --forget-seed"
            )
        if self.reference.model != self.subject.model:
            raise RequestError("the reference has another architecture than the model to evaluate: retrain the latter")


def check_shadows(count: int) -> None:
    """Raise a RequestError unless the number of shadow models is 0 or at least 4.

    With fewer, the spread of the losses cannot be estimated for many examples.
    """
    if count and count < 4:
        raise RequestError(f"shadows must be 0 or at least 4 (16 is usual), got {count}")


SHADOW_SEED = 1_000_000
"""The first seed of shadow models, distinct from those of comparisons: with one seed, small random forget sets are
subsets of large ones."""


def shadow_models(original: GivesModel, count: int) -> tuple[UnlearnConfig, ...]:
    """Return shadow models of an original: its training repeated without a random half of the examples each.

    They depend on the original only, so all methods and forget sets share them.

    Raises:
        RequestError: The count is 1, 2 or 3.
    """
    check_shadows(count)
    half, again = RandomForget(share=0.5), retraining(original.training)
    seeds = range(SHADOW_SEED, SHADOW_SEED + count)
    return tuple(UnlearnConfig(original, half, again, seed, original.precision, seed) for seed in seeds)


def _parents(config: EvaluateConfig) -> dict[str, object]:
    return {"original": first_model(config.subject)}


def _label(config: EvaluateConfig) -> str:
    return run.label(config.subject)


def _name(config: EvaluateConfig) -> str:
    return f"{run.label(config.subject)}-s{config.subject.seed}"


def _scenario(config: EvaluateConfig) -> str:
    return scenario(first_model(config.subject))


@registry.run(label=_label, name=_name, parents=_parents, scenario=_scenario)
def work(config: EvaluateConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Evaluate an unlearned model from its stored predictions and weights, without running it."""
    return measured(config, parents, session)


def measured(config: EvaluateConfig, parents: Mapping[str, RunDirectory], session: Session) -> Record:
    """Compute the metrics and the seconds of an evaluation from the runs that it reads."""
    reference, shadows = None, shadows_of([parents[role] for role in parents if role.startswith("shadows.")], session)
    if config.reference is not None:
        judged = replace(config, subject=config.reference, reference=None)
        directories = {"subject": parents["reference"], "original": parents["original"]}
        key = (directories["subject"].path, run.run_id(judged), parents["reference"].record()["finished"])
        reference = session.cached(key, lambda: _judge(judged, directories, None, shadows, session)[0])
    subject, values = _judge(config, parents, reference, shadows, session)
    metrics = {name: value if math.isfinite(value) else None for name, value in values.items()}
    notes = cast("Record", parents["subject"].record().get("notes") or {})
    kept = {key: notes[key] for key in ("unchanged", "hardly_changed") if key in notes}
    return {"metrics": metrics, "seconds": dict(subject.seconds), "notes": kept}


TOLERANCE = 1e-4
"""The relative difference, of values below 1 the absolute one, at which a metric that is computed again counts as
another: on the same machine with as many threads there is none."""


def is_finished(directory: RunDirectory) -> bool:
    """Return whether a run is an evaluation that succeeded."""
    record = directory.record()
    return (record["kind"], record["status"]) == ("evaluate", "finished")


def differences(directory: RunDirectory, session: Session) -> list[str]:
    """Compute the metrics of an evaluation again and return those that differ from the stored ones, with both values.

    Predictions are taken as they are stored: they are not computed again from the model and the images.

    Raises:
        RequestError: A run that it reads is missing or damaged, or this is no evaluation.
    """
    config, store = run.open_config(directory), Store(directory.path.parent)
    if not isinstance(config, EvaluateConfig):
        raise RequestError(f"{directory.path} is no evaluation")
    parents = {role: store.directory(run.run_id(parent)) for role, parent in run.parents(config).items()}
    again, stored = map(_values, (measured(config, parents, session), directory.record()))
    pairs = {name: (stored.get(name, "missing"), again.get(name, "missing")) for name in sorted(again | stored)}
    return [
        f"{name} is {there}, but {computed} when it is computed again from the stored predictions"
        for name, (there, computed) in pairs.items()
        if not _same(there, computed)
    ]


def _values(record: Record) -> dict[str, object]:
    """The metrics and the seconds of an evaluation."""
    metrics, seconds = (cast("Mapping[str, object]", record.get(key, {})) for key in ("metrics", "seconds"))
    return {**metrics, **{f"seconds.{name}": value for name, value in seconds.items()}}


def _same(stored: object, again: object) -> bool:
    if isinstance(stored, int | float) and isinstance(again, int | float):
        return math.isclose(stored, again, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return stored is None and again is None


def _judge(
    config: EvaluateConfig,
    directories: Mapping[str, RunDirectory],
    reference: Subject | None,
    shadows: Shadows | None,
    session: Session,
) -> tuple[Subject, dict[str, float]]:
    """Evaluate a run: its subject, and the values of the metrics.

    If it or its reference lacked images, and so has no predictions of them, metrics that cannot be computed are left
    out.
    """
    subject = subject_of(directories["subject"], directories["original"], reference, shadows)
    context = Context(randomness.generator(config.seed, "evaluation"), session.device)
    judged = [directories[role] for role in ("subject", "reference") if role in directories]
    left_out: dict[str, str] | None = {} if any(map(lacked_images, judged)) else None
    return subject, evaluate(subject, config.metrics, context, left_out)


def shadows_of(runs: Sequence[RunDirectory], session: Session) -> Shadows | None:
    """Return the log-odds and memberships of the training and validation examples under all shadow models, if any."""
    if not runs:
        return None

    def joined() -> Shadows:
        seen = [_shadow(directory) for directory in runs]
        return Shadows(seen[0].ids, torch.cat([one.log_odds for one in seen]), torch.cat([one.inside for one in seen]))

    return session.cached((runs[0].path, *(directory.record()["finished"] for directory in runs)), joined)


def _shadow(directory: RunDirectory) -> Shadows:
    """One shadow model; its logits are reduced to log-odds."""
    splits, stored = stored_predictions(directory)
    parts = [splits[name] for name in ("train", "validation") if len(splits[name])]
    ids, log_odds = torch.cat([part.ids for part in parts]), torch.cat([part.log_odds() for part in parts])
    inside = torch.isin(ids, splits["train"].ids) & ~torch.isin(ids, stored[FORGOTTEN])
    return Shadows(ids, log_odds[None], inside[None])


def subject_of(
    directory: RunDirectory,
    original: RunDirectory | None = None,
    reference: Subject | None = None,
    shadows: Shadows | None = None,
) -> Subject:
    """Read the subject of the metrics from an unlearn run and from the run of the model before it."""
    splits, stored = stored_predictions(directory)
    model, forgotten, withheld = directory.model(), stored[FORGOTTEN], stored.get(WITHHELD)
    before, parts = None, parted(splits, forgotten, withheld)
    if original is not None:  # on the same images: some may have been deleted since
        old = parted(stored_predictions(original)[0], forgotten, withheld)
        shared = {name: part.select(torch.isin(part.ids, parts[name].ids)) for name, part in old.items()}
        before = Subject(shared, original.weights())
    return Subject(
        splits=parts,
        weights=model.weights,
        original=before,
        sparsity=model.kept,
        seconds=directory.seconds(),
        scores={key.removeprefix("scores."): stored[key] for key in stored if key.startswith("scores.")},
        reference=reference,
        shadows=shadows,
    )
